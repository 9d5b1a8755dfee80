"""Known defects of old versions of what we stand on: a small table with its sources. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from swarm.doctor.finding import Severity

Version = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Defect:
    """Versions from `since` on and before `fixed` have it."""

    package: Literal["librdkafka", "confluent-kafka", "python"]
    since: Version
    fixed: Version
    what: str
    """Behind "Before 2.5.3"; where nothing is known, a sentence of its own."""
    source: str
    severity: Severity = "warning"
    known: bool = True


_LIBRDKAFKA: Final = "https://github.com/confluentinc/librdkafka/releases/tag/"

DEFECTS: Final = (
    Defect(
        "librdkafka",
        (0,),
        (2, 1, 1),
        "it crashes when a fetch from a follower ends its lease, and a fetch in the middle of an offset validation delivers messages twice",
        _LIBRDKAFKA + "v2.1.1",
    ),
    Defect(
        "librdkafka",
        (2, 1, 0),
        (2, 3, 0),
        "stored offsets without a leader epoch are not committed",
        "https://github.com/confluentinc/librdkafka/pull/4442",
    ),
    Defect(
        "librdkafka",
        (0,),
        (2, 4, 0),
        "messages are delivered twice from a stale fetch offset, and a cooperative consumer hangs if it is given partitions while it closes",
        _LIBRDKAFKA + "v2.4.0",
    ),
    Defect(
        "librdkafka",
        (2, 5, 0),
        (2, 5, 3),
        "an assertion ends the process where brokers ask for client metrics that it does not know (KIP-714)",
        _LIBRDKAFKA + "v2.5.3",
        "error",
    ),
    Defect(
        "confluent-kafka",
        (0,),
        (2, 16),
        "It was built and measured with 2.16; what older ones do is not known.",
        "pyproject.toml: confluent-kafka>=2.16",
        known=False,
    ),
    Defect(
        "python",
        (3, 12, 0),
        (3, 12, 3),
        "threads and forks are refused as soon as the interpreter begins to end, before other threads have finished",
        "https://github.com/python/cpython/pull/117029",
        "info",
    ),
)
"""Facts from release notes. An entry may go when its versions can no longer be installed with ours."""


def parsed(text: str) -> Version:
    """The numbers of a version: (2, 16, 1) of "2.16.1rc1"; () of what is none."""
    found = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def defects_of(package: str, version: str) -> list[Defect]:
    """What is known of an installed version; nothing of one that cannot be read."""
    number = parsed(version)
    return [d for d in DEFECTS if number and d.package == package and d.since <= number < d.fixed]
