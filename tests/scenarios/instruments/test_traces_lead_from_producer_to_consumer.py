"""Spans reach a collector over OTLP, and lead from who produced a message, through a handler, to who consumed what that one produced."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from confluent_kafka import Producer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.daemon import Daemon
from tests.support.kafka import Broker

SHOP = """
    from swarm import App, Backoff

    app = App("shop")
    failed = []

    @app.each("ORDERS", backoff=Backoff(initial=0.01))
    def order(message, consumer):
        if not failed:
            failed.append(1)
            raise ValueError("once")
        consumer.producer.produce("EMAILS", b"mail", headers={"lang": "de"})

    @app.subscribe("EMAILS", group="mailer")
    def email(messages):
        pass
"""
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP on a free port of loopback."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[tuple[dict[str, str], Any]] = []
        """Of which resource, and the span."""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def named(self, name: str) -> list[Any]:
        return [span for _, span in list(self.spans) if span.name == name]


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
        for found in body.resource_spans:
            resource = {each.key: each.value.string_value for each in found.resource.attributes}
            self.server.spans += [(resource, span) for scope in found.scope_spans for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    server = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
    yield server
    server.shutdown()
    server.server_close()


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


def test_a_trace_leads_through_the_handler(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon], collector: Collector
) -> None:
    """The spans are made in the workers, after the fork; the last ones are sent at the stop."""
    orders, emails = topic(), topic()
    source = SHOP.replace("ORDERS", orders).replace("EMAILS", emails)
    daemon = swarm_project(source, {"swarm": {"workers": 1}, "instrumentation": {"traces": "otlp"}})
    daemon.expect_errors("consume_failed")
    daemon.start().until_running()
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    producer.produce(orders, b"one", key=b"k", headers={"traceparent": f"00-{TRACE}-{SPAN}-01"})
    producer.flush(10)
    daemon.wait_for(lambda: len(collector.named(f"process {emails}")) == 1, what="the last span")
    assert daemon.stop() == 0

    failed, processed = sorted(collector.named(f"process {orders}"), key=lambda span: span.start_time_unix_nano)
    [sent] = collector.named(f"send {emails}")
    [mailed] = collector.named(f"process {emails}")
    for span in (failed, processed):
        assert [(link.trace_id.hex(), link.span_id.hex()) for link in span.links] == [(TRACE, SPAN)]
    assert attributes(failed)["error.type"] == "ValueError"
    assert [attributes(span)["swarm.attempt"] for span in (failed, processed)] == [1, 2]
    assert (sent.trace_id, sent.parent_span_id) == (processed.trace_id, processed.span_id)
    assert [(link.trace_id, link.span_id) for link in mailed.links] == [(sent.trace_id, sent.span_id)]
    assert attributes(mailed)["messaging.consumer.group.name"] == "mailer"
    assert attributes(mailed)["messaging.batch.message_count"] == 1
    assert collector.spans[0][0]["service.name"] == "shop"
    assert collector.spans[0][0]["service.instance.id"].endswith(".0")
    [letter] = broker.read_all(emails)
    assert dict(letter.headers() or [])["lang"] == b"de"
