"""What shall happen in a chaos run, and when: everything follows from the seed. Pure: touches no process.

Four tracks go on side by side: the workers, the daemons, the brokers, the network. Within a track one accident ends before the
next begins; of the brokers only one at a time is away, for with two the third may not write.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Accident:
    """`at` and `lasts` are seconds, from the beginning of the run. Which worker, broker or ending: `chance`, from 0 to 1."""

    at: float
    kind: str
    lasts: float
    chance: float

    def __str__(self) -> str:
        lasts = f" for {self.lasts:.1f} s" if self.lasts else ""
        return f"{self.at:6.1f}  {self.kind}{lasts} ({self.chance:.3f})"


@dataclass(frozen=True, slots=True)
class Track:
    """How often something of these kinds happens. gap: seconds between them; kinds: name -> (weight, least and most seconds)."""

    gap: tuple[float, float]
    kinds: Mapping[str, tuple[int, float, float]]


TRACKS = {
    "workers": Track(
        (0.5, 4.0),
        {
            "worker killed": (35, 0, 0),
            "worker told to go": (15, 0, 0),
            "worker frozen": (20, 0.5, 9),
            "worker stopped for good": (5, 0, 0),
            "worker crashed": (5, 0, 0),
            "all workers of a daemon killed": (4, 0, 0),
            "backtraces": (6, 0, 0),
        },
    ),
    "daemons": Track(
        (3.0, 10.0),
        {
            "second daemon": (45, 3, 15),
            "supervisor killed": (15, 0, 2),
            "supervisor frozen": (10, 1, 7),
            "swarm restarted": (15, 0, 2),
            "swarm quiet": (10, 1, 4),
            "swarm scaled": (25, 3, 10),
            "workers replaced": (10, 2, 6),
            "swarm reloaded": (10, 2, 6),
        },
    ),
    "brokers": Track(
        (6.0, 12.0),
        {
            "broker restarted": (35, 0.5, 4),
            "broker killed": (35, 0.5, 5),
            "broker frozen": (30, 1, 9),
        },
    ),
    "network": Track(
        (4.0, 12.0),
        {
            "network slow": (30, 3, 10),
            "network held": (35, 1, 9),
            "network cut": (25, 0.5, 6),
            "connections reset": (15, 0, 0),
        },
    ),
}


def schedule(seed: int, seconds: float, tracks: Iterable[str] = TRACKS) -> list[Accident]:
    """All that happens, in order. A track's part does not depend on which others there are."""
    return sorted(
        (each for name in tracks for each in _of(name, random.Random(f"{seed} {name}"), seconds)),
        key=lambda accident: accident.at,
    )


def _of(name: str, chance: random.Random, seconds: float) -> Iterable[Accident]:
    track = TRACKS[name]
    kinds = list(track.kinds)
    weights = [track.kinds[kind][0] for kind in kinds]
    at = chance.uniform(*track.gap)
    while at < seconds:
        kind = chance.choices(kinds, weights)[0]
        _, least, most = track.kinds[kind]
        accident = Accident(at, kind, chance.uniform(least, most), chance.random())
        yield accident
        # Workers that freeze do not keep others from dying.
        at += (0.0 if name == "workers" else accident.lasts) + chance.uniform(*track.gap)
