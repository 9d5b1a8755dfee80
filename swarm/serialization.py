"""From a message's bytes to a value and back: JSON, and Avro, Protobuf and JSON Schema with a schema registry. Knows no lane and no retry.

A format is made while the app is imported, and opens nothing then: its registry's client is made at the first use in each process.
Given as `deserializer=` it is called with the message when a handler asks for `message.value`; `encode` is the way back.

DeserializationError   these bytes are not what was expected: an ordinary failure of this message
SerializationError     this value cannot be encoded
RegistryUnavailable    not the message's fault: the registry is away, refuses us, or is overloaded (`wait_for_registry`)
"""

from __future__ import annotations

import importlib.util
import json
import os
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Literal, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from swarm.config import redact
from swarm.errors import ConfigurationError, describe
from swarm.wording import counted

if TYPE_CHECKING:
    from swarm.message import Message

T = TypeVar("T")

REFUSED_FOR: Final = 30.0
"""Seconds for which a schema that the registry does not know is not asked for again."""
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 30.0
"""Seconds without a request after one that failed: doubled from the first to the longest while the registry stays away."""

_DEFAULTS: Final[Mapping[str, Any]] = {
    # Ours, because the client's own are no limit at all and three more tries with pauses of seconds: a run that fails is repeated
    # by the swarm, with its backoff, and a processing thread is not kept meanwhile.
    "timeout": 5,
    "max.retries": 1,
    "retries.wait.ms": 100,
}
_NO_ASSOCIATIONS: Final[Mapping[str, Any]] = {"subject.name.strategy.type": "TOPIC"}
"""The client's own default asks the registry for the subject of each topic first, and then takes this."""
_MOST_REFUSED: Final = 10_000
_LONGEST_CAUSE: Final = 500
"""Characters of a cause's text: a validator quotes the value."""
_AWAY: Final = frozenset({401, 403, 408, 429})
"""HTTP statuses, besides 5xx, that say something about the registry or our credentials, and nothing about the message."""


class DeserializationError(ValueError):
    """The bytes of a message are not what was expected. The text says which message, what was expected and why not."""


class SerializationError(ValueError):
    """A value that cannot be encoded."""


class RegistryUnavailable(Exception):
    """The schema registry did not answer, or not as it should: nothing is known about the message. Try again later."""


def wait_for_registry(error: BaseException, attempt: int) -> Literal["retry"] | None:
    """For `DeadLetter(decide=wait_for_registry)`: retry for as long as the registry is away, whatever `max_attempts` says.

    Also where the handler raised another error from that one, and where the format is configured wrongly. None for everything else.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, RegistryUnavailable | ConfigurationError):
            return "retry"
        cause = cause.__cause__
    return None


class Json:
    """JSON by the standard library, or by what is given: `Json(loads=orjson.loads, dumps=orjson.dumps)`.

    loads: of bytes. dumps: to text or bytes.
    """

    wants_message: ClassVar = True

    def __init__(
        self, loads: Callable[[bytes], Any] = json.loads, dumps: Callable[[Any], str | bytes] = json.dumps
    ) -> None:
        self._loads = loads
        self._dumps = dumps

    def __call__(self, message: Message) -> Any:
        """The value of a message; DeserializationError where it is no JSON. Any thread."""
        raw = message.raw
        if raw is None:
            return None
        try:
            return self._loads(raw)
        except Exception as error:
            hint = "; it begins with a zero byte: written with a schema registry?" if raw[:1] == b"\0" else ""
            raise DeserializationError(
                _told(message, f"expected JSON, got {counted(len(raw), 'byte')}{hint}", error)
            ) from error

    def encode(self, value: Any) -> bytes:
        """The bytes of a value; SerializationError where it has no JSON form."""
        try:
            data = self._dumps(value)
            return data.encode() if isinstance(data, str) else data
        except Exception as error:
            raise SerializationError(f"no JSON can be made of a {type(value).__name__}: {_short(error)}") from error

    def __repr__(self) -> str:
        return "Json()"


class Registry:
    """A schema registry, shared by the formats of an app. Making one opens nothing; its client is made at the first use, per process.

    url: one or more, with commas; user:password@ in it are taken as credentials. properties: those of confluent-kafka's
    SchemaRegistryClient, "basic.auth.user.info" and "ssl.ca.location" for example; "timeout" (s, 5 here) is for each request.
    """

    def __init__(self, url: str, properties: Mapping[str, Any] | None = None) -> None:
        if not isinstance(url, str) or not url:
            raise ConfigurationError(f'Registry(url): expected an address such as "http://registry:8081", got {url!r}.')
        given = dict(properties or {})
        urls, user = _without_credentials(url)
        if user is not None and "basic.auth.user.info" in given:
            raise ConfigurationError("Registry: credentials both in the address and in basic.auth.user.info: give one.")
        self.url = urls
        """Without credentials."""
        self._properties = {
            **_DEFAULTS,
            **({"basic.auth.user.info": user} if user is not None else {}),
            **given,
            "url": urls,
        }
        self.client: _PerProcess[Any] = _PerProcess(self._make_client)
        """confluent-kafka's SchemaRegistryClient of this process."""
        self._lock = threading.Lock()
        self._known: set[Hashable] = set()
        self._refused: dict[Hashable, tuple[float, str]] = {}
        self._away_until = 0.0
        self._pause = 0.0
        self._why = ""

    def __repr__(self) -> str:
        return f"Registry({self.url!r})"

    def ask(self, key: Hashable, call: Callable[[], T]) -> T:
        """What `call` returns, which may ask the registry unless `key` (what it would ask for) has been answered before.

        One at a time asks for something new, and nobody for a while after that failed: a registry that is away gets a request now
        and then, not one per message and thread. Raises RegistryUnavailable, _Refused, and what else `call` raises. Any thread.
        """
        if key in self._known:
            try:
                return call()
            except Exception as error:
                judged = self._judged(error)
                if judged is error:
                    raise
                raise judged from error
        with self._lock:
            now = time.monotonic()
            until, why = self._refused.get(key, (0.0, ""))
            if now < until:
                raise _Refused(why)
            if now < self._away_until:
                raise RegistryUnavailable(self._why)
            try:
                result = call()
            except Exception as error:
                judged = self._judged(error)
                if isinstance(judged, RegistryUnavailable):
                    self._pause = min(self._pause * 2 or FIRST_PAUSE, LONGEST_PAUSE)
                    self._away_until = time.monotonic() + self._pause
                    self._why = str(judged)
                elif isinstance(judged, _Refused):
                    if len(self._refused) >= _MOST_REFUSED:
                        self._refused.clear()
                    self._refused[key] = (time.monotonic() + REFUSED_FOR, str(judged))
                else:
                    raise
                raise judged from error
            self._known.add(key)
            self._pause = 0.0
            return result

    def _judged(self, error: Exception) -> Exception:
        """The error as the registry's absence, its refusal, or itself: then it is the message's."""
        from confluent_kafka.schema_registry.error import OAuthTokenError, SchemaRegistryError

        if isinstance(error, SchemaRegistryError):
            if error.http_status_code in _AWAY or error.http_status_code >= 500:
                return RegistryUnavailable(self.hidden(f"{self!r} answers {_short(error)}"))
            return _Refused(self.hidden(f"{self!r} answers {_short(error)}"))
        if isinstance(error, (OAuthTokenError, OSError, *_transport_errors())):
            return RegistryUnavailable(self.hidden(f"{self!r} does not answer: {_short(error)}"))
        return error

    def hidden(self, text: str) -> str:
        """The text without our credentials, should a library have quoted them."""
        for name, shown in redact(self._properties).items():
            value = self._properties[name]
            if shown != value and isinstance(value, str):
                for secret in (value, value.partition(":")[2]):
                    if len(secret) > 3:
                        text = text.replace(secret, "********")
        return text

    def _make_client(self) -> Any:
        from confluent_kafka.schema_registry import SchemaRegistryClient

        try:
            return SchemaRegistryClient.new_client(dict(self._properties))
        except Exception as error:
            raise ConfigurationError(self.hidden(f"{self!r}: {_short(error)}")) from None


class _Framed:
    """A format whose bytes begin with the id of a schema in a registry (or whose header __value_schema_id holds it)."""

    wants_message: ClassVar = True
    name: ClassVar[str]
    extra: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]

    def __init__(
        self, registry: Registry, reading: Mapping[str, Any] | None, writing: Mapping[str, Any] | None
    ) -> None:
        if not isinstance(registry, Registry):
            raise ConfigurationError(
                f'{self.name}: expected a swarm.serialization.Registry("http://…") first, got {type(registry).__name__}.'
            )
        for module in (*_CLIENT_NEEDS, *self.needs):
            if _missing(module):
                raise ConfigurationError(
                    f"{self.name} needs the package {module}, which is not installed.\n"
                    f'Install them with pip install "kafka-swarm[{self.extra}]".'
                )
        self._registry = registry
        self._reading = _with_strategy(reading)
        self._writing = _with_strategy(writing)
        self._reader = _PerProcess(self._checked(self._make_reader))
        self._writer = _PerProcess(self._checked(self._make_writer))

    def __call__(self, message: Message) -> Any:
        """The value of a message; DeserializationError, or RegistryUnavailable. Any thread; the first of each schema asks the registry."""
        raw, topic, headers = message.raw, message.topic, message.headers
        if raw is None:
            return None
        schema = next((value for name, value in headers if name == "__value_schema_id" and value), None)
        if schema is None:
            schema = _frame(raw)
        if schema is None:
            starts = f"starting with 0x{raw[:1].hex()}" if raw else "none at all"
            text = f"expected {self.name} with a schema id in front, got {counted(len(raw), 'byte')}, {starts}"
            raise DeserializationError(_told(message, text))
        reader = self._reader.get()
        context = _context(topic, headers)
        try:
            return self._registry.ask((id(self), topic, schema), lambda: reader(raw, context))
        except RegistryUnavailable as error:
            raise RegistryUnavailable(_told(message, f"{self.name}: {error}")) from error.__cause__
        except Exception as error:
            text = self._registry.hidden(
                _told(message, f"expected {self.name}, got {counted(len(raw), 'byte')}", error)
            )
            raise DeserializationError(text) from error

    def encode(
        self, value: Any, topic: str, headers: list[tuple[str, str | bytes | None]] | None = None
    ) -> bytes | None:
        """The bytes of a value for a topic, whose subject the schema is registered under at the first use.

        headers: what will be produced with it, for a "schema.id.serializer" that writes there. SerializationError, or
        RegistryUnavailable. Blocks where the registry has to be asked. Any thread.
        """
        writer = self._writer.get()
        context = _context(topic, headers if headers is not None else [])
        try:
            data: bytes | None = self._registry.ask((id(self), topic, "encode"), lambda: writer(value, context))
        except RegistryUnavailable as error:
            raise RegistryUnavailable(f"{self.name} for {topic}: {error}") from error.__cause__
        except Exception as error:
            text = f"no {self.name} can be made for {topic} of a {type(value).__name__}: {_short(error)}"
            raise SerializationError(self._registry.hidden(text)) from error
        return data

    def _checked(self, make: Callable[[], Any]) -> Callable[[], Any]:
        def made() -> Any:
            try:
                return make()
            except ConfigurationError:
                raise
            except Exception as error:  # an option that does not exist, say: all messages would fail with it
                raise ConfigurationError(self._registry.hidden(f"{self!r}: {_short(error)}")) from error

        return made

    def _make_reader(self) -> Any:
        raise NotImplementedError

    def _make_writer(self) -> Any:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._registry!r})"


class Avro(_Framed):
    """Avro, with the writer's schema from the registry. Values are dictionaries, or what `from_dict` makes of them.

    schema: an Avro schema as JSON text (or confluent-kafka's Schema): what values are read as, and written with; None: read as they
    were written. from_dict(dict, context), to_dict(value, context). reading, writing: options of confluent-kafka's AvroDeserializer
    and AvroSerializer, {"auto.register.schemas": False} for example.
    """

    name = "Avro"
    extra = "avro"
    needs = ("fastavro",)

    def __init__(
        self,
        registry: Registry,
        schema: Any = None,
        *,
        from_dict: Callable[[dict[str, Any], Any], Any] | None = None,
        to_dict: Callable[[Any, Any], dict[str, Any]] | None = None,
        reading: Mapping[str, Any] | None = None,
        writing: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(registry, reading, writing)
        self._schema = schema
        self._from_dict = from_dict
        self._to_dict = to_dict
        if isinstance(schema, str):
            _parsed(self.name, schema, _parse_avro)

    def _make_reader(self) -> Any:
        from confluent_kafka.schema_registry.avro import AvroDeserializer

        return AvroDeserializer(self._registry.client.get(), self._schema, self._from_dict, conf=self._reading)

    def _make_writer(self) -> Any:
        from confluent_kafka.schema_registry.avro import AvroSerializer

        _need_schema(self.name, self._schema, self._writing)
        return AvroSerializer(self._registry.client.get(), self._schema, self._to_dict, conf=self._writing)


class JsonSchema(_Framed):
    """JSON that was checked against a schema of the registry. Values are what JSON makes, or what `from_dict` makes of it.

    schema: a JSON Schema as text (or confluent-kafka's Schema) that values are checked against, and written with; None: the writer's.
    from_dict, to_dict, reading, writing: as for Avro, of JSONDeserializer and JSONSerializer.
    """

    name = "JSON with a schema"
    extra = "jsonschema"
    needs = ("jsonschema",)

    def __init__(
        self,
        registry: Registry,
        schema: Any = None,
        *,
        from_dict: Callable[[dict[str, Any], Any], Any] | None = None,
        to_dict: Callable[[Any, Any], dict[str, Any]] | None = None,
        reading: Mapping[str, Any] | None = None,
        writing: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(registry, reading, writing)
        self._schema = schema
        self._from_dict = from_dict
        self._to_dict = to_dict
        if isinstance(schema, str):
            _parsed(self.name, schema, _parse_json_schema)

    def _make_reader(self) -> Any:
        from confluent_kafka.schema_registry.json_schema import JSONDeserializer

        return JSONDeserializer(self._schema, self._from_dict, self._registry.client.get(), self._reading)

    def _make_writer(self) -> Any:
        from confluent_kafka.schema_registry.json_schema import JSONSerializer

        _need_schema(self.name, self._schema, self._writing)
        return JSONSerializer(self._schema, self._registry.client.get(), self._to_dict, self._writing)


class Protobuf(_Framed):
    """Protobuf with the registry's framing. Values are messages of `message_type`, a class that protoc has made.

    reading, writing: options of confluent-kafka's ProtobufDeserializer and ProtobufSerializer. Bytes without the registry's framing
    need no format: `deserializer=Order.FromString`.
    """

    name = "Protobuf"
    extra = "protobuf"
    needs = ("google.protobuf", "googleapis_common_protos")

    def __init__(
        self,
        registry: Registry,
        message_type: Any,
        *,
        reading: Mapping[str, Any] | None = None,
        writing: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(registry, reading, writing)
        if not hasattr(message_type, "DESCRIPTOR") or not isinstance(message_type, type):
            raise ConfigurationError(f"Protobuf: expected a message class that protoc has made, got {message_type!r}.")
        self._type = message_type

    def _make_reader(self) -> Any:
        from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer

        return ProtobufDeserializer(self._type, self._reading, self._registry.client.get())

    def _make_writer(self) -> Any:
        from confluent_kafka.schema_registry.protobuf import ProtobufSerializer

        return ProtobufSerializer(self._type, self._registry.client.get(), self._writing)


# -- behind them -----------------------------------------------------------------------------------------------------


class _Refused(Exception):
    """The registry is there and says no: it does not know the schema, or does not want it."""


class _PerProcess(Generic[T]):
    """Something that is made at its first use and does not survive a fork: a child makes its own."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: tuple[int, T] | None = None

    def get(self) -> T:
        """This process's. Any thread."""
        pid = os.getpid()
        made = self._made
        if made is None or made[0] != pid:
            with self._lock:
                made = self._made
                if made is None or made[0] != pid:
                    made = self._made = (pid, self._make())
        return made[1]


_CLIENT_NEEDS: Final = ("attrs", "authlib", "cachetools", "certifi", "httpx2")
_MODULES: Final[Mapping[str, str]] = {"attrs": "attr", "googleapis_common_protos": "google.type"}
"""Where a package's module has another name."""


def _missing(package: str) -> bool:
    try:
        return importlib.util.find_spec(_MODULES.get(package, package)) is None
    except ModuleNotFoundError:
        return True


def _transport_errors() -> tuple[type[Exception], ...]:
    """The HTTP client's errors for a request that got no answer; whichever of the two confluent-kafka has found."""
    import sys

    found = [getattr(sys.modules.get(name), "TransportError", None) for name in ("httpx2", "httpx")]
    return tuple(each for each in found if each is not None)


def _context(topic: str, headers: Any) -> Any:
    from confluent_kafka.serialization import MessageField, SerializationContext

    return SerializationContext(topic, MessageField.VALUE, headers)


def _frame(raw: bytes) -> bytes | None:
    """The bytes in front that name the schema: 0 and an id of 4, or 1 and a GUID of 16; None where there are none."""
    if len(raw) > 5 and raw[0] == 0:
        return raw[:5]
    if len(raw) > 17 and raw[0] == 1:
        return raw[:17]
    return None


def _with_strategy(options: Mapping[str, Any] | None) -> dict[str, Any]:
    given = dict(options or {})
    return given if any(name.startswith("subject.name.strategy") for name in given) else {**_NO_ASSOCIATIONS, **given}


def _need_schema(name: str, schema: Any, writing: Mapping[str, Any]) -> None:
    if schema is None and not any(writing.get(key) for key in ("use.latest.version", "use.schema.id")):
        raise ConfigurationError(
            f'{name}: to encode it needs schema=, or writing={{"use.latest.version": True, "auto.register.schemas": False}}.'
        )


def _parsed(name: str, schema: str, parse: Callable[[str], Any]) -> None:
    try:
        parse(schema)
    except Exception as error:
        raise ConfigurationError(f"{name}: the schema is none: {_short(error)}") from None


def _parse_avro(schema: str) -> None:
    from fastavro import parse_schema

    text = schema.strip()
    parse_schema(json.loads(text) if text[:1] in '{["' else text)


def _parse_json_schema(schema: str) -> None:
    from jsonschema.validators import validator_for

    parsed = json.loads(schema)
    validator_for(parsed).check_schema(parsed)


def _without_credentials(url: str) -> tuple[str, str | None]:
    """(addresses, user:password or None)"""
    user = None
    plain = []
    for each in url.split(","):
        parts = urlsplit(each.strip())
        if parts.username is not None:
            user = user or f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            parts = parts._replace(netloc=parts.netloc.rpartition("@")[2])
        plain.append(urlunsplit(parts))
    return ",".join(plain), user


def _told(message: Message, text: str, cause: BaseException | None = None) -> str:
    where = f"{message.topic}/{message.partition}@{message.offset}"
    return f"{where}: {text}" + (f": {_short(cause)}" if cause is not None else "")


def _short(error: BaseException) -> str:
    text = str(error) if isinstance(error, _Refused) else describe(error)
    return text if len(text) <= _LONGEST_CAUSE else text[: _LONGEST_CAUSE - 1] + "…"
