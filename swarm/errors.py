"""The exceptions of the package, as a tree; a caller branches on the type, a person reads the text.

SwarmError                a user's mistake or a state of the machine: shown as its text, never as a traceback
├─ ConfigurationError     an App, a subscription or an option that cannot work
├─ AppError               the application could not be loaded (import, hooks)
├─ AlreadyRunning         a daemon holds this run directory
└─ RunDirectoryError      socket, pid file or directory cannot be made
"""

from __future__ import annotations


def describe(error: BaseException) -> str:
    """Type and text of any exception, for events and headers; also of one whose own `__str__` raises."""
    name = type(error).__name__
    try:
        text = str(error)
    except Exception:
        text = "(its text cannot be made)"
    return f"{name}: {text}" if text else name


class SwarmError(Exception):
    """Says what is wrong, why, and how to mend it, in at most six lines."""


class ConfigurationError(SwarmError, ValueError):
    """An App, a subscription or an option that cannot work as it is written."""


class AppError(SwarmError):
    """The application could not be loaded. `frames` holds the application's own frames, innermost last."""

    def __init__(self, text: str, frames: str = "") -> None:
        super().__init__(text)
        self.frames = frames


class AlreadyRunning(SwarmError):
    """Another supervisor holds the lock of this run directory."""


class RunDirectoryError(SwarmError):
    """A file of the run directory cannot be made there."""
