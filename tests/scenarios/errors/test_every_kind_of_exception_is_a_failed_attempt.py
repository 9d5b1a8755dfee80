from __future__ import annotations

from collections.abc import Callable

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import asyncio
    import sys
    from swarm import App, Backoff
    from recording import record

    app = App("shop")
    backoff = Backoff(initial=0.05)

    class Own(BaseException):
        pass

    def fail(message):
        record(message)
        if message.attempt == 1:
            match message.raw:
                case b"exit":
                    sys.exit(3)
                case b"interrupt":
                    raise KeyboardInterrupt
                case b"generator":
                    raise GeneratorExit
                case b"own":
                    raise Own("a BaseException of the application")
                case b"cancelled":
                    raise asyncio.CancelledError
                case b"stop":
                    raise StopIteration

    @app.each("{plain}", backoff=backoff)
    def plain(message):
        fail(message)

    @app.each("{asynchronous}", backoff=backoff)
    async def asynchronous(message):
        await asyncio.sleep(0)
        fail(message)
"""

KINDS = ("exit", "interrupt", "generator", "own", "cancelled", "stop")


def test_every_kind_of_exception_is_a_failed_attempt_and_ends_neither_worker_nor_thread(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """SystemExit, KeyboardInterrupt, GeneratorExit, a cancellation: the message runs again in the same process."""
    plain, asynchronous = topic(), topic()
    daemon = swarm_project(APP.format(plain=plain, asynchronous=asynchronous), {"swarm": {"workers": 1}})
    daemon.expect_errors("consume_failed")
    recording = Recording(daemon.folder)
    for name in (plain, asynchronous):
        broker.produce(name, [(None, kind) for kind in KINDS] + [(None, "fine")])

    daemon.start()
    daemon.wait_for(lambda: len(recording.all(offset=len(KINDS))) == 2, what="the last message of both")
    assert daemon.stop() == 0

    for name in (plain, asynchronous):
        runs = [(each.offset, each.attempt) for each in recording.all(topic=name)]
        assert runs == [*((offset, attempt) for offset in range(len(KINDS)) for attempt in (1, 2)), (len(KINDS), 1)]
        errors = [event["error"] for event in daemon.events("consume_failed", topic=name)]
        assert errors[0] == "SystemExit: 3"
        assert errors[1] == "KeyboardInterrupt"
        assert errors[3] == "Own: a BaseException of the application"
    assert len({each.pid for each in recording.all()}) == 1
    assert daemon.events("thread_died") == []
