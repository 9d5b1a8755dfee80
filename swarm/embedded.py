"""The embedded broker: librdkafka's own mock cluster, driven from Python. Knows the C functions; knows nothing of swarms or settings.

librdkafka carries a small Kafka broker for its tests and exports it (`rd_kafka_mock_*`); it is inside every confluent-kafka wheel.
Other processes can use it as long as the one that made it lives. It keeps about the newest 5 MB of a partition, in memory only,
and knows neither static membership nor fencing nor ACLs: good for a demo, a first app and quick tests, not for proving delivery.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import importlib.metadata
import socket
import threading
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Final

from swarm.errors import SwarmError

JOIN_DELAY: Final = 1.0
_HEARTBEAT_INTERVAL: Final = 200  # ms, of groups with group.protocol=consumer, which converge at this pace
_PRODUCER: Final = 0  # rd_kafka_type_t RD_KAFKA_PRODUCER: the kind of handle without a poll loop to serve
_CHUNK: Final = 256 * 1024  # bytes of one forwarded read


class EmbeddedBrokerError(SwarmError):
    """No librdkafka with a mock cluster was found, or it refused."""


class EmbeddedBroker:
    """A broker of this process on 127.0.0.1; usable from other processes until `close`, or this process's end.

    topics: name -> number of partitions, made at once; others appear at their first use, with 4 partitions.
    join_delay: how long (s) a group that was empty waits for further members before its first assignment, as they would cost a
        rebalance each. A member whose classic session is hardly longer is thrown out before the group has formed.
    session_timeout: of groups with `group.protocol=consumer` (s), where it is the broker's to say; None: librdkafka's default.
    port: 0, the default, lets the system choose. Any other is listened on by a forwarder in this process, because librdkafka's
        own listener cannot be told its port; EmbeddedBrokerError where it is taken.
    """

    def __init__(
        self,
        topics: Mapping[str, int] | None = None,
        port: int = 0,
        *,
        join_delay: float = JOIN_DELAY,
        session_timeout: float | None = None,
    ) -> None:
        self._closed = False
        self._lock = threading.Lock()
        self._library = _load()
        self._handle, self._cluster = _make_cluster(self._library)
        milliseconds = round(join_delay * 1000)
        self._library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, milliseconds)
        self._library.rd_kafka_mock_set_group_consumer_heartbeat_interval_ms(self._cluster, _HEARTBEAT_INTERVAL)
        if session_timeout is not None:
            milliseconds = round(session_timeout * 1000)
            self._library.rd_kafka_mock_set_group_consumer_session_timeout_ms(self._cluster, milliseconds)
        self.bootstrap: str = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        """What a client's `bootstrap.servers` takes."""
        self._forwarder: _Forwarder | None = None
        try:
            if port:
                self._listen_on(port)
            for topic, partitions in (topics or {}).items():
                self.create_topic(topic, partitions)
        except BaseException:
            self.close()
            raise

    def _listen_on(self, port: int) -> None:
        host, _, inner = self.bootstrap.rpartition(":")
        self._forwarder = _Forwarder(port, (host, int(inner)))
        self._library.rd_kafka_mock_broker_set_host_port(self._cluster, 1, b"127.0.0.1", port)
        self.bootstrap = f"127.0.0.1:{port}"

    def create_topic(self, topic: str, partitions: int) -> None:
        """Make a topic; EmbeddedBrokerError if it exists or the broker is closed."""
        if partitions < 1:
            raise EmbeddedBrokerError(f"topic {topic}: expected 1 partition or more, got {partitions}.")
        with self._lock:
            if self._closed:
                raise EmbeddedBrokerError(f"topic {topic}: the embedded broker is closed.")
            code = self._library.rd_kafka_mock_topic_create(self._cluster, topic.encode(), partitions, 1)
        if code:
            why = self._library.rd_kafka_err2str(code).decode()
            raise EmbeddedBrokerError(f"topic {topic}: the embedded broker refused to make it: {why}.")

    def down(self) -> None:
        """Refuse and cut all connections, as a broker that is away does; what it holds stays."""
        self._library.rd_kafka_mock_broker_set_down(self._cluster, 1)

    def up(self) -> None:
        """Listen again."""
        self._library.rd_kafka_mock_broker_set_up(self._cluster, 1)

    def close(self) -> None:
        """End the broker and its connections. A second call does nothing. Blocks for some milliseconds."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._forwarder is not None:
            self._forwarder.close()
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._handle)

    def __enter__(self) -> EmbeddedBroker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _make_cluster(library: ctypes.CDLL) -> tuple[int, int]:
    """A handle of librdkafka (not a Python client: it never connects) and the cluster of one broker that hangs on it."""
    reason = ctypes.create_string_buffer(512)
    configuration = library.rd_kafka_conf_new()
    # Errors only: it warns that it has no bootstrap.servers, and it is not to have any.
    library.rd_kafka_conf_set(configuration, b"log_level", b"3", reason, len(reason))
    handle = library.rd_kafka_new(_PRODUCER, configuration, reason, len(reason))
    if not handle:
        library.rd_kafka_conf_destroy(configuration)
        raise EmbeddedBrokerError(f"librdkafka made no handle for the embedded broker: {reason.value.decode()}.")
    cluster = library.rd_kafka_mock_cluster_new(handle, 1)
    if not cluster:
        library.rd_kafka_destroy(handle)
        raise EmbeddedBrokerError("librdkafka made no embedded broker: it could not listen on 127.0.0.1.")
    return int(handle), int(cluster)


def _load() -> ctypes.CDLL:
    """librdkafka with the types of what we call, from confluent-kafka's wheel or, for a build against the system's, from there."""
    tried = []
    for path in _candidates():
        try:
            library = ctypes.CDLL(path)
            _declare(library)
        except (OSError, AttributeError) as error:
            tried.append(f"{path}: {error}")
            continue
        return library
    raise EmbeddedBrokerError(
        "no librdkafka with its mock broker was found"
        + (f" ({'; '.join(tried)[:300]})" if tried else "")
        + ".\nThe embedded broker is a part of it. Install confluent-kafka 2.16 or later from its wheel."
    )


def _candidates() -> Iterator[str]:
    found = []
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("confluent-kafka") or []:
            # A static build has no library of its own: there the extension module exports the functions.
            if file.name.startswith(("librdkafka", "cimpl.")) and ".so" in file.name:
                found.append(str(file.locate()))
    found.sort(key=lambda path: "librdkafka" not in path.rpartition("/")[2])
    yield from found
    if system := ctypes.util.find_library("rdkafka"):
        yield system


def _declare(library: ctypes.CDLL) -> None:
    """Argument and result types: without them ctypes cuts pointers to 32 bits. AttributeError where one is not exported."""
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "rd_kafka_conf_new": (pointer, []),
        "rd_kafka_conf_set": (number, [pointer, text, text, text, ctypes.c_size_t]),
        "rd_kafka_conf_destroy": (None, [pointer]),
        "rd_kafka_new": (pointer, [number, pointer, text, ctypes.c_size_t]),
        "rd_kafka_destroy": (None, [pointer]),
        "rd_kafka_err2str": (text, [number]),
        "rd_kafka_mock_cluster_new": (pointer, [pointer, number]),
        "rd_kafka_mock_cluster_destroy": (None, [pointer]),
        "rd_kafka_mock_cluster_bootstraps": (text, [pointer]),
        "rd_kafka_mock_topic_create": (number, [pointer, text, number, number]),
        "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [pointer, ctypes.c_int32]),
        "rd_kafka_mock_set_group_consumer_session_timeout_ms": (None, [pointer, number]),
        "rd_kafka_mock_set_group_consumer_heartbeat_interval_ms": (None, [pointer, number]),
        "rd_kafka_mock_broker_set_down": (number, [pointer, ctypes.c_int32]),
        "rd_kafka_mock_broker_set_up": (number, [pointer, ctypes.c_int32]),
        "rd_kafka_mock_broker_set_host_port": (None, [pointer, ctypes.c_int32, text, number]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


class _Forwarder:
    """Listens on a port of 127.0.0.1 and passes every connection on to `target`, byte for byte, two threads for each."""

    def __init__(self, port: int, target: tuple[str, int]) -> None:
        self._target = target
        self._open: set[socket.socket] = set()
        try:
            self._listener = socket.create_server(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise EmbeddedBrokerError(
                f"the embedded broker cannot listen on 127.0.0.1:{port}: {error}.\n"
                "Choose another port, or 0 and let the system choose."
            ) from error
        threading.Thread(target=self._accept, name="forwarder", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # closed
                return
            try:
                far = socket.create_connection(self._target)
            except OSError:
                near.close()
                continue
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(source, sink), name="forwarder", daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                sink.sendall(data)
        for end in (source, sink):
            _cut(end)
            self._open.discard(end)

    def close(self) -> None:
        """Stop listening and cut all connections."""
        _cut(self._listener)
        for end in list(self._open):
            _cut(end)


def _cut(end: socket.socket) -> None:
    # shutdown first: close alone does not wake a thread that is waiting in accept or recv
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
