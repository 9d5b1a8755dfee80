"""Formats: values from bytes and back, errors that say whose they are, and a registry that is asked seldom and never before its time."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import tomllib
import traceback
import uuid
from collections.abc import Callable, Iterator
from importlib.metadata import requires
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from packaging.requirements import Requirement

from swarm import serialization
from swarm.errors import ConfigurationError
from swarm.loading import app_problems
from swarm.message import Message, Messages
from swarm.serialization import (
    Avro,
    DeserializationError,
    Json,
    JsonSchema,
    Protobuf,
    Registry,
    RegistryUnavailable,
    SerializationError,
    wait_for_registry,
)
from tests.support.schema_registry import SchemaRegistry

NO_REGISTRY: Any = "http://127.0.0.1"
ORDER_AVRO = json.dumps({"type": "record", "name": "Order", "fields": [{"name": "id", "type": "int"}]})
ORDER_JSON = json.dumps(
    {"title": "Order", "type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}
)


class Record:
    """A client's message."""

    def __init__(self, value: bytes | None, headers: list[tuple[str, bytes | None]] | None = None) -> None:
        self._value = value
        self._headers = headers

    def topic(self) -> str:
        return "orders"

    def partition(self) -> int:
        return 3

    def offset(self) -> int:
        return 17

    def key(self) -> bytes | None:
        return None

    def value(self) -> bytes | None:
        return self._value

    def headers(self) -> list[tuple[str, bytes | None]] | None:
        return self._headers

    def timestamp(self) -> tuple[int, int]:
        return 0, -1

    def __len__(self) -> int:
        return len(self._value or b"")


def message(value: bytes | None, format: Any, headers: list[tuple[str, bytes | None]] | None = None) -> Message:
    return Message(Record(value, headers), format)


def order_class() -> Any:
    """What protoc would make of `message Order { int32 id = 1; }`."""
    file = FileDescriptorProto(name="order.proto", package="shop", syntax="proto3")
    field = file.message_type.add(name="Order").field.add(name="id", number=1)
    field.type, field.label = FieldDescriptorProto.TYPE_INT32, FieldDescriptorProto.LABEL_OPTIONAL
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("shop.Order"))


@pytest.fixture
def server() -> Iterator[SchemaRegistry]:
    with SchemaRegistry() as running:
        yield running


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serialization, "FIRST_PAUSE", 0.05)


# -- JSON ------------------------------------------------------------------------------------------------------------


def test_json_is_read_when_the_value_is_asked_for_and_only_then() -> None:
    """A poison message that nobody looks at harms nobody; a tombstone's value is None."""
    format: Any = Json()
    batch = Messages([Record(b"poison"), Record(b'{"id": 1}'), Record(None)], format)

    assert [each.offset for each in batch] == [17, 17, 17]
    assert batch[1].value == {"id": 1}
    assert batch[2].value is None
    with pytest.raises(DeserializationError):
        _ = batch[0].value


@pytest.mark.parametrize("raw", [b"", b"poison-pill", b'{"id"', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_named_with_its_place_and_the_cause(raw: bytes) -> None:
    """Topic, partition, offset, what was expected, and what the parser says; not the value itself, which may be a secret."""
    with pytest.raises(
        DeserializationError, match=r"^orders/3@17: expected JSON, got [\d,]+ bytes?: \w+(Error|:)"
    ) as error:
        _ = message(raw, Json()).value

    assert error.value.__cause__ is not None
    assert "pill" not in str(error.value)


def test_json_says_when_bytes_look_like_a_registrys() -> None:
    """The usual mix-up."""
    with pytest.raises(DeserializationError, match="schema registry"):
        _ = message(b"\0\0\0\0\x01{}", Json()).value


def test_json_is_written_and_its_parser_can_be_another() -> None:
    """What cannot be written says so."""
    other = Json(loads=lambda raw: raw.decode().upper(), dumps=lambda value: repr(value).encode())

    assert Json().encode({"id": 1}) == b'{"id": 1}'
    assert other.encode([1]) == b"[1]"
    assert message(b"a", other).value == "A"
    with pytest.raises(SerializationError, match="no JSON can be made of a set"):
        Json().encode({1})


def test_a_function_of_bytes_still_gets_bytes() -> None:
    """`deserializer=json.loads` is what it was."""
    assert message(b"[1]", json.loads).value == [1]


# -- with a registry -------------------------------------------------------------------------------------------------

ORDER_PROTOBUF = order_class()
FORMATS: dict[str, Callable[[Registry], Any]] = {
    "avro": lambda registry: Avro(registry, ORDER_AVRO),
    "jsonschema": lambda registry: JsonSchema(registry, ORDER_JSON),
    "protobuf": lambda registry: Protobuf(registry, ORDER_PROTOBUF),
}


def encoded(name: str, format: Any, number: int) -> bytes:
    value: Any = ORDER_PROTOBUF(id=number) if name == "protobuf" else {"id": number}
    data = format.encode(value, "orders")
    assert isinstance(data, bytes)
    return data


def identity(value: Any) -> int:
    return int(value["id"] if isinstance(value, dict) else value.id)


@pytest.mark.parametrize("name", FORMATS)
def test_values_go_there_and_back_with_one_request_per_schema(name: str, server: SchemaRegistry) -> None:
    """A format opens nothing when it is made; afterwards four threads read a hundred messages with a single request."""
    threads = threading.active_count()
    writer, reader = FORMATS[name](Registry(server.url)), FORMATS[name](Registry(server.url))
    assert (server.requests, threading.active_count()) == ([], threads)
    raws = [encoded(name, writer, number) for number in range(1, 101)]
    assert len(server.requests) == 1
    server.requests.clear()
    read: list[list[int]] = []

    def work() -> None:
        read.append([identity(message(raw, reader).value) for raw in raws])

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert read == [list(range(1, 101))] * 4
    assert [method for method, _, _ in server.requests] == ["GET"]


@pytest.mark.parametrize("name", FORMATS)
def test_bytes_that_do_not_fit_are_the_messages_own_failure(name: str, server: SchemaRegistry) -> None:
    """Without a schema id, with one that nobody knows, with a body that the schema does not read: place, expectation, cause."""
    format = FORMATS[name](Registry(server.url))
    good = encoded(name, format, 5)
    broken = {
        b'{"id": 5}': "with a schema id in front, got 9 bytes, starting with 0x7b",
        b"": "got 0 bytes, none at all",
        b"\0\0\0\0\x63\0abcde": "Schema not found",
        good[:5] + (b"\0" if name == "protobuf" else b"\xff") + b"\xff" * 11: "got 17 bytes: ",
    }

    for raw, says in broken.items():
        with pytest.raises(DeserializationError) as error:
            _ = message(raw, format).value
        assert str(error.value).startswith("orders/3@17: expected ")
        assert says in str(error.value)
        assert wait_for_registry(error.value, 1) is None
    assert identity(message(good, format).value) == 5


def test_an_unknown_schema_is_asked_for_once_in_a_while(server: SchemaRegistry) -> None:
    """A topic full of garbage does not become a flood of requests."""
    format = Avro(Registry(server.url))

    for _ in range(50):
        with pytest.raises(DeserializationError, match="Schema not found"):
            _ = message(b"\0\0\0\0\x63abcdef", format).value

    assert len(server.requests) == 1


def test_a_schema_id_in_the_headers_is_taken(server: SchemaRegistry) -> None:
    """Where producers write it there, the bytes are the value's alone."""
    guid = uuid.uuid4()
    server.guids[str(guid)] = {"schema": '"string"', "guid": str(guid)}
    headers: list[tuple[str, bytes | None]] = [("trace", b"1"), ("__value_schema_id", b"\x01" + guid.bytes)]
    format = Avro(Registry(server.url))

    values = [message(b"\x0aorder", format, headers).value for _ in range(10)]

    assert values == ["order"] * 10
    assert len(server.requests) == 1


@pytest.mark.usefixtures("_impatient")
def test_a_registry_that_is_away_is_not_the_messages_fault(server: SchemaRegistry) -> None:
    """Known schemas are read on; for others an error of its own, with few requests, until the registry is back."""
    registry = Registry(server.url, {"retries.wait.ms": 1})
    format = Avro(registry, ORDER_AVRO)
    known = encoded("avro", format, 1)
    _ = message(known, format).value
    server.schemas[7] = {"schema": ORDER_AVRO}
    server.close()

    for _ in range(20):
        with pytest.raises(RegistryUnavailable, match=r"^orders/3@17: Avro: Registry.* does not answer: ") as error:
            _ = message(b"\0\0\0\0\x07\x0a\x0a", format).value
        assert wait_for_registry(error.value, 1) == "retry"
    assert identity(message(known, format).value) == 1
    server.open()
    until = threading.Event()
    value = None
    while value is None:
        until.wait(0.02)
        try:
            value = message(b"\0\0\0\0\x07\x0a\x0a", format).value
        except RegistryUnavailable:
            continue

    assert value == {"id": 5}


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_a_registry_that_refuses_us_is_asked_once_in_a_while(status: int, server: SchemaRegistry) -> None:
    """Wrong credentials or an overload say nothing about the message; a thousand messages cost two requests at most."""
    format = Avro(Registry(server.url, {"retries.wait.ms": 1}))
    server.status = status

    for number in range(100):
        with pytest.raises(RegistryUnavailable, match=f"HTTP status code {status}"):
            _ = message(number.to_bytes(5, "big") + b"abc", format).value

    assert len(server.requests) <= 2


def test_credentials_are_sent_and_shown_nowhere(server: SchemaRegistry, caplog: pytest.LogCaptureFixture) -> None:
    """Neither in reprs, nor in errors and their tracebacks, nor in what the libraries log."""
    caplog.set_level("DEBUG")
    url = server.url.replace("http://", "http://bob:hunt%40er22@")
    formats = [
        Avro(Registry(url)),
        Avro(Registry(server.url, {"basic.auth.user.info": "bob:hunt@er22"})),
        Avro(Registry(server.url, {"basic.auth.user.info": "hunt@er22"})),
        Avro(Registry(url.replace("http", "ftp"))),
    ]
    texts = [repr(format) for format in formats]
    for format in formats:
        with pytest.raises((DeserializationError, ConfigurationError)) as error:
            _ = message(b"\0\0\0\0\x63abcdef", format).value
        texts.append("".join(traceback.format_exception(error.value)))

    assert {authorization for _, _, authorization in server.requests} == {"Basic Ym9iOmh1bnRAZXIyMg=="}
    for text in [*texts, caplog.text]:
        assert "hunt" not in text
    assert texts[0] == f"Avro(Registry({server.url!r}))"


def test_each_process_makes_its_own_client(server: SchemaRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A format that was used before a fork shares no connection with its children."""
    registry = Registry(server.url)
    ours = registry.client.get()
    assert registry.client.get() is ours

    child = os.getpid() + 1
    monkeypatch.setattr("swarm.serialization.os.getpid", lambda: child)

    assert registry.client.get() is not ours


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda r: Avro(NO_REGISTRY), "expected a swarm.serialization.Registry"),
        (lambda r: Avro(r, '{"type": "recrd"}'), "Avro: the schema is none"),
        (lambda r: JsonSchema(r, '{"type": 5}'), "the schema is none"),
        (lambda r: Protobuf(r, dict), "expected a message class that protoc has made"),
        (lambda r: Registry(""), "expected an address"),
        (lambda r: Registry("http://a:b@x", {"basic.auth.user.info": "a:b"}), "give one"),
        (lambda r: Avro(r, reading={"nope": 1})(message(b"\0\0\0\0\x01abc", None)), "Unrecognized properties: nope"),
        (lambda r: Avro(r).encode({}, "orders"), "needs schema="),
    ],
)
def test_a_wrong_declaration_is_a_configuration_error(make: Callable[[Registry], Any], says: str) -> None:
    """And no failure of the messages, which would all be dead-lettered."""
    with pytest.raises(ConfigurationError, match=says) as error:
        make(Registry("mock://declarations"))

    assert wait_for_registry(error.value, 1) == "retry"


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the declaration, so `swarmctl check` says it."""
    monkeypatch.setattr(serialization, "_missing", lambda package: package == "fastavro")

    with pytest.raises(ConfigurationError, match=r'needs the package fastavro[^§]*pip install "kafka-swarm\[avro\]"'):
        Avro(Registry("mock://missing"))


def test_the_registry_is_waited_for_also_behind_an_error_of_the_handlers() -> None:
    """What a handler raises from it counts as it; what only happened meanwhile does not."""
    because, meanwhile = KeyError("x"), KeyError("x")
    because.__cause__ = meanwhile.__context__ = RegistryUnavailable("away")

    assert wait_for_registry(because, 7) == "retry"
    assert wait_for_registry(meanwhile, 7) is None


def test_the_extras_bring_what_the_client_asks_for() -> None:
    """A package that confluent-kafka's extras ask for is in ours, or on the list of those that only its old Avro client imports."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    ours = {
        extra: {Requirement(line).name for line in project["optional-dependencies"][extra]} - {"kafka-swarm"}
        for extra in ("schema-registry", "avro", "protobuf", "jsonschema")
    }

    def theirs(extra: str) -> set[str]:
        found = map(Requirement, requires("confluent-kafka") or [])
        return {
            each.name
            for each in found
            if each.marker and not each.marker.evaluate({"extra": ""}) and each.marker.evaluate({"extra": extra})
        }

    base = ours["schema-registry"]
    assert theirs("schema-registry") == base
    assert theirs("avro") - {"avro", "requests"} == base | ours["avro"]
    assert theirs("protobuf") == base | ours["protobuf"]
    assert theirs("json") == base | ours["jsonschema"]


def test_the_documents_examples_declare_apps_that_could_start(
    monkeypatch: pytest.MonkeyPatch, server: SchemaRegistry
) -> None:
    """Each Python block of docs/serialization.md is run as it stands, and opens nothing."""
    text = (Path(__file__).parents[2] / "docs" / "serialization.md").read_text()
    monkeypatch.setitem(sys.modules, "shop", ModuleType("shop"))
    module = ModuleType("shop.payment_pb2")
    vars(module)["Payment"] = ORDER_PROTOBUF
    monkeypatch.setitem(sys.modules, "shop.payment_pb2", module)
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2

    for block in blocks:
        names: dict[str, Any] = {}
        exec(block.replace("http://registry:8081", server.url), names)
        assert app_problems(names["app"], None) == []

    assert server.requests == []
    assert names["receipt"].name == "Avro"
