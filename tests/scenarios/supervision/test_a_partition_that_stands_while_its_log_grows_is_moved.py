"""A client that hears nothing of one partition any more, though the broker is there: it is sought anew, then its worker is replaced."""

from __future__ import annotations

from collections.abc import Callable

from tests.scenarios.supervision.explaining import until
from tests.support.daemon import Daemon
from tests.support.deafness import deafening_broker
from tests.support.recording import Recording

APP = """
    from swarm import App
    from recording import record

    app = App("shop")

    @app.each("orders")
    def order(message):
        record(message, "message")
"""


def test_a_partition_that_stands_while_its_log_grows_is_sought_and_then_its_worker_replaced(
    swarm_project: Callable[..., Daemon],
) -> None:
    """The other partition goes on all the time; a partition without new messages is not called so; nothing is lost or repeated."""
    with deafening_broker() as (broker, proxy):
        broker.create_topic("orders", 3)
        daemon = swarm_project(
            APP,
            {"swarm": {"workers": 1}, "supervision": {"standing_timeout": 4.0}, "log": {"level": "debug"}},
            bootstrap=broker.bootstrap,
        )
        recording = Recording(daemon.folder)

        def produce(partition: int) -> None:
            broker.produce("orders", [(None, str(number)) for number in range(10)], partition)

        def seen() -> dict[int, list[int]]:
            return {partition: sorted(offsets) for partition, offsets in recording.offsets("orders").items()}

        for partition in range(3):
            produce(partition)
        daemon.start().until_running()
        daemon.wait_for(lambda: sum(map(len, seen().values())) == 30, what="the first messages")
        proxy.deafen(0)
        for partition in (0, 1):
            produce(partition)
        (sought,) = daemon.wait_for_event("partition_stands", action="seek")
        said = until(daemon, "stands", "orders/0")["verdict"]
        (shown,) = [each for each in daemon.workers()[0]["assignment"] if each["standing"] is not None]
        produce(1)
        daemon.wait_for(lambda: len(seen()[0]) == 20, what="the partition to move")
        assert daemon.stop() == 0

    (replaced,) = daemon.events("partition_stands", action="replace")
    (exited, _) = daemon.events("worker_exited")
    (deaf, healed) = [line["pid"] for line in daemon.events("worker_started")]
    handled_by = {
        (line["pid"], line["first_offset"] >= 10)
        for line in daemon.events("batch_consumed", topic="orders", partition=0)
    }
    assert proxy.cut_answers > 0
    assert said.startswith("orders/0 has stood still at 10 for ")
    assert (sought["topic"], sought["partition"], sought["offset"], sought["end"]) == ("orders", 0, 10, 20)
    assert (replaced["partition"], replaced["offset"]) == (0, 10)
    assert (shown["partition"], shown["position"]) == (0, 10)
    assert handled_by == {(deaf, False), (healed, True)}, "it did not stand at all"
    assert (exited["reason"], exited["code"]) == ("partition_stands", 0)
    assert seen() == {0: list(range(20)), 1: list(range(30)), 2: list(range(10))}
