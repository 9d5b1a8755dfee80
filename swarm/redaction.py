"""Secrets out of what is shown of messages: values under telling names, and whatever is planted in [kafka]. Pure.

A message may hold anything, so this is a net and no wall: it finds what is called a password, a token and the like, wherever it stands in JSON, in
headers and in text, credentials in URLs, private keys, and the secrets of the settings themselves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from swarm.config import redact

HIDDEN: Final = "********"
_NAMES: Final = (
    r"passw(?:or)?d|passwd|pwd|passphrase|secret|token|api[-_ ]?key|apikey|access[-_ ]?key|auth(?:orization|entication)?"
    r"|credential|private[-_ ]?key|cookie|jaas|signature|otp|cvv|cvc"
)
_NAME: Final = re.compile(rf"(?:^|[^a-z])(?:{_NAMES})s?(?:$|[^a-z])|(?:passw(?:or)?d|passphrase|secret|token|api[-_]?key|credential|authorization)s?$", re.I)  # fmt: skip
_IN_TEXT: Final = re.compile(
    rf"""((?:{_NAMES})[\w.-]{{0,40}}\\?["']?\s*[:=]\s*)(\\?"(?:[^"\\]|\\.)*\\?"|'[^']*'|(?:(?:bearer|basic)\s+)?[^\s,;&"'}}\])]+)""",
    re.I,
)
_SCHEME: Final = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}", re.I)
_TOKEN: Final = re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_USERINFO: Final = re.compile(r"[^\s,/@:]{1,64}:[^\s,/@]{1,256}@")  # bounded: a value may be a megabyte without a space
_PEM: Final = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S)
_DEEPEST: Final = 50


@dataclass(frozen=True, slots=True)
class Redaction:
    """What is hidden for these properties of [kafka]."""

    properties: Mapping[str, Any]

    def name(self, name: str) -> bool:
        """Whether a value of this name is a secret by its name: `password`, `apiToken`, `X-Api-Key`."""
        spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
        return _NAME.search(spaced) is not None or _NAME.search(name) is not None

    def text(self, text: str) -> str:
        """A text without them. Its time grows with its length, whatever is in it."""
        for secret in self._planted():
            for written in (secret, json.dumps(secret)[1:-1]):
                text = text.replace(written, HIDDEN)
        text = _USERINFO.sub(f"{HIDDEN}@", _PEM.sub(HIDDEN, text))
        text = _IN_TEXT.sub(lambda found: found[1] + HIDDEN, text)
        return _TOKEN.sub(HIDDEN, _SCHEME.sub(lambda found: f"{found[1]} {HIDDEN}", text))

    def _planted(self) -> list[str]:
        """The secrets of the settings."""
        shown = redact(self.properties)
        return [str(value) for name, value in self.properties.items() if len(str(value)) > 3 and shown[name] == HIDDEN]

    def value(self, value: Any, depth: int = 0) -> Any:
        """JSON without them: what stands under a telling name, and what is in texts."""
        if depth > _DEEPEST:
            return HIDDEN
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {
                self.text(str(name)): HIDDEN
                if self.name(str(name)) and each is not None
                else self.value(each, depth + 1)
                for name, each in value.items()
            }
        if isinstance(value, list | tuple | set | frozenset):
            return [self.value(each, depth + 1) for each in value]
        return value

    def data(self, data: bytes) -> bytes:
        """Bytes without the secrets of the settings: for what is no text."""
        for secret in self._planted():
            data = data.replace(secret.encode(), HIDDEN.encode())
        return data


def plain(value: Any) -> Any:
    """What a deserializer made, as JSON would have it: dataclasses, models and objects by their fields."""
    return json.loads(json.dumps(value, default=_fields, ensure_ascii=False))


def _fields(value: Any) -> Any:
    import dataclasses

    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    for method in ("model_dump", "_asdict"):  # pydantic's, and named tuples'
        if callable(found := getattr(value, method, None)):
            return found()
    if isinstance(value, bytes | bytearray | memoryview):
        return decoded(bytes(value))
    if isinstance(value, set | frozenset):
        return list(value)
    fields = getattr(value, "__dict__", None)
    return fields if fields else str(value)


def decoded(data: bytes) -> str:
    """Text where it is one, else hexadecimal digits."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return f"hex:{data.hex()}"
    return text if all(each.isprintable() or each in "\n\r\t" for each in text) else f"hex:{data.hex()}"
