"""A record's headers, read and checked so that no name can harm the process. Knows two faults of the client; no topic and no lane."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping
from typing import Any, Final

Read = list[tuple[str, bytes | None]]
"""What a handler sees."""
Given = list[tuple[str, str | bytes | None]] | dict[str, str | bytes | None] | None
"""What `produce` takes."""

_UNREADABLE: Final = "\N{REPLACEMENT CHARACTER}"


def headers_of(raw: Any) -> Read:
    """The headers of a client's message, in their order; empty where there are none. Kafka's names are bytes: in one that is not
    UTF-8 what cannot be read is U+FFFD; where a message has several such names, all but the last are U+FFFD alone.
    """
    try:
        return raw.headers() or []
    except SystemError as error:
        # confluent-kafka 2.16.1, measured: at such a name the first call raises this, and every later one answers with tuples
        # whose name is NULL; to touch one is a segmentation fault. So they are replaced before anybody can see them.
        readable = _readable(raw.headers() or [], error.__cause__)
        raw.set_headers(readable)
        return readable


def _readable(headers: Iterable[tuple[Any, Any]], cause: BaseException | None) -> Read:
    result: Read = []
    last = None
    for header in headers:
        parts = gc.get_referents(header)  # what is there, without touching what is not
        if len(parts) == 2:
            result.append(header)
        else:
            last = len(result)
            result.append((_UNREADABLE, parts[0]))
    if last is not None and isinstance(cause, UnicodeDecodeError):  # the client's own words for the last one
        result[last] = (cause.object.decode("utf-8", "replace"), result[last][1])
    return result


def check(headers: Given) -> None:
    """Raise for a name that the client would not survive (a lone surrogate ends the process, measured) or would garble (b"a" is
    written as the text "b'a'"): UnicodeEncodeError, TypeError."""
    for name in headers if isinstance(headers, Mapping) else (name for name, _ in headers or ()):
        if not isinstance(name, str):
            raise TypeError(f"a header's name is text, got {name!r}: decode it, or write it as text.")
        name.encode()
