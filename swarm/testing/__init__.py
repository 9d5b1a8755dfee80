"""For the tests of an application: feed its handlers in-process, run it under a real swarm with faults, judge it by the invariants.

`feed` and `message` need nothing but this package; the pytest fixtures `swarm_broker` and `swarm_daemon` come with the extra
`testing` (see docs/testing.md). Names load when they are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swarm.testing.broker import SwarmBroker as SwarmBroker
    from swarm.testing.daemon import SwarmDaemon as SwarmDaemon
    from swarm.testing.feeding import Outcome as Outcome
    from swarm.testing.feeding import feed as feed
    from swarm.testing.feeding import message as message
    from swarm.testing.gathering import gather as gather
    from swarm.testing.invariants import Checker as Checker
    from swarm.testing.invariants import Facts as Facts
    from swarm.testing.invariants import Violation as Violation
    from swarm.testing.invariants import check as check
    from swarm.testing.stage import EPOCH as EPOCH

_HOMES = {
    "EPOCH": "swarm.testing.stage",
    "Checker": "swarm.testing.invariants",
    "Facts": "swarm.testing.invariants",
    "Outcome": "swarm.testing.feeding",
    "SwarmBroker": "swarm.testing.broker",
    "SwarmDaemon": "swarm.testing.daemon",
    "Violation": "swarm.testing.invariants",
    "check": "swarm.testing.invariants",
    "feed": "swarm.testing.feeding",
    "gather": "swarm.testing.gathering",
    "message": "swarm.testing.feeding",
}

__all__ = [
    "EPOCH",
    "Checker",
    "Facts",
    "Outcome",
    "SwarmBroker",
    "SwarmDaemon",
    "Violation",
    "check",
    "feed",
    "gather",
    "message",
]


def __getattr__(name: str) -> Any:
    import importlib

    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'swarm.testing' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value
