"""The chaos run's balance finds what it is there to find: each violation is planted once, and a history without any has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from tests.chaos import balance
from tests.chaos.accidents import TRACKS, schedule
from tests.chaos.balance import Causes, Findings, Semantics
from tests.chaos.evidence import Content, Fact, Log, Place, Said, Sample

PLACE: Place = ("orders", 0)
OTHER: Place = ("clicks", 1)

AT_LEAST_ONCE = Semantics()
AT_MOST_ONCE = Semantics(at_most_once=True)
BY_KEY = Semantics(by_key=True)
WITH_LETTERS = Semantics(letters="letters-out")
MARKING = Semantics(processed="mark")
LONG = Semantics(long_running=True)


def produced(*values: str, keys: str = "") -> dict[Place, list[Content]]:
    """Messages 0, 1, … of one partition; `keys` has a letter for each."""
    return {
        PLACE: [
            Content(PLACE, offset, (keys[offset] if keys else "k").encode(), f"{offset}:{value}".encode())
            for offset, value in enumerate(values)
        ]
    }


def fact(what: str, offsets: Sequence[int], at: float, pid: int = 1, instance: str = "a", attempt: int = 1) -> Fact:
    return Fact(what, PLACE, tuple(offsets), attempt, pid, f"{pid}.{instance}", at)


def ran(offsets: Sequence[int], at: float, pid: int = 1, instance: str = "a", attempt: int = 1) -> list[Fact]:
    """A run that took half a second."""
    return [fact("begin", offsets, at, pid, instance, attempt), fact("end", offsets, at + 0.5, pid, instance, attempt)]


def said(event: str, at: float, pid: int = 1, group: str = "group", **detail: object) -> Said:
    return Said(event, at, pid, group, frozenset({PLACE}), detail)


def judged(
    facts: Sequence[Fact],
    semantics: Semantics = AT_LEAST_ONCE,
    messages: Mapping[Place, Sequence[Content]] | None = None,
    committed: int | None = None,
    samples: Sequence[Sample] = (),
    log: Sequence[Said] = (),
    killed: Mapping[int, float] | None = None,
) -> dict[str, int]:
    """Violations by invariant of a group that was to handle three messages, or these."""
    messages = messages or produced("plain", "plain", "plain")
    findings = Findings()
    causes = Causes([Log(list(log))], killed or {})
    end = len(messages[PLACE]) if committed is None else committed
    balance.judge_group("group", semantics, facts, messages, samples, {PLACE: end}, causes, findings)
    return dict(findings.counts)


def sample(offset: int, asked: float, answered: float) -> Sample:
    return Sample("group", asked, answered, {PLACE: offset})


# -- histories in which nothing is wrong ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "more"),
    [
        pytest.param([*ran([0, 1], 1), *ran([2], 2)], {}, id="in order"),
        pytest.param(
            [fact("begin", [0, 1], 1), fact("fail", [0, 1], 1.5), *ran([0, 1, 2], 2, attempt=2)], {}, id="a retry"
        ),
        pytest.param(
            [*ran([0], 1), fact("begin", [1, 2], 2), *ran([1, 2], 4, pid=2)], {"killed": {1: 2.5}}, id="a kill"
        ),
        pytest.param(
            [*ran([0, 1, 2], 1), *ran([1, 2], 4, pid=2)], {"log": [said("partitions_lost", 9)]}, id="a loss, said late"
        ),
        pytest.param(
            [*ran([0], 1), *ran([1, 2], 9, pid=2), *ran([1, 2], 12)],
            {"killed": {1: 13}},
            id="who was frozen goes on, and is killed before it says what it has lost",
        ),
        pytest.param(
            [*ran([0], 1), *ran([2], 2)], {"semantics": AT_MOST_ONCE, "killed": {1: 1.7}}, id="cut off by a kill"
        ),
        pytest.param(
            [fact("begin", [0, 2], 1), fact("begin", [1], 1.1), fact("end", [0, 2], 2), fact("end", [1], 2)],
            {"semantics": BY_KEY, "messages": produced("plain", "plain", "plain", keys="aba")},
            id="two keys side by side",
        ),
        pytest.param(
            [fact("begin", [0], 1), fact("fail", [0], 1.2), *ran([1, 2], 2)],
            {"semantics": WITH_LETTERS, "messages": produced("poison", "plain", "plain")},
            id="poison set aside",
        ),
        pytest.param(
            [fact("begin", [0, 1, 2], 1), *ran([0, 1, 2], 3, pid=2), fact("end", [0, 1, 2], 4)],
            {"semantics": LONG, "log": [said("partitions_revoked", 2, seconds=0.0)]},
            id="revoked while it ran",
        ),
        pytest.param(
            [*ran([0, 1], 1), *ran([2], 2)],
            {"samples": [sample(0, 0.5, 0.6), sample(2, 1.6, 1.7)]},
            id="committed behind",
        ),
    ],
)
def test_a_sound_history_has_no_violation(facts: list[Fact], more: dict[str, object]) -> None:
    """What the invariants allow is not held against the swarm."""
    assert judged(facts, **more) == {}  # type: ignore[arg-type]


# -- histories in which something is -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("invariant", "facts", "more"),
    [
        (balance.LOST, ran([0, 1], 1), {}),
        (balance.LOST, [*ran([0, 1], 1), fact("begin", [2], 2)], {}),
        (balance.LOST, ran([0, 1, 2], 1), {"semantics": MARKING}),
        (balance.NOT_COMMITTED, ran([0, 1, 2], 1), {"committed": 2}),
        (balance.REPEATED, [*ran([0, 1, 2], 1), *ran([2], 4, pid=2)], {}),
        (balance.REPEATED, [*ran([0, 1, 2], 1), *ran([2], 4)], {}),
        (balance.REPEATED, [*ran([0, 1, 2], 1), *ran([2], 4, pid=2)], {"log": [said("partitions_lost", 2, group="x")]}),
        (balance.REPEATED, [*ran([0, 1, 2], 1), *ran([2], 4, pid=2)], {"log": [said("partitions_revoked", 2)]}),
        (balance.REPEATED, [*ran([0, 1, 2], 1), *ran([2], 4, pid=2)], {"killed": {2: 5.0}}),
        (balance.DISORDER, [*ran([1], 1), *ran([0], 2), *ran([2], 3)], {}),
        (balance.DISORDER, [fact("begin", [0], 1), fact("begin", [1], 2), *ran([0, 1, 2], 3)], {}),
        (balance.DISORDER, [*ran([2], 1), *ran([0, 1], 3)], {"semantics": AT_MOST_ONCE}),
        (
            balance.DISORDER,
            [*ran([2], 1), *ran([0, 1], 2)],
            {"semantics": BY_KEY, "messages": produced("plain", "plain", "plain", keys="aba")},
        ),
        (balance.TWO_AT_ONCE, [fact("begin", [0], 1), fact("begin", [1, 2], 1.1), fact("end", [0], 2)], {}),
        (balance.STRANGE, [*ran([0, 1, 2], 1), fact("strange", [0], 1)], {}),
        (
            balance.ONCE_TWICE,
            [*ran([0, 1, 2], 1), *ran([2], 4, pid=2)],
            {"semantics": AT_MOST_ONCE, "killed": {1: 3.0}},
        ),
        (balance.ONCE_SKIPPED, [*ran([0], 1), *ran([2], 2)], {"semantics": AT_MOST_ONCE}),
        (balance.PASSED, ran([0, 1, 2], 1), {"samples": [sample(1, 0.1, 0.2)]}),
        (balance.PASSED, ran([0, 1, 2], 1), {"semantics": AT_MOST_ONCE, "samples": [sample(2, 3, 3), sample(2, 9, 9)]}),
        (balance.WENT_BACK, ran([0, 1, 2], 1), {"samples": [sample(3, 2, 2), sample(2, 3, 3), sample(2, 9, 9)]}),
    ],
)
def test_a_planted_violation_is_found(invariant: str, facts: list[Fact], more: dict[str, object]) -> None:
    """Each invariant can fail."""
    assert judged(facts, **more)[invariant] >= 1  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("invariant", "offsets"),
    [
        ("", [0, 1, 2]),
        (balance.OUTPUT_MISSING, [0, 2]),
        (balance.OUTPUT_DOUBLE, [0, 1, 1, 2]),
        (balance.OUTPUT_DISORDER, [0, 2, 1]),
    ],
)
def test_outputs_are_there_once_and_in_order(invariant: str, offsets: list[int]) -> None:
    """One for each message, a key's in its order."""
    findings = Findings()
    outputs = [Content(OTHER, number, b"k", f"orders:0:{offset}".encode()) for number, offset in enumerate(offsets)]

    balance.judge_outputs("group", produced("plain", "plain", "plain"), {PLACE: 3}, outputs, findings)

    assert dict(findings.counts) == ({invariant: 1} if invariant else {})


@pytest.mark.parametrize(
    ("invariant", "letters"),
    [
        ("", [(1, b"1:poison")]),
        ("", [(1, b"1:poison"), (1, b"1:poison")]),
        (balance.LETTER_MISSING, []),
        (balance.LETTER_HEALTHY, [(1, b"1:poison"), (2, b"2:plain")]),
        (balance.LETTER_HEALTHY, [(1, b"something else")]),
    ],
)
def test_dead_letters_are_those_of_the_poisoned(invariant: str, letters: list[tuple[int, bytes]]) -> None:
    """At least one for each, with its content; none for another message."""
    findings = Findings()
    headers = {"swarm.source.topic": "orders", "swarm.source.partition": "0"}
    there = [
        Content(OTHER, number, b"k", value, {**headers, "swarm.source.offset": str(offset)})
        for number, (offset, value) in enumerate(letters)
    ]

    balance.judge_letters("group", produced("plain", "poison", "plain"), there, findings)

    assert dict(findings.counts) == ({invariant: 1} if invariant else {})


@pytest.mark.parametrize(
    ("invariant", "event", "detail"),
    [
        ("", "worker_exited", {"code": 0, "signal": None}),
        ("", "worker_stopping", {"reason": "requested"}),
        (balance.DIED, "worker_exited", {"code": None, "signal": "SIGSEGV"}),
        (balance.DIED, "worker_exited", {"code": 70, "signal": None}),
        (balance.DIED, "thread_died", {}),
        (balance.UNEXPLAINED_KILL, "worker_stopping", {"reason": "poll_timeout"}),
        (balance.UNEXPLAINED_KILL, "worker_killed", {"reason": "requested"}),
    ],
)
def test_a_process_that_was_left_alone_is_not_to_die(invariant: str, event: str, detail: dict[str, object]) -> None:
    """Nor to be stopped for a fault; one that the run itself has hurt may."""
    log = Log([Said(event, 1, 7, "", frozenset(), detail)])
    alone, hurt = Findings(), Findings()

    balance.judge_processes("first", log, {}, alone)
    balance.judge_processes("first", log, {7: [(0.5, "frozen")]}, hurt)

    assert dict(alone.counts) == ({invariant: 1} if invariant else {})
    assert dict(hurt.counts) == ({invariant: 1} if event == "thread_died" else {})


def test_the_schedule_follows_from_the_seed() -> None:
    """The same seed gives the same accidents, more seconds only add some, and every kind comes up sooner or later."""
    assert schedule(7, 600) == schedule(7, 600)
    assert schedule(7, 60) == [each for each in schedule(7, 600) if each.at < 60]
    assert schedule(7, 600) != schedule(8, 600)
    assert {each.kind for each in schedule(7, 600)} == {kind for track in TRACKS.values() for kind in track.kinds}
