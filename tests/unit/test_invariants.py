"""The invariants, judged from facts: each is heard where it is broken, and keeps silent where it is not."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.testing.invariants import Checker, Facts, check, merged, read_events, report
from swarm.testing.ranges import Ranges
from tests.support.history import GROUP, TOPIC, History, World


def one_worker(**semantics: object) -> History:
    """A worker, pid 7, that holds partition 0 from offset 0."""
    history = History(**semantics)
    history.start(7)
    history.assign(7)
    return history


def two_workers(**semantics: object) -> History:
    history = one_worker(**semantics)
    history.start(8, 1)
    return history


# -- lost --------------------------------------------------------------------------------------------


def test_a_message_that_was_passed_over_is_lost() -> None:
    """Offsets 5 to 7 are committed, and nobody handled them."""
    history = one_worker()
    history.run(7, 0, 4)
    history.exit(7, None, "SIGKILL")
    history.start(8)
    history.assign(8, 8)
    history.run(8, 8, 9)

    violations = history.judge(committed=10, contents=range(10))

    assert [each.invariant for each in violations] == ["lost"]
    assert "5-7 handled by nobody" in violations[0].text


def test_offsets_without_a_message_are_not_lost() -> None:
    """Markers of transactions and what was compacted take offsets; so contents are read, not counted."""
    history = one_worker()
    history.run(7, 0, 4)
    history.run(7, 8, 9)
    history.commit(7, 10)

    assert history.broken(committed=10, contents=[0, 1, 2, 3, 4, 8, 9]) == []
    assert history.broken(committed=10, contents=range(10)) == ["order", "commit_past_work"]


def test_what_was_set_aside_or_skipped_is_not_lost() -> None:
    """Dead letters, messages that a filter or an age let pass, and those that at-most-once dropped."""
    history = one_worker()
    history.begin(7, 0, 4)
    history.fail(7, 0, 4)
    history.set_aside(7, 0)
    history.run(7, 1, 4)
    history.skip(7, 5, 7)
    history.run(7, 8, 9)
    history.commit(7, 10)

    assert history.broken(committed=10, contents=range(10), complete=True) == []


def test_what_is_left_over_is_lost_only_where_everything_was_to_be_consumed() -> None:
    """A swarm may be stopped before it has read all; it may not be taken for one that has."""
    history = one_worker()
    history.run(7, 0, 4)
    history.commit(7, 5)

    assert history.broken(committed=5, contents=range(10)) == []
    assert set(history.broken(committed=5, contents=range(10), complete=True)) == {"lost"}


def test_a_partition_that_nobody_got_is_lost_where_everything_was_to_be_consumed() -> None:
    """No event names it, so only what the topics hold tells."""
    history = History()

    assert history.broken(committed=0, contents=range(3)) == []
    assert history.broken(committed=0, contents=range(3), complete=True) == ["lost"]


def test_a_message_that_is_missing_inside_a_batch_is_lost() -> None:
    """The batch says how many messages it has: fewer than there are between its first and last."""
    history = one_worker()
    history.begin(7, 0, 9, count=8)
    history.end(7, 0, 9)

    assert history.broken(contents=range(10)) == ["lost"]
    assert history.broken(contents=[0, 1, 2, 3, 5, 7, 8, 9]) == []


def test_at_most_once_may_lose() -> None:
    """What it promises is another thing."""
    history = one_worker(delivery="at_most_once")
    history.commit(7, 5)
    history.begin(7, 0, 4)
    history.exit(7, None, "SIGKILL")

    assert history.broken(committed=5, contents=range(5)) == []


# -- twice -------------------------------------------------------------------------------------------


def test_a_repetition_without_a_cause_is_found() -> None:
    """Graceful in every step, and yet handled twice."""
    history = two_workers()
    history.run(7, 0, 9)
    history.commit(7, 5)
    history.revoke(7)
    history.assign(8, 5)
    history.run(8, 5, 9)

    violations = history.judge()

    assert [each.invariant for each in violations] == ["twice"]
    assert "5-9 handled again" in violations[0].text
    assert "pid 7" in str(violations[0])
    assert "pid 8" in str(violations[0])


@pytest.mark.parametrize(
    "cause",
    [
        "loss",
        "crash",
        "refused commit",
        "given up",
        "orphan",
        "failed run",
        "hook",
        "seek",
        "fatal client",
        "announced fault",
    ],
)
def test_a_repetition_elsewhere_with_a_recorded_cause_is_legal(cause: str) -> None:
    """Each cause by which work is done and its commit is not."""
    history = two_workers()
    history.begin(7, 0, 9)
    if cause == "failed run":
        history.fail(7, 0, 9)
    elif cause != "given up":
        history.end(7, 0, 9)
    match cause:
        case "loss":
            history.lose(7)
        case "crash":
            history.exit(7, None, "SIGSEGV")
        case "refused commit":
            history.refuse(7, 10)
        case "given up":
            history.give_up(7)
        case "orphan":
            history.say("orphaned", 7, 0)
        case "hook":
            history.say("hook_failed", 7, 0, hook="on_revoked", topic=TOPIC, partition=0, error="")
        case "seek":
            history.one("partition_sought", 7, offset=0)
        case "fatal client":
            history.say("client_error", 7, 0, group=GROUP, code="_FENCED", error="", fatal=True, count=1)
        case "announced fault":
            history.say("fault", 7, kind="freeze")
    if cause != "crash":
        history.revoke(7)
    history.assign(8)
    history.run(8, 0, 9)

    assert history.judge() == []


def test_the_cause_may_be_told_after_the_repetition() -> None:
    """A frozen process learns of its loss when it goes on; meanwhile another one has done the work again."""
    history = two_workers()
    history.run(7, 0, 9)
    history.assign(8)
    history.run(8, 0, 9)
    history.lose(7)

    assert history.judge() == []


def test_a_retry_repeats_what_failed_and_nothing_else() -> None:
    """Within one assignment, only a failure of those very messages lets them run again."""
    history = one_worker()
    history.begin(7, 0, 9)
    history.fail(7, 0, 9)
    history.end(7, 0, 3)  # it had marked these
    history.run(7, 4, 9, attempt=2)
    assert history.judge() == []

    history.run(7, 4, 9)
    assert history.broken() == ["twice"]


def test_causes_are_counted_by_kind() -> None:
    """The balance of a run with accidents: how many messages were handled again, and why."""
    history = one_worker()
    history.begin(7, 0, 9)
    history.fail(7, 0, 9)
    history.run(7, 0, 9, attempt=2)
    checker = Checker(history.book)
    for event in history.events:
        checker.feed(event)

    assert checker.finish() == []
    assert checker.repeated == {"failure": 10}


def test_another_process_failure_is_no_cause() -> None:
    """A failure explains what the process that failed had done, and not what somebody else did."""
    history = two_workers()
    history.run(7, 0, 9)
    history.revoke(7)
    history.assign(8)
    history.begin(8, 0, 9)
    history.fail(8, 0, 9)

    assert history.broken() == ["twice"]


def test_what_a_handler_did_not_mark_comes_again_at_the_next_holder() -> None:
    """Manual offsets: returning without marking is a statement, too."""
    for manual, expected in ((True, []), (False, ["twice"])):
        history = two_workers(manual=manual)
        history.run(7, 0, 9)
        history.revoke(7)
        history.assign(8)
        history.run(8, 0, 9)

        assert history.broken() == expected


def test_a_long_running_job_is_not_waited_for() -> None:
    """So the next holder repeats it; any other job is waited for."""
    for long_running, expected in ((True, []), (False, ["twice"])):
        history = two_workers(long_running=long_running)
        history.begin(7, 0, 9)
        history.revoke(7)
        history.assign(8)
        history.run(8, 0, 9)

        assert history.broken() == expected


def test_each_that_was_asked_to_end_early_leaves_the_rest_unseen() -> None:
    """What it did not reach is handled by the next one for the first time; also where it did not reach anything."""
    history = two_workers(each=True)
    history.begin(7, 0, 9)
    history.end(7, 0, 3)
    history.commit(7, 4)
    history.begin(7, 4, 9)
    history.revoke(7)
    history.assign(8, 4)
    history.run(8, 4, 9)

    assert history.judge() == []


# -- at most once, exactly once ----------------------------------------------------------------------


def test_at_most_once_excuses_no_repetition() -> None:
    """Neither a failure nor a crash."""
    failed, killed = one_worker(delivery="at_most_once"), one_worker(delivery="at_most_once")
    for history in (failed, killed):
        history.commit(7, 10)
        history.begin(7, 0, 9)
    failed.fail(7, 0, 9)
    failed.begin(7, 0, 9, attempt=2)
    killed.exit(7, None, "SIGKILL")
    killed.start(8)
    killed.assign(8, 0)
    killed.begin(8, 0, 9)

    assert failed.broken() == ["at_most_once"]
    assert set(killed.broken()) == {"commit_went_back", "at_most_once"}


def test_at_most_once_goes_on_behind_the_message_that_failed() -> None:
    """`each` stops where it raised: the messages behind it were seen by nobody."""
    history = one_worker(delivery="at_most_once", each=True)
    history.commit(7, 10)
    history.begin(7, 0, 9)
    history.fail(7, 3, 9)
    history.drop(7, 3, 3)
    history.end(7, 0, 3)
    history.run(7, 4, 9)

    assert history.judge(committed=10) == []


def test_outputs_of_exactly_once_appear_once() -> None:
    """An aborted run repeats the handling, not the output."""
    history = one_worker(delivery="exactly_once")
    history.begin(7, 0, 2)
    history.abort(7, 0, 2)
    history.run(7, 0, 2)

    assert history.judge(committed=3, outputs=[0, 1, 2]) == []
    assert history.broken(committed=3, outputs=[0, 1, 1, 2]) == ["exactly_once"]
    assert history.broken(committed=3, outputs=[0, 2]) == ["lost"]


@pytest.mark.parametrize(
    ("delivery", "twice", "none"),
    [
        ("at_least_once", [], ["lost"]),
        ("at_most_once", ["at_most_once"], []),
        ("exactly_once", ["exactly_once"], ["lost"]),
    ],
)
def test_what_handlers_really_made_is_judged_too(delivery: str, twice: list[str], none: list[str]) -> None:
    """A handler that marks what it has not done lies to the swarm, and not to whoever counts the outputs."""
    history = one_worker(delivery=delivery)
    history.run(7, 0, 2)

    assert history.broken(outputs=[0, 1, 2]) == []
    assert history.broken(outputs=[0, 1, 1, 2]) == twice
    assert history.broken(outputs=[0, 2]) == none


def test_an_undecided_transaction_may_have_happened() -> None:
    """Its process does not know; where it goes on tells."""
    history = one_worker(delivery="exactly_once")
    history.begin(7, 0, 4)
    history.abort(7, 0, 4, error="Undecided: …")
    history.run(7, 5, 9)

    assert history.judge(committed=10, contents=range(10)) == []


# -- order, one job, own partitions, one owner -------------------------------------------------------


def test_messages_out_of_order_are_found() -> None:
    """Within an assignment; what is handled later had its turn before."""
    history = one_worker()
    history.run(7, 5, 9)
    history.run(7, 0, 4)

    violations = history.judge(contents=range(10))

    assert [each.invariant for each in violations] == ["order"]
    assert "0-4 not handled by then, but later" in violations[0].text


def test_two_jobs_of_a_partition_at_once_are_found() -> None:
    """In one process: the second begins before the first has ended."""
    history = one_worker()
    history.begin(7, 0, 4)
    history.begin(7, 5, 9)

    assert "one_job" in history.broken()


def test_a_partition_that_comes_back_waits_for_the_job_before() -> None:
    """A long-running job survives its assignment; the next one of the same process does not run beside it."""
    for ended, expected in ((True, []), (False, ["one_job"])):
        history = one_worker(long_running=True)
        history.begin(7, 0, 4)
        history.revoke(7)
        history.assign(7, 0)
        if ended:
            history.end(7, 0, 4)
        history.run(7, 0, 4)

        assert history.broken() == expected


def test_a_run_in_a_partition_that_is_not_held_is_found() -> None:
    """Never assigned, or given back before."""
    history = two_workers()
    history.begin(8, 0, 4)
    assert history.broken() == ["own_partitions"]

    history = one_worker()
    history.revoke(7)
    history.begin(7, 0, 4)
    assert history.broken() == ["own_partitions"]


def test_a_loss_waits_for_nobody() -> None:
    """One run may begin in the instant after it: its thread had the messages in hand. A second one, or a later one, may not."""
    history = one_worker()
    history.lose(7)
    history.run(7, 0, 4)
    assert history.judge() == []

    history.now += 2000
    history.run(7, 5, 9)
    assert history.broken() == ["own_partitions"]


def test_two_holders_at_once_are_found() -> None:
    """Where the first one gives it up in good order later: the group had not taken it."""
    history = two_workers()
    history.assign(8)
    history.revoke(7)

    assert history.broken() == ["one_owner"]


@pytest.mark.parametrize("end", ["lost", "killed", "never"])
def test_a_holder_that_was_evicted_may_overlap(end: str) -> None:
    """By the broker's judgement: it lost its membership, or it is dead and nobody has said so yet."""
    history = two_workers()
    history.assign(8)
    if end == "lost":
        history.lose(7)
    elif end == "killed":
        history.exit(7, None, "SIGKILL")

    assert history.judge() == []


# -- commits -----------------------------------------------------------------------------------------


def test_a_commit_past_what_is_done_is_found() -> None:
    """The run that was committed fails, or the worker dies in it: its messages are not done."""
    for end in ("failed", "killed", "done"):
        history = one_worker(marks=False)
        history.begin(7, 0, 9)
        history.commit(7, 10)
        if end == "failed":
            history.fail(7, 0, 9)
        elif end == "killed":
            history.exit(7, None, "SIGKILL")
        else:
            history.end(7, 0, 9)  # the line came a moment after the commit's

        assert history.broken(contents=range(10)) == ([] if end == "done" else ["commit_past_work"])


def test_a_handler_that_marks_may_commit_in_the_middle_of_a_run() -> None:
    """What it marked stands, also when it raises afterwards, or marks an older message for the retry."""
    history = one_worker(marks=True)
    history.begin(7, 0, 9)
    history.commit(7, 5)
    history.fail(7, 0, 9)
    history.end(7, 0, 4)
    history.run(7, 5, 9, attempt=2)
    assert history.judge(committed=5, contents=range(10)) == []

    history = one_worker(marks=True)
    history.begin(7, 0, 9)
    history.commit(7, 5)
    history.fail(7, 0, 9)
    history.end(7, 0, 2)
    history.run(7, 3, 9, attempt=2)
    assert history.judge(contents=range(10)) == []


def test_marks_of_a_killed_run_are_believed_where_the_broker_holds_them() -> None:
    """Marked and committed, and killed before the line was written."""
    history = one_worker(marks=True)
    history.begin(7, 0, 9)
    history.exit(7, None, "SIGKILL")
    history.start(8)
    history.assign(8, 5)
    history.run(8, 5, 9)

    assert history.judge(committed=10, contents=range(10)) == []


def test_a_commit_after_the_revocation_is_found() -> None:
    """Of work that was done later; the late answer to an earlier commit is none."""
    history = one_worker()
    history.run(7, 0, 4)
    history.revoke(7)
    history.commit(7, 5)
    assert history.judge() == []

    history.commit(7, 10)
    assert history.broken() == ["commit_after_release"]


def test_a_commit_that_went_back_is_found() -> None:
    """The broker had confirmed more, and nobody asked to go back."""
    history = one_worker()
    history.run(7, 0, 9)
    history.commit(7, 10)
    assert history.broken(committed=10) == []
    assert history.broken(committed=5) == ["commit_went_back"]

    history.one("partition_sought", 7, offset=5)
    assert history.broken(committed=5) == []


def test_a_start_that_was_learnt_before_a_freeze_is_none_if_the_partition_is_lost_at_once() -> None:
    """It is said when the worker goes on, and others have committed meanwhile; with a run it is a regress like any other."""
    lost, begun = one_worker(), one_worker()
    for history in (lost, begun):
        history.run(7, 0, 9)
        history.commit(7, 10)
        history.revoke(7)
        history.start(8, 1)
        history.assign(8, 5)
    begun.run(8, 5, 9)
    for history in (lost, begun):
        history.lose(8)

    assert lost.broken(committed=10) == []
    assert "commit_went_back" in begun.broken(committed=10)


def test_who_was_frozen_goes_on_with_what_it_had_until_it_learns_of_the_loss() -> None:
    """Others have handled it meanwhile and given it back in good order: a repetition with a cause if the loss is said later, else without."""
    told, untold = one_worker(), one_worker()
    for history in (told, untold):
        history.start(8, 1)
        history.assign(8, 0)
        history.run(8, 0, 9)
        history.commit(8, 10)
        history.revoke(8)
        history.begin(7, 5, 9)
        history.end(7, 5, 9)
    told.lose(7)
    untold.revoke(7)

    assert told.broken(committed=10) == []
    assert untold.broken(committed=10) != []


def test_a_commit_that_was_taken_back_and_is_said_not_to_hold_did_not_go_back() -> None:
    """An older one was carried out after it, and it could not be repeated: `commit_failed` names what the broker had confirmed."""
    history = one_worker()
    history.run(7, 0, 9)
    history.commit(7, 10)
    history.commit(7, 5)
    assert history.broken(committed=5) == ["commit_went_back"]

    history.refuse(7, 10)
    assert history.broken(committed=5) == []


# -- what was asked for ------------------------------------------------------------------------------


def test_a_seek_passes_over_and_repeats_as_asked() -> None:
    """Forward: what lies between is not lost. Back: it is handled again, and only from there."""
    history = one_worker()
    history.begin(7, 0, 1)
    history.one("partition_sought", 7, offset=8)
    history.end(7, 0, 1)
    history.begin(7, 8, 9)
    history.one("partition_sought", 7, offset=8)
    history.end(7, 8, 9)
    history.run(7, 8, 9)
    history.commit(7, 10)
    assert history.judge(committed=10, contents=range(10)) == []

    history.run(7, 0, 1)
    assert history.broken(committed=10, contents=range(10)) == ["twice"]


def test_an_offset_out_of_range_leads_where_it_was_told() -> None:
    """What is no longer in the log cannot be lost by us."""
    history = one_worker()
    history.one("offset_out_of_range", 7, offset=0, action="latest")
    history.commit(7, 8)
    history.run(7, 8, 9)
    history.commit(7, 10)

    assert history.judge(committed=10, contents=range(5, 10)) == []


def test_a_topic_that_was_made_again_begins_anew() -> None:
    """What was known of the one before says nothing of this one."""
    history = one_worker()
    history.run(7, 0, 9)
    history.commit(7, 10)
    history.one("topic_recreated", 7, offset=10)
    history.lose(7)
    history.assign(7, 0)
    history.run(7, 0, 2)
    history.commit(7, 3)
    assert history.judge(committed=3, contents=range(3), complete=True) == []

    history.commit(7, 4)
    assert history.broken(contents=range(4)) == ["commit_past_work"]


# -- processes ---------------------------------------------------------------------------------------


def test_a_worker_that_outlives_its_swarm_is_found() -> None:
    """Every one that was started has ended when the supervisor says it is over."""
    history = two_workers()
    history.exit(7)
    history.stop()

    violations = history.judge()

    assert [each.invariant for each in violations] == ["left_running"]
    assert "pid 8" in violations[0].text


def test_a_kill_has_a_reason_and_an_incident() -> None:
    """Whoever was killed can be asked why."""
    for incident, expected in (("incidents/1.txt", []), ("", ["killed_for_a_reason"])):
        history = one_worker()
        history.say("worker_killed", 7, 0, reason="poll_timeout", incident=incident)
        history.exit(7, None, "SIGKILL")

        assert history.broken() == expected


def test_a_supervisor_that_was_killed_leaves_orphans() -> None:
    """Its successor finds partitions that the orphans still hold, and repeats what they could not commit."""
    history = one_worker()
    history.run(7, 0, 9)
    history.say("swarm_started", 2)
    history.start(8)
    history.assign(8)
    history.run(8, 0, 9)
    history.revoke(7)
    history.exit(8)

    assert history.judge() == []


def test_a_supervisor_that_replaces_its_own_program_keeps_its_workers() -> None:
    """The same pid says that it has started: its workers are no orphans, and excuse nothing."""
    history = two_workers()
    history.run(7, 0, 9)
    history.say("swarm_started", 1)
    history.revoke(7)
    history.assign(8)
    history.run(8, 0, 9)

    assert history.broken() == ["twice"]


def test_a_pid_that_comes_again_is_another_process() -> None:
    """What its predecessor held is not its."""
    history = one_worker()
    history.exit(7, None, "SIGKILL")
    history.start(7)
    history.begin(7, 0, 4)

    assert history.broken() == ["own_partitions"]


# -- the facts themselves ----------------------------------------------------------------------------


def test_facts_that_do_not_suffice_are_said() -> None:
    """Nothing is proved by a log without debug events, nor by one with lines missing."""
    history = one_worker()
    assert history.broken(committed=10) == ["evidence"]

    history.run(7, 0, 9)
    history.say("log_lines_dropped", 7, 0, count=3)
    assert history.broken(committed=10) == ["evidence"]


def test_a_log_is_read_with_what_else_stands_in_it() -> None:
    """Other programs' lines, and one that a kill has cut off."""
    history = one_worker()
    lines = [*map(json.dumps, history.events), "Traceback (most recent call last):", '{"event": "batch_sta']

    assert list(read_events(lines)) == history.events


def test_logs_of_several_daemons_become_one() -> None:
    """By time; each has its own supervisor."""
    first, second = one_worker(), History()
    second.now = 100
    second.say("swarm_started", 2)
    second.start(9, 0)
    second.exit(9)
    second.say("swarm_stopped", 2, code=0, seconds=1.0)

    events = list(merged({"b": second.events, "a": first.events}))
    checker = Checker(first.book)
    for event in events:
        checker.feed(event)

    assert [event["timestamp"] for event in events] == sorted(event["timestamp"] for event in events)
    assert checker.finish() == []


def test_a_report_is_short_enough_to_be_read() -> None:
    """The first twenty, and how many more."""
    history = one_worker()
    for number in range(30):
        history.begin(7, number * 10, number * 10)

    text = report(history.judge())

    assert text.count("one_job:") == 20
    assert "and 9 more" in text


# -- by chance ---------------------------------------------------------------------------------------


def world(seed: int, steps: int, *, drained: bool = False) -> World:
    made = World(random.Random(seed))
    for _ in range(steps):
        made.step()
    made.end(drained=drained)
    return made


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 250), st.booleans())
def test_a_world_that_obeys_the_rules_breaks_no_invariant(seed: int, steps: int, drained: bool) -> None:
    """Failures, kills, freezes, refused commits, answers that nobody heard: each repetition has its cause."""
    made = world(seed, steps, drained=drained)

    violations = check(replace(made.facts, complete=drained))

    assert violations == [], report(violations)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(50, 250))
def test_a_message_that_is_taken_away_is_missed(seed: int, steps: int) -> None:
    """One run of a history is struck out, with all that repeated it: its messages are lost."""
    made = world(seed, steps, drained=True)
    ends = [event for event in made.history.events if event["event"] == "batch_consumed"]
    gone = random.Random(seed).choice(ends)

    def hits(event: dict[str, Any]) -> bool:
        apart = (
            event.get("first_offset", 0) > gone["last_offset"] or event.get("last_offset", -1) < gone["first_offset"]
        )
        return event.get("partition") == gone["partition"] and not apart

    events = [event for event in made.history.events if not hits(event)]
    broken = {violation.invariant for violation in check(replace(made.facts, events=events, complete=True))}

    assert broken & {"lost", "commit_past_work", "order"}


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(50, 250))
def test_a_commit_that_is_moved_ahead_is_noticed(seed: int, steps: int) -> None:
    """One commit of a history says one message more than was done then."""
    made = world(seed, steps)
    commits = [
        (number, event) for number, event in enumerate(made.history.events) if event["event"] == "offsets_committed"
    ]
    random.Random(seed).shuffle(commits)
    for number, event in commits:
        _, partition, offset = event["offsets"][0]
        done = Ranges()
        for each in made.history.events[:number]:
            if each["event"] == "batch_started" and each["partition"] == partition:
                done.add(each["first_offset"], each["last_offset"] + 1)
        following = [o for o in made.contents[(TOPIC, partition)] if o >= offset and done.gaps(o, o + 1)]
        if following:
            events = list(made.history.events)
            events[number] = {**event, "offsets": [[TOPIC, partition, following[0] + 1]]}
            broken = {violation.invariant for violation in check(replace(made.facts, events=events))}
            assert broken & {"commit_past_work", "commit_after_release"}
            return


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 8)), max_size=30), st.integers(0, 40), st.integers(0, 12))
def test_ranges_are_sets(pieces: list[tuple[int, int]], start: int, size: int) -> None:
    """Whatever is added in whatever order, they answer as a set of offsets does."""
    ranges, truth = Ranges(), set()
    for first, count in pieces:
        ranges.add(first, first + count)
        truth |= set(range(first, first + count))

    window = set(range(start, start + size))
    assert {o for low, high in ranges.gaps(start, start + size) for o in range(low, high)} == window - truth
    assert {o for low, high in ranges.within(start, start + size) for o in range(low, high)} == window & truth
    assert {o for low, high in ranges.parts() for o in range(low, high)} == truth
    assert all(one[1] < other[0] for one, other in zip(ranges.parts(), ranges.parts()[1:], strict=False))


def test_a_hasty_broker_explains_two_holders_and_what_both_of_them_handle() -> None:
    """Librdkafka's mock hands a partition on before it was given up: its doing, and no swarm's."""
    history = two_workers()
    history.begin(7, 0, 4)
    history.assign(8)
    history.begin(8, 0, 4)
    history.revoke(7)

    assert sorted(history.broken()) == ["one_owner", "twice"]
    assert check(Facts(history.events, book=history.book, hasty_broker=True)) == []


def test_what_a_halted_each_did_not_reach_was_not_handled_by_it_although_another_had_done_it_before() -> None:
    """The first worker did 0 to 4 and died before the commit; the second was halted after 0 and 1; the third goes on at 2."""
    history = two_workers(each=True)
    history.run(7, 0, 4)
    history.exit(7, None, "SIGKILL")
    history.assign(8)
    history.begin(8, 0, 9)
    history.end(8, 0, 1)
    history.commit(8, 2)
    history.revoke(8)
    history.start(9)
    history.assign(9, 2)
    history.run(9, 2, 9)

    assert history.judge(contents=range(10)) == []


def test_an_at_most_once_commit_under_way_at_the_release_was_said_with_what_it_may_drop() -> None:
    """Then its answer may come later; one that nobody had said is a violation."""
    history = one_worker(delivery="at_most_once")
    history.run(7, 0, 4)
    history.lose(7)
    history.drop(7, 5, 9)
    history.commit(7, 10)
    assert history.judge() == []

    history.commit(7, 11)
    assert history.broken() == ["commit_after_release"]


def test_a_long_job_that_ends_while_its_partition_is_being_taken_may_be_repeated() -> None:
    """After the last commit and before the release: nobody waits for such jobs. One that had ended before must be committed."""
    history = two_workers(long_running=True)
    history.run(7, 0, 4)
    history.now += 100
    history.revoke(7, seconds=0.15)
    history.assign(8)
    history.run(8, 0, 4)
    assert history.judge() == []

    history.now += 1000
    history.revoke(8, seconds=0.15)
    history.start(9)
    history.assign(9)
    history.run(9, 0, 4)
    assert history.broken() == ["twice"]


def test_what_lies_above_a_failed_slice_is_repeated_for_its_sake() -> None:
    """Offset 2 failed, 9 was done beside it: nothing above 2 can be committed."""
    history = two_workers(virtual=True, each=True)
    history.begin(7, 0, 9)
    history.fail(7, 2, 8)
    history.end(7, 0, 1)
    history.end(7, 9, 9)
    history.commit(7, 2)
    history.revoke(7)
    history.assign(8, 2)
    history.run(8, 2, 9)

    assert history.judge() == []


def test_a_worker_that_was_told_too_late_that_it_holds_a_partition_is_no_second_owner() -> None:
    """It was frozen, and loses it in the same breath; what it began meanwhile was in vain."""
    history = two_workers()
    history.begin(7, 0, 4)
    history.assign(8)
    history.begin(8, 0, 4)
    history.lose(8)
    history.end(7, 0, 4)
    history.commit(7, 5)
    history.revoke(7)

    assert history.judge() == []


def test_a_line_behind_the_rest_of_one_that_was_cut_off_is_read() -> None:
    """Its writer was killed in the middle of it, and another one went on there."""
    cut = '{"timestamp": "2026-01-01T00:00:00Z", "event": "backtrace_dumped", "text": "File '
    whole = '{"timestamp": "2026-01-01T00:00:01Z", "event": "batch_consumed"}\n'

    assert [event["event"] for event in read_events([cut + whole, cut])] == ["batch_consumed"]


def test_a_commit_of_all_that_an_assignment_did_is_late_and_no_more() -> None:
    """The retry of a divided batch ends below what other slices had done before it."""
    history = one_worker(virtual=True)
    history.begin(7, 0, 9)
    history.fail(7, 2, 3)
    history.end(7, 0, 1)
    history.end(7, 4, 9)
    history.run(7, 2, 3, attempt=2)
    history.lose(7)
    history.commit(7, 10)
    assert history.judge() == []

    history.commit(7, 11)
    assert history.broken() == ["commit_after_release"]
