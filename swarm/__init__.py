"""kafka-swarm: runs a Kafka consumer application in N processes and keeps it running.

Importing it is cheap: no Kafka client, no thread, no file. Names load when they are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swarm.app import App as App
    from swarm.consumer import Consumer as Consumer
    from swarm.message import Message as Message
    from swarm.message import Messages as Messages
    from swarm.plan import Backoff as Backoff
    from swarm.plan import DeadLetter as DeadLetter
    from swarm.plan import RateLimit as RateLimit
    from swarm.plan import VirtualPartitions as VirtualPartitions

__version__ = "0.1.0"

_HOMES = {
    "App": "swarm.app",
    "Backoff": "swarm.plan",
    "Consumer": "swarm.consumer",
    "DeadLetter": "swarm.plan",
    "Message": "swarm.message",
    "Messages": "swarm.message",
    "RateLimit": "swarm.plan",
    "VirtualPartitions": "swarm.plan",
}

__all__ = [
    "App",
    "Backoff",
    "Consumer",
    "DeadLetter",
    "Message",
    "Messages",
    "RateLimit",
    "VirtualPartitions",
    "__version__",
]


def __getattr__(name: str) -> Any:
    import importlib

    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'swarm' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value
