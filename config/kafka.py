"""librdkafka's properties: the ones we own and why, their names in the environment, what is secret. Asks no librdkafka.

Whether a name exists and a value fits only librdkafka knows; `check` and `start` try that elsewhere, in a child.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from swarm.config.problems import Problem, shown
from swarm.config.schema import Property

_OFFSETS = "The swarm stores and commits offsets itself, after the handler; otherwise a crash loses messages."

OWNED: Final[Mapping[str, tuple[str, str]]] = {
    "group.id": (
        "The group is the daemon's, the same in all of its workers.",
        "Set swarm.group_id, or group= of the subscription.",
    ),
    "group.instance.id": (
        "Each worker needs its own, stable one: it is made of name, host and index.",
        "Set supervision.static_membership, swarm.name and swarm.host.",
    ),
    "enable.auto.commit": (_OFFSETS, "Remove it; worker.commit_interval says how often to commit."),
    "auto.commit.enable": (_OFFSETS, "Remove it; worker.commit_interval says how often to commit."),
    "enable.auto.offset.store": (_OFFSETS, 'Remove it; offsets="manual" of the subscription lets the handler mark.'),
    "auto.commit.interval.ms": (
        "The swarm commits, not librdkafka.",
        'Set worker.commit_interval (seconds, or text such as "500ms").',
    ),
    "offset.store.method": (_OFFSETS, "Remove it."),
    "offset.store.path": (_OFFSETS, "Remove it."),
    "auto.offset.reset": (
        "Where a group without offsets begins is a matter of each subscription, and out of range never a silent jump.",
        "Use initial_offset= and offset_out_of_range= of the subscription.",
    ),
    "enable.partition.eof": (
        "The end of a partition would arrive among the messages.",
        "Remove it; on_idle() is called where nothing is left to read.",
    ),
    "transactional.id": (
        "Each processing thread's producer needs one of its own.",
        'Remove it; use delivery="exactly_once" or self.transaction().',
    ),
    "plugin.library.paths": (
        "It loads foreign code into every worker, so it is forbidden.",
        "Remove it; statistics and interceptors are there as events (app.on).",
    ),
    "logger": ("The swarm logs what the client says.", "Remove it; set the section [log]."),
    "opaque": ("It belongs to callbacks, which are the swarm's.", "Remove it."),
}
"""Properties that are refused: why, and what to do instead."""

_CALLBACK: Final = ("Callbacks are the swarm's own.", "Remove it; listen to the events of the App instead (app.on).")
_NOT_A_CALLBACK: Final = "oauth_cb"
"""The one callback a subscription may bring, as a callable: only the application knows where its tokens come from."""

_UNDERSCORED: Final = {"log_level"}
"""The one property in use whose own name has an underscore (librdkafka 2.16)."""

HIDDEN: Final = "********"
_SECRET: Final = re.compile(
    r"^sasl\.(?!mechanisms?$|oauthbearer\.method$)|^ssl[._]key|passw|passphrase|secret|token|jaas|private|credential|user\.info"
)
_URL_USER: Final = re.compile(r"(?<=://)[^\s/@:\"']*:[^\s/@\"']*(?=@)")
"""Stricter than the next one: in texts of which we do not know that they are properties, an address of an e-mail is none of our business."""
_USERINFO: Final = re.compile(r"[^\s,/@]+:[^\s,/@]*@")
_QUERY: Final = re.compile(
    r"([?&][^=&\s]*(?:token|secret|passw|key|credential|signature)[^=&\s]*=)[^&\s\"']+", re.IGNORECASE
)
"""A secret in a URL's parameters: `?access_token=…`."""


def property_name(variable: str) -> str:
    """The property that the part of a variable after SWARM_KAFKA__ means: BOOTSTRAP_SERVERS -> bootstrap.servers."""
    lower = variable.lower()
    return lower if lower in _UNDERSCORED else lower.replace("_", ".")


def property_value(text: str) -> Property:
    """The value of a property that was given as text: an integer where it loses nothing, else the text itself.

    librdkafka reads text anyway; "1e5" or "007" as a number would be another password.
    """
    return int(text) if re.fullmatch(r"0|-?[1-9][0-9]{0,17}", text) else text


def flat(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """(property, value) of a TOML table; without quotes TOML makes `bootstrap.servers` a table in a table."""
    found: list[tuple[str, Any]] = []
    for key, value in table.items():
        found += flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return found


def check_properties(properties: Mapping[str, Any], where: str, source: str | Callable[[str], str]) -> list[Problem]:
    """What is wrong with properties of `[kafka]` or of a subscription's `kafka=`, except what only librdkafka knows.

    where: what comes before the property's name in a problem ("kafka"). source: where they were written, or a function that
    knows it for each property.
    """
    problems = []
    for name, value in properties.items():
        found = _refusal(name, value)
        if found is not None:
            origin = source if isinstance(source, str) else source(name)
            problems.append(Problem(f"{where}.{name}", origin, *found))
    return problems


def redact(properties: Mapping[str, Any]) -> dict[str, Any]:
    """The properties for people and logs: passwords, keys, tokens and SASL's settings hidden, as are user:password@ and ?token= in a URL."""
    return {name: _redacted(name, value) for name, value in properties.items()}


def hidden(text: str, properties: Mapping[str, Any]) -> str:
    """The text without what `redact` hides in these properties, should a library or an application have quoted it."""
    for name, value in properties.items():
        secret = str(value)
        if len(secret) > 3 and not isinstance(value, bool) and _redacted(name, value) == HIDDEN:
            for written in (secret, json.dumps(secret)[1:-1]):
                text = text.replace(written, HIDDEN)
    return _QUERY.sub(rf"\1{HIDDEN}", _USERINFO.sub(f"{HIDDEN}@", text))


def hider(tables: Iterable[Mapping[str, Any]]) -> Callable[[str], str]:
    """A function that takes out of a text what `redact` hides in these tables of properties, and user:password@ and ?token= of a URL, should a
    library or an application have quoted it. Some microseconds; any thread."""
    secrets: set[str] = set()
    for table in tables:
        for name, value in table.items():
            for secret in _secrets_in(name, value):
                secrets |= {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1]}
    longest_first = sorted(secrets, key=len, reverse=True)  # one may be a part of another

    def hide(text: str) -> str:
        for secret in longest_first:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        return _QUERY.sub(rf"\1{HIDDEN}", _URL_USER.sub(HIDDEN, text)) if "://" in text else text

    return hide


def _secrets_in(name: str, value: object) -> Iterator[str]:
    """The texts of a property that nobody else may see: all of a secret value, what it assigns (token=…), the lines of a key, and the
    password in a URL. What is shorter than four characters would be found everywhere."""
    if not isinstance(value, str):
        return
    found = [user[:-1].partition(":")[2] for user in _USERINFO.findall(value)]
    if _redacted(name, value) == HIDDEN:
        found += [value, *re.findall(r"=\s*[\"']?([^\s\"';,]{6,})", value)]
        if "PRIVATE KEY" in value:
            found += [line for line in value.splitlines() if len(line) >= 16 and not line.startswith("-----")]
    yield from (each for each in found if len(each) > 3)


def _refusal(name: str, value: object) -> tuple[str, str] | None:
    """(what, fix) if the property is refused."""
    if name == _NOT_A_CALLBACK and callable(value):
        return None
    is_callback = name.endswith("_cb") or name in {"on_commit", "on_delivery"} or callable(value)
    if name in OWNED or is_callback:
        why, fix = OWNED.get(name, _CALLBACK)
        return f"is not yours to set. {why.rstrip('.')}", fix
    return _misfit(name, value)


def _misfit(name: str, value: object) -> tuple[str, str] | None:
    """(what, fix) if the value is of no kind that a property may have."""
    if isinstance(value, list):
        return "expected a text, a number or true/false, got a list", 'Write one text with commas: "first,second".'
    if isinstance(value, str) and ("\0" in value or not _is_unicode(value)):
        return "expected a text in UTF-8 without NUL", "librdkafka would read it only in part; write it anew."
    scalar = isinstance(value, str | int | float) and not (isinstance(value, float) and not math.isfinite(value))
    if not scalar:
        got = shown(_redacted(name, value))
        return (
            f"expected a text, a number or true/false, got {got}",
            "Write the value as librdkafka's documentation has it.",
        )
    return None


def _is_unicode(text: str) -> bool:
    """False for what the environment holds in another encoding (lone surrogates in Python)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _redacted(name: str, value: object) -> object:
    if _SECRET.search(name.lower()) or (isinstance(value, str) and "PRIVATE KEY" in value):
        return HIDDEN
    return _QUERY.sub(rf"\1{HIDDEN}", _USERINFO.sub(f"{HIDDEN}@", value)) if isinstance(value, str) else value
