"""What the way of a message costs in a worker without Kafka and without threads: the same messages through a bare loop and through a
worker's real inside (poller's pass, lanes, dispatcher, processor), which takes turns in one thread (`swarm.testing.stage`).

python benchmarks/path.py                       CPU nanoseconds per message, and function calls, of all forms
python benchmarks/path.py FORM [--passes N]     runs one form N times, for a profiler (perf, callgrind)
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final, cast

from confluent_kafka import Message as RawMessage

from swarm import App, Message, Messages, VirtualPartitions
from swarm.testing.fakes import FakeClient, FakeKafka
from swarm.testing.stage import Stage

PARTITIONS: Final = 6
RUN: Final = 400
"""Messages of one partition that come in a row."""
FETCH: Final = 2400
"""Messages that the client has in hand at each pass."""
FORMS: Final = ("bare", "batch", "values", "raw_values", "each", "async_each", "virtual")


class _Client(FakeClient):
    """Hands out the same records again and again, with the offsets that follow: making them is the library's work."""

    def __init__(self, chunk: list[RawMessage], passes: int, *rest: Any) -> None:
        super().__init__(*rest)
        self._chunk = chunk
        self.left = passes

    def fetch(self, most: int, timeout: float) -> list[RawMessage]:
        if not self.left:
            return []
        self.left -= 1
        return list(self._chunk)


def _chunk() -> list[RawMessage]:
    records = []
    for run in range(FETCH // RUN):
        partition = run % PARTITIONS
        for number in range(RUN):
            key = b"%d" % (number * 7 % 64)
            records.append(RawMessage(topic="t", partition=partition, offset=number, value=bytes(200), key=key))
    return records


def _app(form: str) -> App:
    app = App("path")
    if form == "each":

        @app.each("t")
        def one(message: Message) -> None:
            message.value  # noqa: B018

    elif form == "async_each":

        @app.each("t")
        async def one_async(message: Message) -> None:
            message.value  # noqa: B018

    elif form == "values":

        @app.subscribe("t")
        def values(messages: Messages) -> None:
            for message in messages:
                message.value  # noqa: B018

    elif form == "raw_values":

        @app.subscribe("t")
        def raw_values(messages: Messages) -> None:
            messages.raw_values()

    elif form == "virtual":

        @app.subscribe("t", virtual_partitions=VirtualPartitions("key", maximum=4))
        def slices(messages: Messages) -> None:
            pass

    else:

        @app.subscribe("t")
        def nothing(messages: Messages) -> None:
            pass

    return app


def _bare(passes: int) -> Callable[[], None]:
    chunk = _chunk()

    def run() -> None:
        for _ in range(passes):
            for at in range(0, FETCH, 500):
                for message in chunk[at : at + 500]:
                    if message.error() is not None:
                        raise RuntimeError
                    message.value()

    return run


@contextmanager
def _ours(form: str, passes: int) -> Iterator[Callable[[], None]]:
    kafka = FakeKafka()
    for partition in range(PARTITIONS):
        kafka.logs[("t", partition)] = []
    stage = Stage(_app(form), kafka, float("inf"))
    stage.events = cast(Any, _Nothing())
    (group,) = stage.groups
    stage.assign()
    client = _Client(_chunk(), 0, kafka, group.name, group)
    client.position = cast(Any, group._client).position
    group._client = cast(Any, client)
    stage.settle()
    cast(Any, group._bus)._sinks = []  # nobody listens, as in a worker above debug level
    cast(Any, group._bus)._by_type = {}

    def run() -> None:
        for _ in range(passes):
            client.left = 1
            group._pass()
            while stage._step():
                pass
            for lane in group.lanes.values():  # the same messages come again
                lane.fetch_next = lane.taken_end = lane.frontier = lane.retry_from = lane.committed = 0

    try:
        yield run
    finally:
        stage.close()


class _Nothing:
    def append(self, event: object) -> None:
        pass


def run_of(form: str, passes: int) -> AbstractContextManager[Callable[[], None]]:
    """One form, made ready; to call it runs it over `passes` * FETCH messages."""
    return nullcontext(_bare(passes)) if form == "bare" else _ours(form, passes)


def nanoseconds(form: str, passes: int = 1, tries: int = 60) -> float:
    """CPU time per message, the least of some tries."""
    best = float("inf")
    with run_of(form, passes) as run:
        run()
        gc.collect()
        for _ in range(tries):
            began = time.thread_time_ns()
            run()
            best = min(best, time.thread_time_ns() - began)
    return best / passes / FETCH


def calls(form: str, passes: int = 20) -> float:
    """Calls of functions, of Python and C, per batch, or per message for the forms that are called for each. Always the same."""
    counted = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    with run_of(form, passes) as run:
        run()
        sys.setprofile(count)
        try:
            run()
        finally:
            sys.setprofile(None)
    return counted / passes / (FETCH if "each" in form else FETCH // RUN)


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser()
    parser.add_argument("form", nargs="?", choices=FORMS)
    parser.add_argument("--passes", type=int, default=20)
    options = parser.parse_args()
    if options.form:
        with run_of(options.form, options.passes) as run:
            run()
        return
    print("form           ns per message    calls")
    for form in FORMS:
        print(f"{form:<12} {nanoseconds(form):8.0f}          {calls(form):9.1f}", flush=True)


if __name__ == "__main__":
    main()
