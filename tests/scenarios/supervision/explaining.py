"""`swarmctl why` as a program reads it, and the application whose partitions wait for every reason there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from swarm.cli.explaining import explain, to_json
from swarm.control import ControlError, NotRunning
from tests.support.daemon import Daemon

Why = dict[str, Any]

APP = """
    import ctypes, os, time
    from pathlib import Path
    from swarm import App, Backoff, Consumer, RateLimit

    app = App("shop")
    GATE, ONCE = Path(__file__).with_name("gate"), Path(__file__).with_name("once")

    def charge(what):
        if what == "sleep":
            while not GATE.exists():
                time.sleep(0.1)
        if what == "gil" and not ONCE.exists():
            ONCE.touch()
            ctypes.PyDLL(None).sleep(60)
        if what == "fail" and not GATE.exists():
            raise TimeoutError("the bank does not answer")
        if what == "die":
            os._exit(7)

    @app.subscribe("ORDERS", max_messages=1, backoff=Backoff(initial=30.0, maximum=30.0))
    class Orders(Consumer):
        def consume(self, messages):
            charge(messages[0].raw.decode())
            if messages[0].raw == b"pause":
                self.mark_as_consumed(messages[0])
                self.pause(60.0)
"""


def why(daemon: Daemon, subject: str | None = None) -> Why:
    """What `swarmctl why SUBJECT --json` answers; asked in this process, for a loaded machine takes seconds to start another."""
    place: int | tuple[str, int | None] | None = None
    if subject is not None:
        topic, slash, number = subject.rpartition("/")
        place = (topic, int(number)) if slash else int(subject)
    try:
        answer: Why = json.loads(
            json.dumps(to_json(explain([Path(str(daemon.settings["swarm"]["run_dir"]))], place, None, None)))
        )
    except NotRunning:
        return by_command(daemon, *([subject] if subject else []))
    return answer


def by_command(daemon: Daemon, *args: str) -> Why:
    """`swarmctl why ARGS --json`; it never fails, whatever the swarm does."""
    done = daemon.run("why", *args, "--json")
    assert done.returncode == 0, done.stderr
    answer: Why = json.loads(done.stdout)
    return answer


def mentioned(daemon: Daemon, rule: str, subject: str | None = None, within: float = 30.0) -> dict[str, Any]:
    """Blocks until this rule is among the findings, and returns its finding."""

    def found() -> dict[str, Any] | None:
        return next((each for each in why(daemon, subject)["findings"] if each["rule"] == rule), None)

    return daemon.wait_for(found, within, f"why {subject or ''} to mention {rule}")


def until(daemon: Daemon, rule: str, subject: str | None = None, within: float = 30.0) -> Why:
    """Blocks until the verdict is this rule's, and returns the answer."""
    seen: list[str] = []

    def found() -> Why | None:
        try:
            answer = why(daemon, subject)
        except ControlError:
            return None  # it is about to end
        seen[:] = [answer["verdict"]]
        return answer if answer["rule"] == rule else None

    try:
        return daemon.wait_for(found, within, f"why {subject or ''} to say {rule}")
    except AssertionError as failure:
        raise AssertionError(f"the last verdict was: {seen}\n{failure}") from None
