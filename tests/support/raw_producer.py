"""Writes what confluent-kafka's Producer refuses or garbles: header names that are not text. Through librdkafka's C functions."""

from __future__ import annotations

import ctypes
import importlib.metadata
from collections.abc import Sequence

_PRODUCER = 0  # rd_kafka_type_t
_END, _TOPIC, _PARTITION, _VALUE, _MSGFLAGS, _HEADERS = 0, 1, 3, 4, 7, 10  # rd_kafka_vtype_t
_COPY = 2  # RD_KAFKA_MSG_F_COPY
_WITHIN = 15_000  # ms


def produce_raw(
    bootstrap: str, topic: str, value: bytes, headers: Sequence[tuple[bytes, bytes]], partition: int = 0
) -> None:
    """One message, byte for byte; returns when it is delivered, AssertionError where it is not."""
    library = _library()
    reason = ctypes.create_string_buffer(512)
    configuration = library.rd_kafka_conf_new()
    library.rd_kafka_conf_set(configuration, b"bootstrap.servers", bootstrap.encode(), reason, len(reason))
    producer = library.rd_kafka_new(_PRODUCER, configuration, reason, len(reason))
    assert producer, reason.value.decode()
    try:
        made = library.rd_kafka_headers_new(len(headers))
        for name, content in headers:
            library.rd_kafka_header_add(made, name, len(name), content, len(content))
        code = library.rd_kafka_producev(
            *(ctypes.c_void_p(producer), _TOPIC, topic.encode(), _PARTITION, ctypes.c_int32(partition)),
            *(_VALUE, value, ctypes.c_size_t(len(value)), _MSGFLAGS, _COPY, _HEADERS, ctypes.c_void_p(made), _END),
        )
        assert code == 0, f"librdkafka refused the message: error {code}"
        assert library.rd_kafka_flush(producer, _WITHIN) == 0, f"{topic} did not take the message"
    finally:
        library.rd_kafka_destroy(producer)


def _library() -> ctypes.CDLL:
    files = importlib.metadata.files("confluent-kafka") or []
    library = ctypes.CDLL(str(next(file.locate() for file in files if file.name.startswith("librdkafka"))))
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_ssize_t
    for name, result, arguments in (
        ("rd_kafka_conf_new", pointer, []),
        ("rd_kafka_conf_set", ctypes.c_int, [pointer, text, text, text, ctypes.c_size_t]),
        ("rd_kafka_new", pointer, [ctypes.c_int, pointer, text, ctypes.c_size_t]),
        ("rd_kafka_headers_new", pointer, [ctypes.c_size_t]),
        ("rd_kafka_header_add", ctypes.c_int, [pointer, text, size, text, size]),
        ("rd_kafka_flush", ctypes.c_int, [pointer, ctypes.c_int]),
        ("rd_kafka_destroy", None, [pointer]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
