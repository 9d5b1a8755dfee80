from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording
from tests.support.schema_registry import SchemaRegistry

JSON_APP = """
    from swarm import App, Backoff, DeadLetter
    from swarm.serialization import Json
    from recording import record

    app = App("shop")
    options = dict(deserializer=Json(), backoff=Backoff(initial=0.02), dead_letter=DeadLetter("{dead}", max_attempts=2))

    @app.subscribe("{read}", max_messages=20, **options)
    def read(messages):
        for message in messages:
            assert message.value["id"] == message.offset
        for message in messages:
            record(message)

    @app.each("{counted}", **options)
    def counted(message):
        record(message)
"""

AVRO_APP = """
    from swarm import App, Backoff, DeadLetter
    from swarm.serialization import Avro, Registry, wait_for_registry
    from recording import record

    app = App("shop")
    registry = Registry("http://bob:hunter22@127.0.0.1:{port}", {{"retries.wait.ms": 1}})

    @app.each(
        "{orders}",
        deserializer=Avro(registry),
        backoff=Backoff(initial=0.02, maximum=0.1),
        dead_letter=DeadLetter("{dead}", max_attempts=2, decide=wait_for_registry),
    )
    def orders(message):
        assert message.value == {{"id": message.offset}}
        record(message)
"""

# The class of the Protobuf value is made as protoc would make it, which the tests do without.
FORMATS_APP = """
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message_factory import GetMessageClass
    from swarm import App, Backoff, DeadLetter
    from swarm.serialization import Avro, JsonSchema, Protobuf, Registry
    from recording import record

    file = FileDescriptorProto(name="order.proto", package="shop", syntax="proto3")
    file.message_type.add(name="Order").field.add(
        name="id", number=1, type=FieldDescriptorProto.TYPE_INT32, label=FieldDescriptorProto.LABEL_OPTIONAL
    )
    pool = DescriptorPool()
    pool.Add(file)
    Order = GetMessageClass(pool.FindMessageTypeByName("shop.Order"))

    app = App("shop")
    registry = Registry("{registry}")
    options = dict(backoff=Backoff(initial=0.02), dead_letter=DeadLetter("{dead}", max_attempts=2))

    @app.each("{checked}", deserializer=JsonSchema(registry), **options)
    def checked(message):
        assert message.value == {{"id": message.offset}}
        record(message)

    @app.each("{packed}", deserializer=Protobuf(registry, Order), **options)
    def packed(message):
        assert message.value.id == message.offset
        record(message)

    @app.subscribe("{dense}", deserializer=Avro(registry), max_messages=20, **options)
    def dense(messages):
        for message in messages:
            assert message.value == {{"id": message.offset}}
        for message in messages:
            record(message)
"""

ORDER = '{"type": "record", "name": "Order", "fields": [{"name": "id", "type": "int"}]}'
CHECKED = '{"type": "object", "title": "Order", "properties": {"id": {"type": "integer"}}, "required": ["id"]}'


def packed_schema() -> str:
    """`message Order { int32 id = 1; }` as a registry hands it out."""
    file = FileDescriptorProto(name="order.proto", package="shop", syntax="proto3")
    file.message_type.add(name="Order").field.add(
        name="id", number=1, type=FieldDescriptorProto.TYPE_INT32, label=FieldDescriptorProto.LABEL_OPTIONAL
    )
    return base64.b64encode(file.SerializeToString()).decode()


def test_a_poison_message_is_dead_lettered_alone_and_only_where_its_value_is_asked_for(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """A batch is narrowed down to what is no JSON; a handler that never looks at values handles the same messages all."""
    read, counted, dead = topic(), topic(), topic()
    daemon = swarm_project(
        JSON_APP.format(read=read, counted=counted, dead=dead),
        {"swarm": {"workers": 1}, "worker": {"commit_interval": 0.2}},
    )
    daemon.expect_errors("consume_failed", "message_dead_lettered")
    recording = Recording(daemon.folder)
    values = ["poison" if number in (3, 17) else f'{{"id": {number}}}' for number in range(40)]
    for name in (read, counted):
        broker.produce(name, [(None, value) for value in values])

    daemon.start()
    daemon.wait_for(
        lambda: broker.committed(daemon.group) == {(read, 0): 40, (counted, 0): 40}, what="both topics to be done"
    )
    assert daemon.stop() == 0

    letters = broker.read_all(dead)
    assert [(letter.value(), dict(letter.headers() or [])["swarm.source.offset"]) for letter in letters] == [
        (b"poison", b"3"),
        (b"poison", b"17"),
    ]
    error: Any = dict(letters[1].headers() or [])["swarm.error"]
    assert error.startswith(f"DeserializationError: {read}/0@17: expected JSON, got 6 bytes: JSONDecodeError".encode())
    assert recording.seen(read) == {(0, number) for number in range(40)} - {(0, 3), (0, 17)}
    assert recording.offsets(counted)[0] == list(range(40))


def test_a_registry_that_is_away_is_waited_for_and_dead_letters_nothing(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Whatever max_attempts says; when it is back all is handled in order. Few requests, and no credentials in the log."""
    orders, dead = topic(), topic()
    registry = SchemaRegistry()
    with registry:
        registry.schemas[1] = {"schema": ORDER}
    daemon = swarm_project(
        AVRO_APP.format(orders=orders, dead=dead, port=registry.url.rpartition(":")[2]), {"swarm": {"workers": 1}}
    )
    daemon.expect_errors("consume_failed")
    recording = Recording(daemon.folder)
    broker.produce(orders, [(None, b"\0\0\0\0\1" + bytes([2 * number])) for number in range(30)])

    daemon.start()
    daemon.wait_for_event("consume_failed", 6)
    with registry:
        daemon.wait_for(lambda: len(recording.all()) == 30, what="all orders")
    assert daemon.stop() == 0

    assert recording.offsets(orders)[0] == list(range(30))
    assert broker.read_all(dead) == []
    assert len(registry.requests) == 1
    assert "RegistryUnavailable" in daemon.events("consume_failed")[0]["error"]
    assert "hunter22" not in daemon.log


def test_values_of_json_schema_protobuf_and_avro_are_read_and_what_breaks_their_schema_is_dead_lettered(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """JSON that its schema forbids, and bytes that are no such message: each alone, also out of a batch; the ones behind them are handled
    in order."""
    checked, packed, dense, dead = topic(), topic(), topic(), topic()
    with SchemaRegistry() as registry:
        registry.schemas[1] = {"schema": CHECKED, "schemaType": "JSON"}
        registry.schemas[2] = {"schema": packed_schema(), "schemaType": "PROTOBUF"}
        registry.schemas[3] = {"schema": ORDER}
        app = FORMATS_APP.format(checked=checked, packed=packed, dense=dense, dead=dead, registry=registry.url)
        daemon = swarm_project(app, {"swarm": {"workers": 1}, "worker": {"commit_interval": 0.2}})
        daemon.expect_errors("consume_failed", "message_dead_lettered")
        recording = Recording(daemon.folder)
        poisons = {5: b'{"id": "five"}', 9: b"\xff\xff", 13: b"\x80"}  # the last: a number that goes on behind its end
        values = [b'{"id": %d}' % number if number != 5 else poisons[5] for number in range(20)]
        broker.produce(checked, [(None, b"\0\0\0\0\1" + value) for value in values])
        values = [b"\x08%c" % number if number != 9 else poisons[9] for number in range(20)]
        broker.produce(packed, [(None, b"\0\0\0\0\2\0" + value) for value in values])
        values = [b"%c" % (2 * number) if number != 13 else poisons[13] for number in range(20)]
        broker.produce(dense, [(None, b"\0\0\0\0\3" + value) for value in values])

        daemon.start()
        done = {(name, 0): 20 for name in (checked, packed, dense)}
        daemon.wait_for(lambda: broker.committed(daemon.group) == done, what="the topics to be done")
        assert daemon.stop() == 0

    assert recording.offsets(checked)[0] == [number for number in range(20) if number != 5]
    assert recording.offsets(packed)[0] == [number for number in range(20) if number != 9]
    assert recording.offsets(dense)[0] == [number for number in range(20) if number != 13]
    letters: dict[Any, Any] = {}
    for letter in broker.read_all(dead):
        headers: Any = dict(letter.headers() or [])
        letters[headers["swarm.source.topic"].decode()] = letter.value()
        assert b"DeserializationError" in headers["swarm.error"]
    assert {name: value[-2:] for name, value in letters.items()} == {
        checked: b'"}',
        packed: b"\xff\xff",
        dense: b"\3\x80",
    }
