"""Each rule of the ladder, on the smallest facts for which it speaks; that it is silent on a healthy swarm; and which goes first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from swarm import verdict
from swarm.circumstances import (
    Broker,
    Exit,
    Failure,
    Job,
    Limits,
    Member,
    Partition,
    Pause,
    Suspect,
    Swarm,
    Unowned,
    Worker,
)
from swarm.verdict import BLOCKING, LADDER, Finding, of_partition, of_swarm, of_topic, of_worker, spell

MEMBER = Member("shop", poll_age=0.1, joined_for=60.0, partitions=2)
WELL = Worker(
    1,
    pid=4711,
    uptime=60.0,
    report_age=0.2,
    members=(MEMBER,),
    partitions=(Partition("shop", "orders", 3, position=10, committed=10, lag=0, since=42.0),),
)


def swarm_of(worker: Worker = WELL, **facts: Any) -> Swarm:
    return Swarm(workers=(worker,), **facts)


def with_partition(**facts: Any) -> Worker:
    """The well worker with its partition changed."""
    return replace(WELL, partitions=(replace(WELL.partitions[0], **facts),))


def job(**facts: Any) -> Job:
    return replace(Job("shop", "orders", 3, 100, 149, 1, 40.0, 300.0, "processing 1", 0.02), **facts)


AT_A_LOCK = {"where": "shop.py line 18 (charge)", "waits": "`with LOCK:` (shop.py line 18)"}


def failure(kind: str, text: str = "TimeoutError: no answer", **facts: Any) -> Failure:
    return Failure(kind, text, "shop", "orders", 3, 100, 149, 4, 40.0, 12.0, **facts)


CLIENT = Failure("client", "_TRANSPORT: 10.0.0.1:9092: Connection refused", "shop", first_age=20.0, age=3.0)
AWAY = replace(WELL, members=(replace(MEMBER, error_age=3.0),), failures_seen=(CLIENT,))

ON_WORKERS: dict[str, tuple[Worker, dict[str, Any], str]] = {
    "frozen": (
        replace(WELL, process_state="T", report_age=4.0),
        {},
        "worker 1 (pid 4711) is stopped by a signal (SIGSTOP), 4.0 s ago or less; in 26 s (report_timeout) it is killed and replaced",
    ),
    "no_process": (
        Worker(1, state="backoff", restart_in=12.0, failures=1, last_exit=Exit("killed", "killed by SIGKILL", age=3.0)),
        {},
        "worker 1 has no process: it ended 3.0 s ago (killed: killed by SIGKILL); its next start is in 12 s",
    ),
    "crash_loop": (
        Worker(
            1, state="backoff", restart_in=12.0, failures=6, last_exit=Exit("crashed", "exited with code 7", age=3.0)
        ),
        {},
        "worker 1 has no process: it ended 3.0 s ago (crashed: exited with code 7), the 6. time in a row; its next start is in 12 s",
    ),
    "leaving": (
        replace(WELL, stopping_for=5.0, kill_in=25.0, fault="requested", jobs=(job(where="shop.py line 18 (charge)"),)),
        {},
        (
            "worker 1 was told to go 5.0 s ago (requested) and waits for a job on orders/3 offsets 100-149, which has been running in "
            "shop.py line 18 (charge) for 40 s; in 25 s it ends by force (shutdown_timeout)"
        ),
    ),
    "leaving when it has a lock": (
        replace(WELL, stopping_for=5.0, kill_in=25.0, jobs=(job(**AT_A_LOCK),)),
        {},
        "which has been running for 40 s and waits at `with LOCK:` (shop.py line 18); in 25 s it ends by force",
    ),
    "silent": (
        replace(
            WELL, report_age=12.0, jobs=(job(where="shop.py line 9 (check -> re.match)", holds=True), job(age=90.0))
        ),
        {},
        (
            "worker 1 has not reported for 12 s: something holds Python's lock (GIL), shop.py line 9 (check -> re.match), with orders/3 "
            "offsets 100-149 in hand; in 18 s (report_timeout) it is replaced"
        ),
    ),
    "silent while an older job waits": (
        replace(
            WELL, report_age=12.0, jobs=(job(where="shop.py line 9 (check -> re.match)"), job(age=90.0, **AT_A_LOCK))
        ),
        {},
        "something holds Python's lock (GIL), most likely shop.py line 9 (check -> re.match), with orders/3",
    ),
    "silent although the line of the one that runs looks like a wait": (
        replace(WELL, report_age=12.0, jobs=(job(holds=True, **AT_A_LOCK), job(age=90.0, where="shop.py line 3 (f)"))),
        {},
        "something holds Python's lock (GIL), shop.py line 18 (charge), with orders/3",
    ),
    "silent in the kernel": (
        replace(WELL, report_age=12.0, process_state="D"),
        {},
        (
            "worker 1 has not reported for 12 s: its process waits in the kernel and cannot be interrupted (state D: a disk, a network "
            "file system, or memory that has to come back from swap); in 18 s (report_timeout) it is replaced"
        ),
    ),
    "not_polling": (
        replace(WELL, members=(replace(MEMBER, poll_age=20.0),)),
        {},
        (
            "worker 1 has not polled for group shop for 20 s; in 40 s (poll_timeout) it is replaced, and the group gives its partitions "
            "away 5 min after its last poll (max.poll.interval.ms)"
        ),
    ),
    "seat_contested": (
        replace(WELL, members=(replace(MEMBER, contested=3),)),
        {},
        "worker 1's seat in group shop (group.instance.id) is used by another process too, which took it 3 times of late",
    ),
    "broker_away": (
        AWAY,
        {"brokers": (Broker("10.0.0.1:9092", False),)},
        "the broker has been away for 20 s (none of 10.0.0.1:9092 answers); the last error was _TRANSPORT",
    ),
    "client_rebuilt": (
        replace(WELL, health="fenced", members=(replace(MEMBER, rebuilds=2),)),
        {},
        "worker 1's client met a fatal error and was made anew 2 times within two minutes",
    ),
    "refused": (
        replace(
            WELL,
            state="starting",
            members=(Member("shop", poll_age=0.1, error_age=3.0),),
            failures_seen=(replace(CLIENT, text="GROUP_AUTHORIZATION_FAILED: not allowed to read shop"),),
        ),
        {},
        "worker 1 cannot join group shop, 3.0 s ago: GROUP_AUTHORIZATION_FAILED: not allowed to read shop",
    ),
    "topic_missing": (
        replace(WELL, failures_seen=(Failure("topic_missing", "it does not exist", "shop", "ordesr", age=9.0),)),
        {},
        "topic ordesr of group shop does not exist (said 9.0 s ago), so nothing of it is read",
    ),
    "setting_up": (
        Worker(1, pid=4711, state="starting", uptime=3.0),
        {},
        "worker 1 is being set up, for 3.0 s",
    ),
    "joining": (
        replace(WELL, state="starting", members=(Member("shop", poll_age=0.1),), partitions=()),
        {},
        "worker 1 is joining group shop, for 1 min",
    ),
    "join_stuck": (
        replace(WELL, state="starting", members=(Member("shop", poll_age=0.1, join_stuck_for=100.0),), partitions=()),
        {},
        "worker 1 has not joined group shop for 1 min 40 s although the brokers answer; in 8 min 20 s (join_timeout) it is replaced",
    ),
    "near_memory_limit": (
        replace(WELL, memory=95 * 2**20, memory_trend=2**20),
        {"limits": Limits(memory_limit=100 * 2**20)},
        "worker 1 uses 95 MiB of its memory_limit of 100 MiB and grows: at this pace it is drained and replaced in 5.0 s",
    ),
    "standby": (
        replace(WELL, partitions=()),
        {},
        "nothing to do: worker 1 is a member without partitions, because there are more members than partitions",
    ),
    "nothing_placed": (
        replace(WELL, partitions=(), members=()),
        {},
        "nothing to do: no subscription is placed on worker 1",
    ),
}


@pytest.mark.parametrize("rule", ON_WORKERS)
def test_a_worker_is_judged_by_what_stops_it(rule: str) -> None:
    """The verdict names the rule, and says what, since when and what follows."""
    worker, more, text = ON_WORKERS[rule]

    first = of_worker(swarm_of(worker, **more), 1)[0]

    assert first.rule == rule.partition(" ")[0]
    assert text in first.text
    assert first.subject == "worker 1"


ON_PARTITIONS: dict[str, tuple[Worker, dict[str, Any], str]] = {
    "stands": (
        with_partition(standing=70.0, lag=5),
        {},
        (
            "orders/3 has stood still at 10 for 1 min 10 s although its log grows and the broker answers; it is sought anew after 1 min, and "
            "its worker is replaced after 2 min (standing_timeout)"
        ),
    ),
    "out_of_range": (
        replace(with_partition(out_of_range=True), failures_seen=(failure("out_of_range"),)),
        {},
        "orders/3 is paused: offset 100 is no longer in its log, 12 s ago, and nobody said where to go on",
    ),
    "no_start": (
        with_partition(no_start=True, lag=None),
        {},
        "orders/3 was assigned to worker 1 and cannot begin, because nobody could say where",
    ),
    "withheld": (
        with_partition(withheld=True, lag=876, position=687, still_for=25.0, lag_trend=20.0, watched=10.0),
        {},
        "orders/3 has done all that it may read: a producer's open transaction hides the 876 messages from offset 687 on",
    ),
    "leaderless": (
        with_partition(leaderless=True, lag=4),
        {},
        "no broker leads orders/3, so nobody can read or write it; it goes on where it was",
    ),
    "held": (
        with_partition(phase="waiting", waits_for="held", until_in=30.0),
        {"suspects": (Suspect("shop", "orders", 3, 100, 100, 3, True),)},
        "orders/3 waits for somebody: message 100 was in hand at 3 deaths of its process",
    ),
    "suspect": (
        with_partition(lag=4),
        {"suspects": (Suspect("shop", "orders", 3, 100, 104, 1),)},
        "orders/3 offsets 100-104 were in hand when a worker died by its own fault, 1 time; after two deaths they run one by one",
    ),
    "dead_letter_undelivered": (
        replace(
            with_partition(phase="waiting", waits_for="dead_letter", until_in=4.0),
            failures_seen=(
                failure("dead_letter", "the dead letter topic orders.dead could not be written: timed out"),
            ),
        ),
        {},
        "orders/3 waits: the dead letter topic orders.dead could not be written: timed out; next try in 4.0 s",
    ),
    "failing": (
        replace(
            with_partition(phase="waiting", waits_for="backoff", until_in=18.0, attempt=5, lag=9),
            failures_seen=(failure("handler"),),
        ),
        {},
        "orders/3 waits: attempt 4 failed with TimeoutError: no answer 12 s ago, next try in 18 s",
    ),
    "transaction_refused": (
        replace(
            with_partition(phase="waiting", waits_for="transaction", until_in=0.2),
            failures_seen=(failure("transaction", "fenced"),),
        ),
        {},
        "orders/3 waits: its transaction did not come about: fenced, 12 s ago; next try in 0.2 s",
    ),
    "predecessor": (
        with_partition(succeeds=True),
        {},
        "orders/3 waits until a job of its assignment before has ended",
    ),
    "slow_job": (
        replace(with_partition(phase="running", lag=50), jobs=(job(where="shop.py line 18 (charge -> time.sleep)"),)),
        {},
        (
            "worker 1's handler has been running for 40 s on orders/3 (offsets 100-149) and is in shop.py line 18 (charge -> time.sleep); "
            "after 5 min (consume_timeout), in 4 min 20 s, worker 1 is replaced"
        ),
    ),
    "slow_job at a lock": (
        replace(with_partition(phase="running", lag=50), jobs=(job(**AT_A_LOCK),)),
        {},
        (
            "worker 1's handler has been running for 40 s on orders/3 (offsets 100-149) and waits at `with LOCK:` (shop.py line 18); "
            "after 5 min (consume_timeout)"
        ),
    ),
    "running": (
        replace(with_partition(phase="running", lag=50), jobs=(job(age=0.5, limit=None, attempt=2),)),
        {},
        "worker 1's handler has been running for 0.5 s on orders/3 (offsets 100-149, attempt 2); no time limit applies to it",
    ),
    "paused": (
        with_partition(paused=True, lag=7),
        {"pauses": (Pause(True, "orders"),)},
        "orders/3 is paused by an operator (swarmctl pause orders); its lag is 7",
    ),
    "quiet": (
        replace(with_partition(lag=7), state="quiet"),
        {"quiet": True},
        "orders/3 takes no new work, because the swarm is quiet (swarmctl quiet, or SIGTSTP); its lag is 7",
    ),
    "closing": (with_partition(closing=True), {}, "orders/3 is being taken from worker 1"),
    "handler_pause": (
        with_partition(phase="waiting", waits_for="pause", until_in=8.0, lag=7),
        {},
        "orders/3 waits: its handler paused it, for 8.0 s more; its lag is 7",
    ),
    "rate_limited": (
        with_partition(phase="waiting", waits_for="rate", until_in=0.5, lag=7),
        {},
        "orders/3 waits: its share of rate_limit is used up; the next message may run in 0.5 s; its lag is 7",
    ),
    "not_before": (
        with_partition(phase="waiting", waits_for="not_before", until_in=50.0, lag=7),
        {},
        "orders/3 waits: its next message is younger than not_before allows; it is looked at again in 50 s",
    ),
    "gathering": (
        with_partition(phase="waiting", waits_for="gathering", until_in=2.0, lag=7),
        {},
        "orders/3 waits: its batch is filling (max_wait); it runs in 2.0 s or when max_messages are there",
    ),
    "queued": (
        replace(
            with_partition(phase="ready", since=9.0, lag=7), jobs=(job(partition=0, where="shop.py line 18 (charge)"),)
        ),
        {},
        "orders/3 has been in the queue of worker 1 for 9.0 s: its 1 processing thread is busy, orders/0 for 40 s in shop.py line 18",
    ),
    "queued behind who waits": (
        replace(with_partition(phase="ready", since=9.0, lag=7), jobs=(job(partition=0, **AT_A_LOCK),)),
        {},
        "processing thread is busy, orders/0 for 40 s, which waits at `with LOCK:` (shop.py line 18)",
    ),
    "commit_refused": (
        replace(  # the refusal of a commit of several partitions is remembered with the first of them
            with_partition(position=12, still_for=30.0),
            failures_seen=(replace(failure("commit", "COORDINATOR_NOT_AVAILABLE: no"), partition=0),),
        ),
        {},
        "orders/3 is worked on, but not committed: COORDINATOR_NOT_AVAILABLE: no, 12 s ago; a restart would repeat it",
    ),
    "falls_behind": (
        with_partition(lag=1000, lag_trend=30.0, rate=100.0, watched=60.0, still_for=0.0),
        {},
        "orders/3 falls behind: its lag of 1,000 grows by 30/s, while 100 messages/s are done",
    ),
    "still": (
        with_partition(lag=10, still_for=50.0, watched=60.0),
        {},
        "orders/3 has not moved for 50 s with a lag of 10, and nothing of it is in hand",
    ),
    "no_lag": (WELL, {}, "nothing to do: orders/3 has no lag; it has been idle for 42 s"),
    "moves": (
        with_partition(lag=100, rate=50.0, lag_trend=-10.0, watched=60.0, still_for=0.0),
        {},
        "orders/3 moves: a lag of 100, 50 messages/s, none left in 10 s at this pace",
    ),
}


@pytest.mark.parametrize("rule", ON_PARTITIONS)
def test_a_partition_is_judged_by_what_holds_it_up(rule: str) -> None:
    """The first rule that applies is the verdict."""
    worker, more, text = ON_PARTITIONS[rule]

    [found] = of_partition(swarm_of(worker, **more), "orders", 3)

    assert found.rule == rule.partition(" ")[0]
    assert text in found.text


def test_a_refused_commit_is_no_matter_of_a_partition_without_anything_to_commit() -> None:
    worker = replace(
        with_partition(still_for=30.0), failures_seen=(failure("commit", "COORDINATOR_NOT_AVAILABLE: no"),)
    )

    assert of_partition(swarm_of(worker), "orders", 3)[0].rule == "no_lag"


def test_a_partition_that_falls_behind_is_said_to_although_its_handler_runs() -> None:
    """As it does nearly always; a batch that has been running for long is the better answer."""
    behind = with_partition(phase="running", lag=1000, lag_trend=30.0, rate=100.0, watched=60.0, still_for=0.0)

    def rule(age: float) -> str:
        return of_partition(swarm_of(replace(behind, jobs=(replace(job(), age=age),))), "orders", 3)[0].rule

    assert (rule(0.5), rule(40.0)) == ("falls_behind", "slow_job")


def test_a_batch_that_runs_says_that_workers_died_of_it() -> None:
    """Whoever looks at a handler that hangs wants to know that it is not the first time."""
    busy = replace(with_partition(phase="running", lag=50), jobs=(job(),))
    swarm = replace(swarm_of(busy), suspects=(Suspect("shop", "orders", 3, 100, 149, 2, False),))

    assert of_partition(swarm, "orders", 3)[0].text.endswith(
        "; offsets 100-149 of it were in hand at 2 deaths of a worker"
    )
    assert "deaths" not in of_partition(swarm_of(busy), "orders", 3)[0].text


def test_what_the_next_batch_takes_is_no_falling_behind() -> None:
    """It came during a long batch, as much as that has in hand."""
    behind = with_partition(phase="running", lag=90, lag_trend=10.0, rate=10.0, watched=60.0, still_for=0.0)

    def rule(last_offset: int) -> str:
        long = job(age=20.0, last_offset=last_offset, limit=None, usual=20.0)
        return of_partition(swarm_of(replace(behind, jobs=(long,))), "orders", 3)[0].rule

    assert (rule(149), rule(109)) == ("running", "falls_behind")


def test_every_rule_of_the_ladder_has_its_case() -> None:
    """A rule that is added needs its facts and its sentence here."""
    spoken = set()
    for worker, more, _ in [*ON_WORKERS.values(), *ON_PARTITIONS.values()]:
        swarm = swarm_of(worker, **more)
        spoken |= {rule.__name__ for rule in BLOCKING if rule(swarm, worker) is not None}
        for partition in worker.partitions:
            spoken |= {rule.__name__ for rule in LADDER if rule(swarm, worker, partition) is not None}

    assert {rule.__name__ for rule in (*BLOCKING, *LADDER)} <= spoken


def test_a_healthy_swarm_moves() -> None:
    """With work and without; batches that run as long as usual, and one that is meant to be long, are no findings."""
    idle = of_swarm(swarm_of())
    brief = replace(with_partition(lag=5, rate=9.0, phase="running"), jobs=(job(age=8.0, usual=5.0),))
    meant = replace(with_partition(lag=5, phase="running"), jobs=(job(limit=None),))

    assert [each.text for each in idle] == [
        "everything moves: there is nothing to do, no partition has a lag (1 worker, 1 partition)"
    ]
    assert of_swarm(swarm_of(brief))[0].text == "everything moves: 1 worker, 1 partition, a lag of 5, 9 messages/s"
    assert [each.rule for each in of_swarm(swarm_of(meant))] == ["moves", "slow_job"]


def test_the_worst_comes_first_and_what_follows_from_it_is_not_told() -> None:
    """A frozen process also does not poll or report, and its partitions stand: that is one finding."""
    frozen = replace(
        with_partition(lag=5, still_for=50.0),
        index=0,
        process_state="T",
        report_age=20.0,
        members=(replace(MEMBER, poll_age=20.0),),
    )
    failing, more, _ = ON_PARTITIONS["failing"]
    swarm = Swarm(workers=(failing, frozen), **more)

    found = of_swarm(swarm)

    assert {each.rule for each in found} == {"failing", "frozen"}
    assert all(each.level == "error" for each in found)


def test_what_stops_a_worker_is_why_its_partitions_wait() -> None:
    """Asked for a partition, one hears of its worker."""
    worker, more, _ = ON_WORKERS["silent"]

    [found] = of_partition(swarm_of(worker, **more), "orders", 3)

    assert found.subject == "orders/3"
    assert found.text.startswith("orders/3 waits: worker 1 has not reported for 12 s")


def test_alike_partitions_are_one_finding() -> None:
    """A hundred partitions that fail alike are not a hundred lines."""
    failing, _, _ = ON_PARTITIONS["failing"]
    many = tuple(replace(failing.partitions[0], partition=number) for number in range(100))

    [found] = of_swarm(swarm_of(replace(failing, partitions=many)))

    assert found.text.endswith("(and 99 other partitions likewise)")


def test_a_partition_without_a_start_names_the_error_of_its_own_group_and_who_may_withhold_it() -> None:
    """What another group's client says is about another partition; where brokers answer and do not say an offset, it is withheld."""
    worker = with_partition(no_start=True, lag=None)
    withheld = replace(CLIENT, text="_TIMED_OUT: Failed to get committed offsets: Local: Timed out")
    others = replace(CLIENT, text="_TIMED_OUT: of another group", group="clicks")
    gone = failure("topic_missing", "it does not exist")
    answers = {"brokers": (Broker("10.0.0.1:9092", True),)}

    def said(*seen: Failure, **facts: Any) -> tuple[str, str]:
        [finding] = of_partition(swarm_of(replace(worker, failures_seen=seen), **facts), "orders", 3)
        return finding.text, finding.mend

    assert "nobody could say where: _TIMED_OUT: Failed to get committed" in said(others, withheld, **answers)[0]
    assert "transaction.timeout.ms" in said(withheld, **answers)[1]
    assert said(withheld)[1] == ""
    assert "nobody could say where; " in said(others, replace(gone, topic="clicks"))[0]
    assert "nobody could say where: it does not exist" in said(gone)[0]


def test_a_partition_that_nobody_has_is_explained_by_who_should() -> None:
    """Unowned; a dead worker's; another member's."""
    dead = replace(ON_WORKERS["crash_loop"][0], partitions=WELL.partitions)

    [unowned] = of_partition(swarm_of(unowned=(Unowned("shop", "orders", 5, 70.0),)), "orders", 5)
    [unbound] = of_partition(swarm_of(unowned=(Unowned("shop", "orders", 5, 70.0, bound=True),)), "orders", 5)
    [left] = of_partition(swarm_of(dead), "orders", 3)
    [elsewhere] = of_partition(swarm_of(ownership_age=9.0), "orders", 7)

    assert unowned.text.startswith("nobody in group shop has orders/5, for 1 min 10 s or longer")
    assert unowned.mend.startswith("A worker leaves the group and joins again by itself")
    assert unbound.text == "orders/5 is bound to no worker, for 1 min 10 s or longer, so group shop reads nothing of it"
    assert unbound.mend == "Give it to a worker in partitions= of the subscription, and swarmctl reload."
    assert left.text.startswith("orders/3 waits: worker 1 has no process")
    assert (elsewhere.rule, elsewhere.level) == ("not_held", "warning")
    assert "(the broker said so 9.0 s ago)" in elsewhere.text


def test_who_stands_by_while_nobody_has_a_partition_is_no_surplus() -> None:
    """Of its own group; that there are more members than partitions is then not why it has none."""
    alone = replace(WELL, partitions=())

    def said(group: str) -> Finding:
        return of_worker(swarm_of(alone, unowned=(Unowned(group, "orders", 5, 70.0),)), 1)[0]

    assert (said("shop").rule, said("shop").level) == ("unowned", "error")
    assert said("shop").text.startswith("nobody in group shop has orders/5")
    assert said("clicks").rule == "standby"


def test_a_topic_is_all_of_its_partitions() -> None:
    """The worst first."""
    failing, _, _ = ON_PARTITIONS["failing"]
    both = replace(failing, partitions=(replace(WELL.partitions[0], partition=0), *failing.partitions))

    assert [(each.rule, each.subject) for each in of_topic(swarm_of(both), "orders")] == [
        ("failing", "orders/3"),
        ("no_lag", "orders/0"),
    ]


def test_brokers_that_answer_are_not_away() -> None:
    """Nor is one of several whose partitions move; an error that is long over says nothing."""
    answering = swarm_of(AWAY, brokers=(Broker("10.0.0.1:9092", False), Broker("10.0.0.2:9092", True)))
    moving = replace(AWAY, partitions=(replace(WELL.partitions[0], rate=5.0, still_for=0.5),))
    over = replace(AWAY, members=(replace(MEMBER, error_age=50.0),))

    assert of_swarm(answering)[0].level == "fine"
    assert of_swarm(swarm_of(moving))[0].level == "fine"
    assert of_swarm(swarm_of(over))[0].level == "fine"
    assert of_swarm(swarm_of(AWAY))[0].rule == "broker_away"


def test_a_swarm_that_stops_or_is_quiet_says_so() -> None:
    """Before anything else of its level."""
    assert of_swarm(swarm_of(state="stopping"))[0].rule == "stopping"
    assert [each.rule for each in of_swarm(swarm_of(quiet=True))][:2] == ["no_lag", "quiet"]
    assert of_swarm(swarm_of(reload_error="SyntaxError: no"))[0].rule == "reload_refused"


def test_there_is_no_such_worker() -> None:
    """The command says so."""
    with pytest.raises(IndexError):
        of_worker(swarm_of(), 7)


def test_times_are_spelt_for_people() -> None:
    """Two units at most."""
    assert [spell(each) for each in (None, -1.0, 0.42, 9.96, 61.0, 60.0, 3725.0, 200000.0)] == [
        "an unknown time",
        "0.0 s",
        "0.4 s",
        "10 s",
        "1 min 1 s",
        "1 min",
        "1 h 2 min",
        "2 d 7 h",
    ]


def test_facts_survive_their_way_as_json() -> None:
    """What another release adds is left out."""
    import json
    from dataclasses import asdict

    worker = replace(ON_PARTITIONS["failing"][0], jobs=(job(),), last_exit=Exit("crashed"), threads=(("main", 7),))
    swarm = Swarm(
        groups=("shop",), workers=(worker,), pauses=(Pause(True, "orders", 3),), limits=Limits(memory_limit=5)
    )

    assert Swarm.of({**json.loads(json.dumps(asdict(swarm))), "news": 1}) == swarm


def test_a_finding_says_what_a_program_needs() -> None:
    """Levels are those four, whatever the facts."""
    found: list[Finding] = []
    for worker, more, _ in [*ON_WORKERS.values(), *ON_PARTITIONS.values()]:
        found += of_swarm(swarm_of(worker, **more)) + of_worker(swarm_of(worker, **more), 1)

    assert {each.level for each in found} == {"error", "warning", "note", "fine"}
    assert all(each.text and each.rule.replace("_", "").isalpha() for each in found)
    assert verdict.LATE < 30.0
