"""What workers notice about the application, on its way to the findings of `status`."""

from __future__ import annotations

from swarm.observations import LONGEST, MOST, Observations
from swarm.supervisor.observed import Observed


def test_an_observation_is_told_once_and_again_when_it_grows() -> None:
    observations = Observations()
    observations.note("listener", "audit", "at batch_consumed: ValueError", 1)
    assert [each["count"] for each in observations.news()] == [1]
    assert observations.news() == []

    observations.note("listener", "audit", "x" * 1000, 2)

    (again,) = observations.news()
    assert (again["count"], len(again["example"])) == (2, LONGEST)


def test_names_that_are_made_up_do_not_fill_the_memory() -> None:
    observations = Observations()
    for number in range(MOST + 10):
        observations.note("listener", f"listener {number}", "", 1)

    assert len(observations.news()) == MOST


def test_findings_add_up_the_workers_and_name_them() -> None:
    observed = Observed()
    for worker, count in ((1, 8), (0, 2), (1, 16)):
        observed.heard(worker, {"kind": "listener", "where": "audit", "example": "at x: ValueError", "count": count})
    observed.heard(0, {"kind": "listener", "where": "*", "example": "at x: dropped", "count": 4})
    observed.heard(0, {"kind": "listener", "where": "slow", "example": "at x: it took 2.0 s: events", "count": 4})
    observed.heard(2, {"kind": "threads", "where": "subscription to orders", "example": "thread 'later'", "count": 3})

    slow, raising, slow_alone, threads = observed.findings()

    assert (slow["rule"], slow["what"]) == ("listener_fails", "listeners of the application are too slow")
    assert raising["evidence"] == "18 times, last at x: ValueError (workers 0, 1)"
    assert slow_alone["what"] == "the listener slow is too slow"
    assert threads["rule"] == "handler_leaves_threads"
    assert {"rule", "severity", "what", "cause", "fix", "evidence"} == set(threads)


def test_what_is_not_known_makes_no_finding() -> None:
    observed = Observed()
    observed.heard(0, {"kind": "something newer", "where": "x", "example": "", "count": 1})

    assert list(observed.findings()) == []
