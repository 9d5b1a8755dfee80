"""Spans by OpenTelemetry's in-memory exporter: what they are called, where they come from, what goes along with what is produced."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import Message as RawMessage
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from swarm import Message, Messages
from swarm.plan import Plan, make_plan
from swarm.tracing import MOST_LINKS, Tracing

ORIGIN = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
TRACEPARENT = f"00-{ORIGIN[0]}-{ORIGIN[1]}-01"


class Spans:
    """A tracing whose spans are kept."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._provider = TracerProvider()
        self._provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self._provider.get_tracer("tests")
        self.tracing = Tracing(self.tracer, 2)

    @property
    def all(self) -> list[ReadableSpan]:
        """Those that have ended, in the order of their ends."""
        return list(self._exporter.get_finished_spans())

    def close(self) -> None:
        self._provider.shutdown()


@pytest.fixture
def spans() -> Iterator[Spans]:
    """A tracing of worker 2."""
    made = Spans()
    yield made
    made.close()


def record(offset: int, *headers: tuple[str, bytes], key: bytes | None = b"k", value: bytes | None = b"v") -> Any:
    return RawMessage(
        topic="orders", partition=3, offset=offset, key=key, value=value, headers=list(headers), timestamp=(1, 1)
    )


def plan(*, each: bool = False) -> Plan:
    return make_plan(handler=lambda _: None, topics=("orders",), each=each)


def links(span: ReadableSpan) -> list[tuple[str, str]]:
    return [(f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") for link in span.links]


def test_a_batch_is_a_span_with_links_to_where_its_messages_come_from(spans: Spans) -> None:
    """Named and described as the conventions for Kafka say; a message that tells of no origin has no link."""
    handle = spans.tracing.around(plan(), "shop", lambda messages: None, False)

    handle(
        Messages(
            [record(7, ("TraceParent", TRACEPARENT.encode())), record(8), record(9, ("traceparent", b"nonsense"))],
            None,
            2,
        )
    )

    [span] = spans.all
    assert (span.name, span.kind, span.parent) == ("process orders", SpanKind.CONSUMER, None)
    assert links(span) == [ORIGIN]
    assert dict(span.links[0].attributes or {}) == {"messaging.kafka.offset": 7}
    assert dict(span.attributes or {}) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "orders",
        "messaging.destination.partition.id": "3",
        "messaging.consumer.group.name": "shop",
        "messaging.batch.message_count": 3,
        "swarm.first_offset": 7,
        "swarm.last_offset": 9,
        "swarm.attempt": 2,
        "swarm.worker": 2,
    }
    assert span.status.status_code is StatusCode.UNSET


def test_each_message_is_a_span_with_its_offset_and_key(spans: Spans) -> None:
    """A key that is no text is left out, and a tombstone is named."""
    handle = spans.tracing.around(plan(each=True), "shop", lambda message: None, False)

    handle(Message(record(7, ("traceparent", TRACEPARENT.encode()))))
    handle(Message(record(8, key=b"\xff", value=None)))

    first, second = spans.all
    one, two = dict(first.attributes or {}), dict(second.attributes or {})
    assert links(first) == [ORIGIN]
    assert (one["messaging.kafka.offset"], one["messaging.kafka.message.key"]) == (7, "k")
    assert "messaging.batch.message_count" not in one
    assert "messaging.kafka.message.key" not in two
    assert two["messaging.kafka.message.tombstone"] is True
    assert first.context is not None
    assert second.context is not None
    assert first.context.trace_id != second.context.trace_id


def test_a_failed_run_says_so_and_the_error_goes_on(spans: Spans) -> None:
    """Its class is `error.type`, as the conventions want it."""

    def fail(_: object) -> None:
        raise KeyError("no such order")

    with pytest.raises(KeyError):
        spans.tracing.around(plan(), "shop", fail, False)(Messages([record(1)]))

    [span] = spans.all
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "KeyError"
    assert [event.name for event in span.events] == ["exception"]


def test_an_async_handler_is_inside_its_span(spans: Spans) -> None:
    """From its first line to its end, and what it opens itself is a child."""
    import asyncio

    async def handle(_: object) -> int:
        with spans.tracer.start_as_current_span("own"):
            await asyncio.sleep(0)
        return 5

    assert asyncio.run(spans.tracing.around(plan(), "shop", handle, True)(Messages([record(1)]))) == 5

    own, process = spans.all
    assert own.parent is not None
    assert process.context is not None
    assert own.parent.span_id == process.context.span_id


def test_links_are_bounded(spans: Spans) -> None:
    """As many as the SDK keeps: to read the headers of the others would be in vain."""
    handle = spans.tracing.around(plan(), "shop", lambda messages: None, False)

    handle(Messages([record(i, ("traceparent", TRACEPARENT.encode())) for i in range(MOST_LINKS + 50)]))

    [span] = spans.all
    assert len(span.links) == MOST_LINKS
    assert (span.attributes or {})["messaging.batch.message_count"] == MOST_LINKS + 50


def test_what_is_produced_inside_carries_the_context(spans: Spans) -> None:
    """Of a span of its own, behind the application's headers; one that has a context already keeps it."""
    written: list[Any] = []

    def produce(_: object) -> None:
        for headers in (None, {"a": "1"}, [("a", b"1")], [("traceparent", TRACEPARENT)]):
            with spans.tracing.sending("emails", headers) as given:  # type: ignore[arg-type]
                written.append(given)

    spans.tracing.around(plan(), "shop", produce, False)(Messages([record(1)]))

    *sends, process = spans.all
    assert {(span.name, span.kind) for span in sends} == {("send emails", SpanKind.PRODUCER)}
    assert process.context is not None
    for span, headers in zip(sends, written[:3], strict=False):
        assert span.parent is not None
        assert span.context is not None
        assert span.parent.span_id == process.context.span_id
        name, value = headers[-1]
        assert (name, value[:-2]) == ("traceparent", f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-")
    assert [headers[:-1] for headers in written[:3]] == [[], [("a", "1")], [("a", b"1")]]
    assert written[3] == [("traceparent", TRACEPARENT)]


def test_outside_of_any_span_headers_are_as_they_were(spans: Spans) -> None:
    """A dead letter, for example, keeps those of its message to the byte."""
    own: list[tuple[str, str | bytes | None]] = [("a", b"1")]

    with spans.tracing.sending("orders.dead", own) as given:
        assert given is own

    assert spans.all == []


def test_off_means_that_nothing_of_it_is_imported() -> None:
    """Neither by a worker's runtime nor by what a user imports."""
    code = """
import sys
import swarm.worker
from swarm.config import Settings
assert swarm.worker._tracing(Settings(), 0, str) is None
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
