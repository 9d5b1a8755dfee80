"""Debugging a worker's clients: which contexts there are, for how long, and a file that keeps no secret and no end of lines."""

from __future__ import annotations

import logging
import stat
from pathlib import Path

import pytest

from swarm import contexts
from swarm.debugging import DebugFile
from swarm.supervisor.debugging import Debugging, misfit


def record(text: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord("librdkafka", logging.DEBUG, "", 0, text, args, None)


def test_the_contexts_are_the_librarys_own_word() -> None:
    """Every one that it takes, also those that its other list forgets; nothing else."""
    known = contexts.known()

    assert {"generic", "broker", "topic", "metadata", "msg", "protocol", "cgrp", "security", "fetch", "conf"} <= set(
        known
    )
    assert {"telemetry", "all", "eos", "mock", "assignor", "interceptor", "plugin", "consumer", "admin"} <= set(known)
    assert contexts.unknown("cgrp, fetch") == []
    assert contexts.unknown("cgrp,ftech") == ["ftech"]
    assert contexts.split(" cgrp,,fetch,cgrp ") == ["cgrp", "fetch"]


@pytest.mark.parametrize("name", contexts.known())
def test_the_client_takes_each_of_them(name: str) -> None:
    """What is listed is accepted."""
    from confluent_kafka import Consumer

    quiet = logging.Logger("quiet", level=logging.CRITICAL + 1)
    client = Consumer({"group.id": "x", "debug": name, "bootstrap.servers": "127.0.0.1:1"}, logger=quiet)
    client.close()


def test_secrets_do_not_reach_the_file(tmp_path: Path) -> None:
    """Those of the properties, tokens that came while it ran, and user:password in an address."""
    path = tmp_path / "debug" / "worker-0.log"
    file = DebugFile(str(path), [{"sasl.password": "hunter2-planted", "client.id": "shop"}])
    file.emit(record("AUTH with %s for shop", "hunter2-planted"))
    file.emit(record("token eyJhbGciOi.eyJzdWIi.c2ln and Authorization: Bearer abc.def"))
    file.emit(record("https://user:secret@registry/"))

    text = path.read_text()
    assert "hunter2" not in text
    assert "eyJ" not in text
    assert "abc.def" not in text
    assert "secret@" not in text
    assert text.count("\n") == 3
    assert "for shop" in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_file_has_its_end(tmp_path: Path) -> None:
    """Which it says."""
    path = tmp_path / "worker-0.log"
    file = DebugFile(str(path), [], most=500)
    for number in range(100):
        file.emit(record(f"line {number}"))

    text = path.read_text()
    assert text.endswith("(this file has 500 bytes: what follows is left out)\n")
    assert len(text) < 600


def test_the_time_begins_with_the_worker_and_ends_once(tmp_path: Path) -> None:
    """Its successors within that time are debugged, too."""
    debugging = Debugging()
    debug = debugging.order(1, "cgrp", 60.0, tmp_path)
    assert debugging.over(1000.0) == []

    assert debugging.born(1, 1000.0) == debug
    assert debugging.born(0, 1000.0) is None
    assert debugging.born(1, 1030.0) == debug
    assert debugging.facts(1030.0)[0]["left"] == 30.0
    assert debugging.flags_of(1) == "cgrp"
    assert debugging.over(1059.0) == []
    assert debugging.over(1060.0) == [1]
    assert debugging.over(1060.0) == []
    assert not debugging.end(1)


def test_a_level_for_all_takes_back_that_of_one() -> None:
    """Empty is what the settings say."""
    debugging = Debugging()
    assert debugging.level_of(1) == ""
    debugging.set_level(1, "debug")
    assert (debugging.level_of(0), debugging.level_of(1)) == ("", "debug")
    debugging.set_level(None, "error")
    assert (debugging.level_of(0), debugging.level_of(1)) == ("error", "error")


@pytest.mark.parametrize(
    ("request_", "wrong"),
    [
        ({"command": "debug"}, ""),
        ({"command": "debug", "worker": 1, "flags": "cgrp,fetch", "seconds": 60}, ""),
        ({"command": "debug", "worker": 1, "off": True}, ""),
        ({"command": "debug", "worker": 9, "flags": "cgrp", "seconds": 60}, "there is no worker 9"),
        ({"command": "debug", "worker": True, "flags": "cgrp", "seconds": 60}, "there is no worker True"),
        ({"command": "debug", "flags": "cgrp", "seconds": 60}, "expected a worker's number"),
        ({"command": "debug", "worker": 1, "flags": "cgrp;rm", "seconds": 60}, "expected names"),
        ({"command": "debug", "worker": 1, "flags": "cgrp", "seconds": 0}, "expected more than 0"),
        ({"command": "debug", "worker": 1, "flags": "cgrp", "seconds": "long"}, "expected more than 0"),
        ({"command": "log_level", "level": "info"}, ""),
        ({"command": "log_level", "level": "loud"}, "expected one of debug, info, warning, error, got 'loud'"),
    ],
)
def test_requests_are_checked_before_anything_happens(request_: dict[str, object], wrong: str) -> None:
    """Whoever speaks to the socket is not only swarmctl."""
    found = misfit(request_, workers=2)

    assert (wrong in found) if wrong else found == ""
