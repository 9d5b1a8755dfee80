"""OpenTelemetry: a span for each run of a handler, linked to where its messages come from, and the context in what it produces.

Only where `instrumentation.traces` asks for it, and then made in the worker, after the fork: the exporter has a thread and a lock of its
own, which no fork survives. Nothing of it is imported otherwise, and a handler is called as if this module did not exist.

Names are those of OpenTelemetry's semantic conventions for messaging and Kafka, which are still in development; `swarm.*` are ours.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer

from swarm import __version__
from swarm.headers import Given
from swarm.message import Message, Messages
from swarm.plan import Plan

MOST_LINKS: Final = 128
"""Links of one span: what the SDK keeps by default (OTEL_SPAN_LINK_COUNT_LIMIT)."""
FAREWELL: Final = 2000
"""Milliseconds that the last spans get at a stop."""


class _Headers(Getter[Sequence[tuple[str, bytes | None]]]):
    """Reads a context out of a message's headers."""

    def get(self, carrier: Sequence[tuple[str, bytes | None]], key: str) -> list[str] | None:
        found = [
            value.decode("utf-8", "replace") for name, value in carrier if name.lower() == key and value is not None
        ]
        return found or None

    def keys(self, carrier: Sequence[tuple[str, bytes | None]]) -> list[str]:
        return [name for name, _ in carrier]


_HEADERS: Final = _Headers()


def origin_of(message: Message) -> Link | None:
    """A link to the span in which a message was produced; None where its headers tell of none."""
    headers = message.headers
    if not headers:
        return None
    context = trace.get_current_span(propagate.extract(headers, Context(), _HEADERS)).get_span_context()
    return Link(context, {"messaging.kafka.offset": message.offset}) if context.is_valid else None


class Tracing:
    """The tracing of one worker. Any processing thread, and the event loop's, may use it."""

    def __init__(
        self,
        tracer: Tracer,
        worker: int,
        shutdown: Callable[[], None] = lambda: None,
        hide: Callable[[str], str] = lambda text: text,
    ) -> None:
        """hide: takes secrets out of a text; errors quote them."""
        self._tracer = tracer
        self._worker = worker
        self._hide = hide
        self.shutdown = shutdown
        """Send what is left; blocks for some 2 s at most."""

    # -- consuming ---------------------------------------------------------------------------------------------------

    def around(self, plan: Plan, group: str, handler: Callable[[Any], Any], asynchronous: bool) -> Callable[[Any], Any]:
        """The handler with a span around each call: of a batch, or in `each` of a message."""
        span = self._message if plan.each else self._batch

        def traced(argument: Any) -> Any:
            with span(group, argument):
                return handler(argument)

        async def traced_async(argument: Any) -> Any:
            with span(group, argument):
                return await handler(argument)

        return traced_async if asynchronous else traced

    @contextmanager
    def _batch(self, group: str, messages: Messages) -> Iterator[None]:
        links: list[Link] = []
        for message in messages:
            if len(links) == MOST_LINKS:
                break
            link = origin_of(message)
            if link is not None:
                links.append(link)
        attributes = self._of(group, messages.topic, messages.partition, messages._attempt) | {
            "messaging.batch.message_count": len(messages),
            "swarm.first_offset": messages.first_offset,
            "swarm.last_offset": messages.last_offset,
        }
        with self._run(messages.topic, attributes, links):
            yield

    @contextmanager
    def _message(self, group: str, message: Message) -> Iterator[None]:
        link = origin_of(message)
        attributes = self._of(group, message.topic, message.partition, message.attempt)
        attributes["messaging.kafka.offset"] = message.offset
        key = message.key
        if key is not None and (text := _readable(key)) is not None:
            attributes["messaging.kafka.message.key"] = text
        if message.raw is None:
            attributes["messaging.kafka.message.tombstone"] = True
        with self._run(message.topic, attributes, [link] if link is not None else []):
            yield

    def _of(self, group: str, topic: str, partition: int, attempt: int) -> dict[str, Any]:
        return {
            "messaging.system": "kafka",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": topic,
            "messaging.destination.partition.id": str(partition),
            "messaging.consumer.group.name": group,
            "swarm.attempt": attempt,
            "swarm.worker": self._worker,
        }

    @contextmanager
    def _run(self, topic: str, attributes: Mapping[str, Any], links: Sequence[Link]) -> Iterator[None]:
        # A trace of its own, whatever the thread did before: a batch has many origins, and none of them is its parent.
        with self._tracer.start_as_current_span(
            f"process {topic}",
            context=Context(),
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            links=links,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except BaseException as error:
                self._failed(span, error)
                raise

    def _failed(self, span: Span, error: BaseException) -> None:
        kind = type(error).__qualname__
        text = self._hide(str(error))
        span.set_attribute("error.type", kind)
        span.set_status(Status(StatusCode.ERROR, text[:200]))
        if isinstance(error, Exception):
            # Not `record_exception`, which would quote it as it is; the names are those of the semantic conventions.
            stack = self._hide("".join(traceback.format_exception(error)))
            span.add_event(
                "exception", {"exception.type": kind, "exception.message": text, "exception.stacktrace": stack}
            )

    # -- producing ---------------------------------------------------------------------------------------------------

    @contextmanager
    def sending(self, topic: str, headers: Given) -> Iterator[Given]:
        """A span around a call of `produce`, within another one; gives the headers with its context, unless they have one already.

        Outside any span there is none, and the headers are as they were: a dead letter keeps its own.
        """
        if not trace.get_current_span().get_span_context().is_valid:
            yield headers
            return
        attributes = {
            "messaging.system": "kafka",
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": topic,
        }
        with self._tracer.start_as_current_span(f"send {topic}", kind=SpanKind.PRODUCER, attributes=attributes):
            carrier: dict[str, str] = {}
            propagate.inject(carrier)
            own = list(headers.items() if isinstance(headers, Mapping) else headers or ())
            named = {name.lower() for name, _ in own}
            yield own + [(name, value) for name, value in carrier.items() if name not in named]


def _readable(key: bytes) -> str | None:
    """A key as text; None where it is none, for its bytes would tell nobody anything."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        return None


# -- set-up, after the fork ------------------------------------------------------------------------------------------


def of_application(worker: int, hide: Callable[[str], str]) -> Tracing:
    """Spans go to the provider that the application has set, in an `after_fork` hook."""
    return Tracing(trace.get_tracer("kafka-swarm", __version__), worker, hide=hide)


def over_otlp(name: str, host: str, worker: int, hide: Callable[[str], str]) -> Tracing:
    """Spans go to a collector by OTLP over HTTP, as OpenTelemetry's own variables say (OTEL_EXPORTER_OTLP_ENDPOINT, …). The provider is
    the process's, so that the application's own spans go the same way, inside of ours."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go before.
    ours = Resource({"service.name": name, "service.instance.id": f"{name}.{host}.{worker}"})
    provider = TracerProvider(resource=ours.merge(Resource.create()) if _is_named() else Resource.create().merge(ours))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)

    def shutdown() -> None:
        provider.force_flush(FAREWELL)

    return Tracing(trace.get_tracer("kafka-swarm", __version__), worker, shutdown, hide)


def _is_named() -> bool:
    return bool(os.environ.get("OTEL_SERVICE_NAME")) or "service.name=" in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
