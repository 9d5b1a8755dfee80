"""Why a swarm, a worker or a partition does not advance: a ladder of rules over facts. Pure; touches no process, socket, clock or file.

Each rule looks at one thing and returns a `Finding`, or None where it does not apply. The first that applies is the verdict: what blocks
everything stands before what blocks a partition, and that before what is merely slow or has nothing to do. Findings of level `error` need
somebody, a `warning` may mend itself, `note` is as somebody wants it, `fine` is what a healthy swarm says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from swarm.circumstances import Failure, Job, Member, Partition, Suspect, Swarm, Unowned, Worker
from swarm.wording import counted, plural

Level = Literal["error", "warning", "note", "fine"]

LATE: Final = 5.0
"""Seconds without a report or a poll that are worth a word; both come every half second and more often."""
OUTAGE: Final = 60.0
"""Seconds for which a transaction may be open before that is no slow producer any more."""
SLOW: Final = 5.0
"""Seconds for which a batch may run before it is worth a word."""
UNUSUAL: Final = 10.0
"""… and how many times as long as others."""
RECENT: Final = 60.0
"""Seconds for which an error of the client explains why nothing comes."""
AWAY: Final = 35.0
"""Seconds since the client's last error within which its brokers are away still, where nobody could try to reach them: librdkafka says so
every half minute at least."""
JOINING: Final = 15.0
"""Seconds that joining a group may take before it is worth a word."""
CRASH_LOOP: Final = 3
"""Deaths in a row from which on one speaks of a loop."""
NEAR: Final = 0.9
"""The part of the soft memory limit from which on it is worth a word."""
GROWS: Final = 1.0
"""Messages per second by which a lag has to grow to be called growing."""

_UNREACHABLE: Final = ("_TRANSPORT", "_ALL_BROKERS_DOWN", "_RESOLVE", "_TIMED_OUT", "_TIMED_OUT_QUEUE")


@dataclass(frozen=True, slots=True)
class Finding:
    """A conclusion. rule: its name, for programs; subject: `worker 1`, `orders/3` or `swarm`; mend: what to do, empty where it is nothing."""

    rule: str
    level: Level
    subject: str
    text: str
    mend: str = ""


# -- words -----------------------------------------------------------------------------------------------------------


def spell(seconds: float | None) -> str:
    """Seconds for a sentence: `0.4 s`, `12 s`, `3 min 12 s`, `5 h 7 min`, `2 d 4 h`."""
    if seconds is None:
        return "an unknown time"
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, smaller, big, small in ((86400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {big}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"


def number(count: float) -> str:
    """`1,234`; with a digit behind the point where it is small and no whole number."""
    return f"{count:,.0f}" if abs(count) >= 10 or float(count).is_integer() else f"{count:.1f}"


def offsets(first: int, last: int) -> str:
    """`offset 7`, `offsets 7-9`."""
    return f"offset {first}" if first == last else f"offsets {first}-{last}"


def _brief(error: str) -> str:
    line = error.strip().partition("\n")[0]
    return line if len(line) <= 200 else line[:199] + "…"


def _limit(job: Job, worker: Worker) -> str:
    if job.limit is None:
        return "no time limit applies to it"
    left = job.limit - job.age
    if left <= 0:
        return (
            f"it is over its limit of {spell(job.limit)} (consume_timeout), so worker {worker.index} is being replaced"
        )
    return f"after {spell(job.limit)} (consume_timeout), in {spell(left)}, worker {worker.index} is replaced"


def running(job: Job, worker: Worker) -> str:
    """What a batch in hand is doing, as a sentence."""
    again = f", attempt {job.attempt}" if job.attempt > 1 else ""
    batch = f"{job.topic}/{job.partition} ({offsets(job.first_offset, job.last_offset)}{again})"
    where = f" and waits at {job.waits}" if job.waits else f" and is in {job.where}" if job.where else ""
    return f"worker {worker.index}'s handler has been running for {spell(job.age)} on {batch}{where}; {_limit(job, worker)}"


# -- a worker: what stops all that it holds --------------------------------------------------------------------------


def frozen(swarm: Swarm, worker: Worker) -> Finding | None:
    """Its process is stopped."""
    if worker.process_state not in ("T", "t") or worker.pid is None:
        return None
    how = "by a signal (SIGSTOP)" if worker.process_state == "T" else "by a debugger that traces it"
    left = swarm.limits.report_timeout - (worker.report_age or 0.0)
    then = (
        f"in {spell(left)} (report_timeout) it is killed and replaced"
        if left > 0 and not worker.fault
        else "it is being replaced for it (report_timeout), and killed, because a stopped process cannot end itself"
    )
    text = f"worker {worker.index} (pid {worker.pid}) is stopped {how}, {spell(worker.report_age)} ago or less; {then}"
    return _of(worker, "frozen", "error", text, f"kill -CONT {worker.pid}")


def dead(swarm: Swarm, worker: Worker) -> Finding | None:
    """It has no process."""
    if worker.pid is not None:
        return None
    last = worker.last_exit
    how = "it has not been started yet"
    if last is not None:
        detail = f": {_brief(last.detail)}" if last.detail else ""
        how = f"it ended {spell(last.age)} ago ({last.reason}{detail})"
    then = "it is not started again, for the swarm is being stopped"
    if worker.restart_in is not None:
        then = f"its next start is in {spell(worker.restart_in)}" if worker.restart_in > 0 else "it is about to start"
    times = f", the {worker.failures}. time in a row" if worker.failures >= CRASH_LOOP else ""
    level: Level = "error" if worker.failures >= CRASH_LOOP or (last and last.reason == "boot_error") else "warning"
    rule = "crash_loop" if worker.failures >= CRASH_LOOP else "no_process"
    return _of(worker, rule, level, f"worker {worker.index} has no process: {how}{times}; {then}")


def leaving(_: Swarm, worker: Worker) -> Finding | None:
    """It was told to go."""
    if worker.stopping_for is None:
        return None
    job = max(worker.jobs, key=lambda each: each.age, default=None)
    what = "is leaving"
    if job is not None:
        where = f" in {job.where}" if job.where and not job.waits else ""
        batch = f"{job.topic}/{job.partition} {offsets(job.first_offset, job.last_offset)}"
        what = f"waits for a job on {batch}, which has been running{where} for {spell(job.age)}"
        what += f" and waits at {job.waits}" if job.waits else ""
    why = f" ({worker.fault})" if worker.fault else ""
    text = f"worker {worker.index} was told to go {spell(worker.stopping_for)} ago{why} and {what}"
    return _of(worker, "leaving", "warning", f"{text}; in {spell(worker.kill_in)} it ends by force (shutdown_timeout)")


def silent(swarm: Swarm, worker: Worker) -> Finding | None:
    """Its main thread does not come round: something holds the interpreter's lock."""
    age = worker.report_age
    if age is None or age < min(LATE, swarm.limits.report_timeout / 2) or worker.blind:
        return None
    awake = [each for each in worker.jobs if each.holds or not each.waits]  # who waits for another has let go of it
    job = max(awake, key=lambda each: (each.holds, bool(each.where), each.age), default=None)
    sure = "" if job is not None and job.holds else "most likely "
    holder = (
        f"{sure}{job.where}, with {job.topic}/{job.partition} {offsets(job.first_offset, job.last_offset)} in hand"
        if job is not None and job.where
        else "see its backtrace"
    )
    left = swarm.limits.report_timeout - age
    then = f"in {spell(left)} (report_timeout) it is replaced" if left > 0 else "it is being replaced (report_timeout)"
    if worker.process_state == "D":
        text = (
            f"worker {worker.index} has not reported for {spell(age)}: its process waits in the kernel and cannot be interrupted (state D: a disk, "
            f"a network file system, or memory that has to come back from swap); {then}"
        )
        return _of(
            worker, "silent", "error", text, "Look at the disk, the mounts and the swap (vmstat 1) of the machine."
        )
    text = f"worker {worker.index} has not reported for {spell(age)}: something holds Python's lock (GIL), {holder}; {then}"
    mend = "Code that computes or waits in C for long has to release the lock, or to run in a process of its own."
    return _of(worker, "silent", "error", text, mend)


def not_polling(swarm: Swarm, worker: Worker) -> Finding | None:
    """A poller does not come round, though the process does."""
    late = [each for each in worker.members if each.poll_age is not None and each.poll_age >= LATE]
    if not late:
        return None
    member = max(late, key=lambda each: each.poll_age or 0.0)
    age = member.poll_age or 0.0
    left = swarm.limits.poll_timeout - age
    then = f"in {spell(left)} (poll_timeout) it is replaced" if left > 0 else "it is being replaced (poll_timeout)"
    kafka = (
        f"the group gives its partitions away {spell(member.poll_interval)} after its last poll (max.poll.interval.ms)"
    )
    text = f"worker {worker.index} has not polled for group {member.group} for {spell(age)}; {then}, and {kafka}"
    return _of(worker, "not_polling", "error", text, f"swarmctl backtrace {worker.index} shows its poller")


def contested(_: Swarm, worker: Worker) -> Finding | None:
    """Another process has its seat."""
    member = next((each for each in worker.members if each.contested), None)
    if member is None:
        return None
    text = (
        f"worker {worker.index}'s seat in group {member.group} (group.instance.id) is used by another process too, which took it "
        f"{counted(member.contested, 'time')} of late: most likely a second daemon of the same swarm.name and swarm.host"
    )
    return _of(
        worker, "seat_contested", "error", text, "Give one of the two another swarm.name or swarm.host, or stop it."
    )


def broker_away(swarm: Swarm, worker: Worker) -> Finding | None:
    """Its client cannot reach the brokers."""
    for member in worker.members:
        failure = _client_failure(worker, member)
        if failure is None or failure.text.partition(":")[0] not in _UNREACHABLE:
            continue
        tried = [each for each in swarm.brokers if each.answers is not None]
        if any(each.rate and (each.still_for or 0.0) < LATE for each in worker.partitions):
            continue  # one of several
        if any(each.answers for each in tried) or (not tried and (member.error_age or 0.0) > AWAY):
            continue
        who = f"none of {', '.join(each.address for each in tried)} answers" if tried else "its client reports it"
        text = (
            f"the broker has been away for {spell(failure.first_age)} ({who}); the last error was {_brief(failure.text)}; "
            "the worker waits and is not replaced for it"
        )
        return _of(worker, "broker_away", "error", text, "Look at the brokers, the network and bootstrap.servers.")
    return None


def fenced(_: Swarm, worker: Worker) -> Finding | None:
    """Its client is being made anew."""
    member = next((each for each in worker.members if each.rebuilds), None)
    if worker.health != "fenced" and member is None:
        return None
    failure = next((each for each in worker.failures_seen if each.kind == "client"), None)
    why = f": {_brief(failure.text)}" if failure is not None else ""
    times = f" {counted(member.rebuilds, 'time')} within two minutes" if member is not None and member.rebuilds else ""
    text = f"worker {worker.index}'s client met a fatal error and was made anew{times}{why}"
    return _of(worker, "client_rebuilt", "warning", f"{text}; after five times the process is replaced (fenced)")


def refused(_: Swarm, worker: Worker) -> Finding | None:
    """The broker answers, and says no: rights, credentials, an unknown property of the cluster."""
    for member in worker.members:
        failure = _client_failure(worker, member)
        if failure is not None and failure.text.partition(":")[0] not in _UNREACHABLE and member.joined_for is None:
            text = f"worker {worker.index} cannot join group {member.group}, {spell(failure.age)} ago: {_brief(failure.text)}"
            return _of(worker, "refused", "error", text)
    return None


def topic_missing(swarm: Swarm, worker: Worker) -> Finding | None:
    """A topic that it wants does not exist."""
    assigned = {partition.topic for _, partition in swarm.partitions() if not partition.no_start}
    for failure in worker.failures_seen:
        if failure.kind == "topic_missing" and failure.topic not in assigned:
            text = f"topic {failure.topic} of group {failure.group} does not exist (said {spell(failure.age)} ago), so nothing of it is read"
            mend = (
                "Create it, or mend its name in the subscription; it is met within topic.metadata.refresh.interval.ms."
            )
            return _of(worker, "topic_missing", "error", text, mend)
    return None


def not_joined(swarm: Swarm, worker: Worker) -> Finding | None:
    """It is no member of a group yet."""
    if worker.state != "starting" or worker.pid is None:
        return None
    waiting = [each for each in worker.members if each.joined_for is None]
    if not waiting:
        text = f"worker {worker.index} is being set up, for {spell(worker.uptime)}"
        return _of(worker, "setting_up", "warning" if (worker.uptime or 0.0) > JOINING else "note", text)
    member = waiting[0]
    if member.join_stuck_for is not None:
        left = swarm.limits.join_timeout - member.join_stuck_for
        then = f"in {spell(left)} (join_timeout) it is replaced" if left > 0 else "it is replaced for it (join_timeout)"
        text = f"worker {worker.index} has not joined group {member.group} for {spell(member.join_stuck_for)} although the brokers answer; {then}"
        return _of(worker, "join_stuck", "warning", text)
    text = (
        f"worker {worker.index} is joining group {member.group}, for {spell(worker.uptime)}: the group's other members have up to their "
        "max.poll.interval.ms to take part in the rebalance"
    )
    return _of(worker, "joining", "warning" if (worker.uptime or 0.0) > JOINING else "note", text)


def near_memory_limit(swarm: Swarm, worker: Worker) -> Finding | None:
    """It will soon be replaced for its memory."""
    limit = swarm.limits.memory_limit
    if not limit or worker.memory is None or worker.memory < NEAR * limit:
        return None
    text = f"worker {worker.index} uses {_mebibytes(worker.memory)} of its memory_limit of {_mebibytes(limit)}"
    if worker.memory >= limit:
        text += ": over it in three looks in a row, it is drained and replaced"
    elif worker.memory_trend and worker.memory_trend > 0:
        left = (limit - worker.memory) / worker.memory_trend
        text += f" and grows: at this pace it is drained and replaced in {spell(left)}"
    else:
        text += "; over it, it is drained and replaced"
    return _of(worker, "near_memory_limit", "warning", text, f"swarmctl memory {worker.index}")


def standby(swarm: Swarm, worker: Worker) -> Finding | None:
    """It is a member and has no partitions."""
    if worker.partitions or worker.state not in ("running", "quiet") or worker.pid is None:
        return None
    if not worker.members:
        return _of(
            worker, "nothing_placed", "fine", f"nothing to do: no subscription is placed on worker {worker.index}"
        )
    groups = {each.group for each in worker.members}
    nobodys = next(_unowned(each for each in swarm.unowned if each.group in groups), None)
    if nobodys is not None:
        return nobodys
    text = f"nothing to do: worker {worker.index} is a member without partitions, because there are more members than partitions"
    return _of(worker, "standby", "fine", text)


BLOCKING: Final[tuple[Callable[[Swarm, Worker], Finding | None], ...]] = (
    frozen,
    dead,
    leaving,
    silent,
    not_polling,
    contested,
    broker_away,
    fenced,
    refused,
    topic_missing,
    not_joined,
)
"""What stops everything that a worker holds, the worst first."""


# -- a partition -----------------------------------------------------------------------------------------------------


def stands(swarm: Swarm, _: Worker, partition: Partition) -> Finding | None:
    """It is not fetched although its log grows."""
    if partition.standing is None:
        return None
    timeout = swarm.limits.standing_timeout
    then = (
        f"it is sought anew after {spell(timeout)}, and its worker is replaced after {spell(2 * timeout)} (standing_timeout)"
        if partition.standing < 2 * timeout
        else "to replace its worker has not helped, so look at the partition's leader and the network"
    )
    text = f"{partition.name} has stood still at {partition.position} for {spell(partition.standing)} although its log grows and the broker answers"
    return _at(partition, "stands", "error", f"{text}; {then}")


def out_of_range(_: Swarm, worker: Worker, partition: Partition) -> Finding | None:
    """The group's offset is not in the log."""
    if not partition.out_of_range:
        return None
    failure = _failure(worker, partition, "out_of_range")
    where = f"offset {failure.first_offset}" if failure is not None else "the group's offset"
    since = f", {spell(failure.age)} ago" if failure is not None else ""
    text = f"{partition.name} is paused: {where} is no longer in its log{since}, and nobody said where to go on"
    mend = 'Set offset_out_of_range="earliest" or "latest" in the subscription, or seek in a hook.'
    return _at(partition, "out_of_range", "error", text, mend)


def no_start(swarm: Swarm, worker: Worker, partition: Partition) -> Finding | None:
    """Nobody can say where it begins."""
    if not partition.no_start:
        return None
    here = (each for each in worker.failures_seen if each.group == partition.group and each.age < RECENT)
    said = next(
        (f for f in here if f.kind == "client" or (f.kind, f.topic) == ("topic_missing", partition.topic)), None
    )
    why, mend = "", ""
    if said is not None:
        why = f": {_brief(said.text)}"
        silent = said.text.startswith("_TIMED_OUT:") and "committed offsets" in said.text
        if silent and any(each.answers for each in swarm.brokers):
            mend = (
                "The brokers answer, so most likely a transaction that somebody left open withholds the group's offset, until it ends or "
                "its transaction.timeout.ms has passed: kafka-transactions.sh list shows it."
            )
    text = f"{partition.name} was assigned to worker {worker.index} and cannot begin, because nobody could say where{why}; it is asked every few seconds"
    return _at(partition, "no_start", "error", text, mend)


def leaderless(_: Swarm, __: Worker, partition: Partition) -> Finding | None:
    """No broker leads it: nobody can read or write it."""
    if not partition.leaderless:
        return None
    text = f"no broker leads {partition.name}, so nobody can read or write it; it goes on where it was when one of those that hold it is back"
    mend = f"Start that broker again: `swarmctl topics {partition.topic}` shows what is missing. More than one replica bears the loss of one."
    return _at(partition, "leaderless", "error", text, mend)


def _suspect(swarm: Swarm, partition: Partition) -> Suspect | None:
    """What of it was in hand when workers died."""
    place = (partition.group, partition.topic, partition.partition)
    return next((each for each in swarm.suspects if (each.group, each.topic, each.partition) == place), None)


def held(swarm: Swarm, worker: Worker, partition: Partition) -> Finding | None:
    """Its next message kills processes."""
    suspect = _suspect(swarm, partition)
    if partition.waits_for != "held" and (suspect is None or partition.phase == "running"):
        return None
    failure = _failure(worker, partition, "held")
    first = suspect.first_offset if suspect is not None else failure.first_offset if failure is not None else -1
    deaths = suspect.deaths if suspect is not None else failure.attempt if failure is not None else 0
    if partition.waits_for == "held":
        message = (
            f"message {first} was in hand at {counted(deaths, 'death')} of its process"
            if first >= 0
            else "its next message"
        )
        text = f"{partition.name} waits for somebody: {message} and has no dead letter topic to go to, or no moment to run alone"
        mend = "Mend the handler and `swarmctl reload`, which clears the suspicion, or give the subscription a dead_letter topic."
        return _at(partition, "held", "error", text, mend)
    assert suspect is not None
    span = offsets(suspect.first_offset, suspect.last_offset)
    text = f"{partition.name} {span} were in hand when a worker died by its own fault, {counted(deaths, 'time')}; after two deaths they run one by one"
    return _at(partition, "suspect", "warning", text)


def letter_undelivered(_: Swarm, worker: Worker, partition: Partition) -> Finding | None:
    """The dead letter topic does not take what is set aside."""
    if partition.waits_for != "dead_letter":
        return None
    failure = _failure(worker, partition, "dead_letter")
    why = _brief(failure.text) if failure is not None else "the dead letter topic could not be written"
    text = f"{partition.name} waits: {why}; next try in {spell(partition.until_in)}"
    return _at(
        partition, "dead_letter_undelivered", "error", text, "Does the topic exist, and may the worker write it?"
    )


def failing(_: Swarm, worker: Worker, partition: Partition) -> Finding | None:
    """Its handler raised, and it waits for the next attempt."""
    if partition.waits_for not in ("backoff", "set_up"):
        return None
    failure = _failure(worker, partition, "handler")
    tries = max(1, partition.attempt - 1)
    if failure is None:
        what = f"attempt {tries} failed"
    else:
        what = f"attempt {failure.attempt or tries} failed with {_brief(failure.text)} {spell(failure.age)} ago"
    if partition.waits_for == "set_up":
        what = what.replace("attempt", "making its consumer, attempt", 1)
    text = f"{partition.name} waits: {what}, next try in {spell(partition.until_in)}"
    return _at(partition, "failing", "error", text)


def held_up_by_kafka(_: Swarm, worker: Worker, partition: Partition) -> Finding | None:
    """A transaction or a commit does not come about."""
    if partition.waits_for not in ("transaction", "commit"):
        return None
    failure = _failure(worker, partition, partition.waits_for)
    why = f": {_brief(failure.text)}, {spell(failure.age)} ago" if failure is not None else ""
    what = (
        "its transaction did not come about"
        if partition.waits_for == "transaction"
        else "its offset could not be committed first"
    )
    text = f"{partition.name} waits: {what}{why}; next try in {spell(partition.until_in)}"
    return _at(partition, f"{partition.waits_for}_refused", "warning", text)


def operators_pause(swarm: Swarm, _: Worker, partition: Partition) -> Finding | None:
    """An operator paused it."""
    if not partition.paused:
        return None
    words = [
        word
        for word in swarm.pauses
        if word.paused and word.speaks_of(partition.group, partition.topic, partition.partition)
    ]
    where = words[-1].topic if words and words[-1].partition is None else partition.name
    done = ", once the batch in hand is done" if partition.phase == "running" else ""
    text = f"{partition.name} is paused by an operator (swarmctl pause {where}){done}"
    return _at(partition, "paused", "note", text + _behind(partition), f"swarmctl resume {where}")


def quiet(swarm: Swarm, worker: Worker, partition: Partition) -> Finding | None:
    """The swarm takes no new work."""
    if not swarm.quiet and worker.state != "quiet":
        return None
    text = f"{partition.name} takes no new work, because the swarm is quiet (swarmctl quiet, or SIGTSTP)"
    return _at(partition, "quiet", "note", text + _behind(partition), "swarmctl resume")


def succeeds(_: Swarm, __: Worker, partition: Partition) -> Finding | None:
    """A job of the assignment before is not over."""
    if not partition.succeeds:
        return None
    text = f"{partition.name} waits until a job of its assignment before has ended: two jobs of one partition never run at once"
    return _at(partition, "predecessor", "warning", text)


def busy(swarm: Swarm, worker: Worker, partition: Partition) -> Finding | None:
    """Its handler has been running for long."""
    job = _oldest(worker, partition)
    if job is None or (judged := _judged(job)) == _BRIEF:
        return None
    suspect = _suspect(swarm, partition)
    before = (
        f"; {offsets(suspect.first_offset, suspect.last_offset)} of it were in hand at {counted(suspect.deaths, 'death')} of a worker"
        if suspect
        else ""
    )
    return _at(partition, *judged, running(job, worker) + before)


def handed_over(_: Swarm, worker: Worker, partition: Partition) -> Finding | None:
    """It is being taken away."""
    if not partition.closing:
        return None
    text = f"{partition.name} is being taken from worker {worker.index}: what runs is finished and committed, then another member gets it"
    return _at(partition, "closing", "note", text)


def waits_as_asked(_: Swarm, worker: Worker, partition: Partition) -> Finding | None:
    """A pause of the handler's, a rate, a delay, a batch that shall fill."""
    left = spell(partition.until_in)
    match partition.waits_for:
        case "pause":
            text = f"its handler paused it, for {left} more"
        case "rate":
            text = f"its share of rate_limit is used up; the next message may run in {left}"
        case "not_before":
            text = f"its next message is younger than not_before allows; it is looked at again in {left}"
        case "gathering":
            text = f"its batch is filling (max_wait); it runs in {left} or when max_messages are there"
        case _:
            return None
    if partition.until_in is not None and partition.until_in <= 0.0:
        return None  # it has ended since the last look
    rule = {"pause": "handler_pause", "rate": "rate_limited", "not_before": "not_before", "gathering": "gathering"}
    return _at(partition, rule[partition.waits_for], "note", f"{partition.name} waits: {text}{_behind(partition)}")


def queued(swarm: Swarm, worker: Worker, partition: Partition) -> Finding | None:
    """All processing threads are busy with others."""
    if partition.phase != "ready" or (partition.since or 0.0) < 1.0 or not worker.jobs:
        return None
    longest = max(worker.jobs, key=lambda each: each.age)
    where = f", which waits at {longest.waits}" if longest.waits else f" in {longest.where}" if longest.where else ""
    threads = len(worker.jobs)
    text = (
        f"{partition.name} has been in the queue of worker {worker.index} for {spell(partition.since)}: its "
        f"{counted(threads, 'processing thread')} {plural(threads, 'is', 'are')} busy, {longest.topic}/{longest.partition} for {spell(longest.age)}{where}"
    )
    late = (partition.since or 0.0) > SLOW
    mend = "worker.concurrency gives it more threads, more workers more processes." if late else ""
    return _at(partition, "queued", "warning" if late else "note", text, mend)


def refused_commit(_: Swarm, worker: Worker, partition: Partition) -> Finding | None:
    """What is done is not committed."""
    # One commit is for all partitions of a group, and what is remembered of its refusal names the first of them.
    refusals = [each for each in worker.failures_seen if each.kind == "commit" and each.group == partition.group]
    failure = min(refusals, key=lambda each: each.age, default=None)
    if failure is None or failure.age > RECENT or (partition.still_for or 0.0) < failure.age:
        return None
    if partition.position is not None and partition.position <= (partition.committed or 0):
        return None  # nothing of this one is open
    text = f"{partition.name} is worked on, but not committed: {_brief(failure.text)}, {spell(failure.age)} ago; a restart would repeat it"
    return _at(partition, "commit_refused", "warning", text)


def withheld(_: Swarm, __: Worker, partition: Partition) -> Finding | None:
    """All that it may read is done: an open transaction hides the rest."""
    if not partition.withheld or not partition.lag or partition.phase != "idle" or (partition.still_for or 0.0) < LATE:
        return None
    still = partition.still_for or 0.0
    text = (
        f"{partition.name} has done all that it may read: a producer's open transaction hides the {counted(partition.lag, 'message')} from offset "
        f"{partition.position} on from read_committed readers, for {spell(still)} or longer"
    )
    mend = (
        "Find that producer: it is slow, hangs, or died, and then the broker waits for its transaction.timeout.ms. kafka-transactions.sh "
        f"describe-producers --topic {partition.topic} --partition {partition.partition} says which; abort ends it. Nothing here helps."
    )
    return _at(partition, "withheld", "error" if still > OUTAGE else "warning", text, mend)


def falls_behind(_: Swarm, worker: Worker, partition: Partition) -> Finding | None:
    """It moves, and its lag grows."""
    trend = partition.lag_trend
    if not partition.lag or trend is None or trend < GROWS or trend * partition.watched < 0.05 * partition.lag:
        return None
    job = _oldest(worker, partition)
    if job is not None and partition.lag <= 2 * (job.last_offset - job.first_offset + 1):
        return None  # what came during this batch, the next one takes
    rate = f"{number(partition.rate)} messages/s are done" if partition.rate else "nothing was committed meanwhile"
    text = f"{partition.name} falls behind: its lag of {number(partition.lag)} grows by {number(trend)}/s, while {rate}"
    mend = "A partition has one job at a time: larger batches, concurrency_key=, or more partitions and workers help."
    return _at(partition, "falls_behind", "warning", text, mend)


def still(_: Swarm, worker: Worker, partition: Partition) -> Finding | None:
    """It has lag, nothing is in hand, and it does not move: nothing explains it so far."""
    if not partition.lag or (partition.still_for or 0.0) < 3 * LATE or partition.rate:
        return None
    text = (
        f"{partition.name} has not moved for {spell(partition.still_for)} with a lag of {number(partition.lag)}, and nothing of it is in hand: "
        "an open transaction may hide what is there from read_committed readers, or the handler does not mark what it has done"
    )
    return _at(partition, "still", "warning", text, f"swarmctl backtrace {worker.index}; swarmctl doctor")


def at_work(_: Swarm, worker: Worker, partition: Partition) -> Finding | None:
    """Its handler runs, for no longer than it may. Late in the ladder: who falls behind is nearly always at work, too."""
    job = _oldest(worker, partition)
    return _at(partition, *_BRIEF, running(job, worker)) if job is not None else None


def nothing_to_do(_: Swarm, __: Worker, partition: Partition) -> Finding | None:
    """No lag."""
    if partition.lag != 0:
        return None
    since = f"; it has been idle for {spell(partition.since)}" if partition.phase == "idle" and partition.since else ""
    return _at(partition, "no_lag", "fine", f"nothing to do: {partition.name} has no lag{since}")


def moves(_: Swarm, __: Worker, partition: Partition) -> Finding | None:
    """It advances."""
    lag = "an unknown lag" if partition.lag is None else f"a lag of {number(partition.lag)}"
    pace = ""
    if partition.rate:
        pace = f", {number(partition.rate)} messages/s"
        if partition.lag_trend is not None and partition.lag and partition.lag_trend < 0:
            pace += f", none left in {spell(partition.lag / -partition.lag_trend)} at this pace"
    return _at(partition, "moves", "fine", f"{partition.name} moves: {lag}{pace}")


LADDER: Final[tuple[Callable[[Swarm, Worker, Partition], Finding | None], ...]] = (
    stands,
    out_of_range,
    no_start,
    leaderless,
    held,
    letter_undelivered,
    failing,
    held_up_by_kafka,
    succeeds,
    busy,
    operators_pause,
    quiet,
    handed_over,
    waits_as_asked,
    queued,
    refused_commit,
    withheld,
    falls_behind,
    at_work,
    still,
    nothing_to_do,
    moves,
)
"""Of a partition whose worker is well."""


# -- verdicts --------------------------------------------------------------------------------------------------------


def of_partition(swarm: Swarm, topic: str, partition: int, group: str | None = None) -> list[Finding]:
    """The verdict on a partition, for each group that has it. Never empty."""
    found = [
        _first(swarm, worker, each)
        for worker, each in swarm.partitions()
        if (each.topic, each.partition) == (topic, partition) and group in (None, each.group) and worker.pid is not None
    ]
    if found:
        return found
    return [_unheld(swarm, topic, partition, group)]


def _first(swarm: Swarm, worker: Worker, partition: Partition) -> Finding:
    """The first rule that applies, of those on the worker and those on the partition."""
    blocked = next(_blocking(swarm, worker), None)
    # A new batch may have begun while a topic is missing, or while an operator's word about another one is out.
    if (
        blocked is not None
        and blocked.rule not in ("topic_missing", "leaving")
        and blocked.level in ("error", "warning")
    ):
        return replace(blocked, subject=partition.name, text=f"{partition.name} waits: {blocked.text}")
    for rule in LADDER:
        finding = rule(swarm, worker, partition)
        if finding is not None:
            return finding
    raise AssertionError("the last rule applies always")


def _unheld(swarm: Swarm, topic: str, partition: int, group: str | None) -> Finding:
    """Nobody of this swarm has it."""
    name = f"{topic}/{partition}"
    for unowned in swarm.unowned:
        if (unowned.topic, unowned.partition) == (topic, partition) and group in (None, unowned.group):
            return _nobody([unowned])
    for worker in swarm.workers:  # what a dead one had is its successor's, who keeps its seat
        left = any((each.topic, each.partition) == (topic, partition) for each in worker.partitions)
        if left and worker.pid is None:
            finding = dead(swarm, worker)
            assert finding is not None
            return replace(finding, subject=name, text=f"{name} waits: {finding.text}")
    for worker in swarm.workers:
        for finding in _blocking(swarm, worker):
            if finding.rule != "topic_missing" or f"topic {topic} " in finding.text:
                return replace(finding, subject=name, text=f"no worker has {name}: {finding.text}")
    asked = f" (the broker said so {spell(swarm.ownership_age)} ago)" if swarm.ownership_age is not None else ""
    text = f"no worker of this swarm has {name}: another member of its group has it{asked}, or it does not exist, or nothing here consumes it"
    return Finding("not_held", "warning", name, text, "swarmctl status lists what is consumed.")


def of_topic(swarm: Swarm, topic: str, group: str | None = None) -> list[Finding]:
    """The verdicts on all partitions of a topic, the worst first. Never empty."""
    found = [
        _first(swarm, worker, each)
        for worker, each in swarm.partitions()
        if each.topic == topic and group in (None, each.group) and worker.pid is not None
    ]
    found += [_nobody([each]) for each in swarm.unowned if each.topic == topic and group in (None, each.group)]
    return _in_order(found) if found else [replace(_unheld(swarm, topic, 0, group), subject=topic)]


def of_worker(swarm: Swarm, index: int) -> list[Finding]:
    """The verdict on a worker, then what else is to be said of it. Never empty. IndexError where there is no such worker."""
    worker = next((each for each in swarm.workers if each.index == index), None)
    if worker is None:
        raise IndexError(index)
    found = list(_blocking(swarm, worker))
    if worker.pid is not None:
        found += [rule for rule in (near_memory_limit(swarm, worker), standby(swarm, worker)) if rule is not None]
        found += _summed(worker, [_ladder(swarm, worker, each) for each in _longest_first(worker)])
    if not found:
        found.append(_of(worker, "moves", "fine", f"worker {index} is {worker.state}"))
    return _in_order(found)


def _summed(worker: Worker, findings: list[Finding]) -> list[Finding]:
    """Those on a worker's partitions; those without a lag are one."""
    idle = [each for each in findings if each.rule == "no_lag"]
    if len(idle) < 2:
        return findings
    which = f"all {len(idle)}" if len(idle) == len(findings) else f"{len(idle)} of {len(findings)}"
    text = f"nothing to do in {which} partitions of worker {worker.index}: they have no lag"
    return [*(each for each in findings if each.rule != "no_lag"), _of(worker, "no_lag", "fine", text)]


def _ladder(swarm: Swarm, worker: Worker, partition: Partition) -> Finding:
    return next(finding for rule in LADDER if (finding := rule(swarm, worker, partition)) is not None)


def of_swarm(swarm: Swarm) -> list[Finding]:
    """What is wrong anywhere, the worst first, alike things together; where nothing is: that everything moves. Never empty."""
    found = list(_of_all(swarm))
    for worker in swarm.workers:
        blocked = list(_blocking(swarm, worker))
        found += blocked
        if worker.pid is None:
            continue
        near = near_memory_limit(swarm, worker)
        found += [near] if near is not None else []
        if not any(each.level in ("error", "warning") and each.rule != "topic_missing" for each in blocked):
            found += [_ladder(swarm, worker, each) for each in _longest_first(worker)]
    found = _in_order(_together([each for each in found if each.level != "fine"]))
    if any(each.level in ("error", "warning") for each in found):
        return found
    return [_everything_moves(swarm), *found]


def _of_all(swarm: Swarm) -> Iterator[Finding]:
    """What concerns the swarm as a whole."""
    if swarm.state == "stopping":
        left = [worker for worker in swarm.workers if worker.pid is not None]
        text = f"the swarm is being stopped: {len(left)} of its workers {plural(len(left), 'is', 'are')} still finishing what "
        text += f"{plural(len(left), 'it has', 'they have')} in hand"
        yield Finding("stopping", "warning", "swarm", text)
    elif swarm.quiet:
        yield Finding(
            "quiet",
            "note",
            "swarm",
            "the swarm is quiet: it takes no new work and keeps its partitions",
            "swarmctl resume",
        )
    yield from _unowned(swarm.unowned)
    if swarm.reload_error:
        text = f"the newest code or settings are not in use: {_brief(swarm.reload_error)}"
        yield Finding("reload_refused", "error", "swarm", text, "Mend them and `swarmctl reload`.")
    if swarm.under_way and swarm.state != "stopping":
        yield Finding("under_way", "note", "swarm", f"under way: {swarm.under_way}")


def _everything_moves(swarm: Swarm) -> Finding:
    partitions = [each for _, each in swarm.partitions()]
    lags = [each.lag for each in partitions if each.lag is not None]
    rate = sum(each.rate or 0.0 for each in partitions)
    lag = sum(lags) if len(lags) == len(partitions) else None
    jobs = sum(len(worker.jobs) for worker in swarm.workers)
    size = f"{counted(len(swarm.workers), 'worker')}, {counted(len(partitions), 'partition')}"
    if partitions and lag == 0 and not jobs:
        return Finding(
            "no_lag", "fine", "swarm", f"everything moves: there is nothing to do, no partition has a lag ({size})"
        )
    waiting = (
        f"a lag of {number(lag)}"
        if lag is not None
        else "a lag that is not known yet"
        if partitions
        else "no partitions yet"
    )
    pace = f", {number(rate)} messages/s" if rate else ""
    return Finding("moves", "fine", "swarm", f"everything moves: {size}, {waiting}{pace}")


def _unowned(unowned: Iterable[Unowned]) -> Iterator[Finding]:
    """One finding for each topic of each group."""
    grouped: dict[tuple[str, str], list[Unowned]] = {}
    for each in unowned:
        grouped.setdefault((each.group, each.topic), []).append(each)
    for together in grouped.values():
        yield _nobody(sorted(together, key=lambda each: each.partition))


def _nobody(unowned: Sequence[Unowned]) -> Finding:
    """On partitions of one topic that nobody in one group has."""
    group, names = unowned[0].group, [f"{each.topic}/{each.partition}" for each in unowned]
    who = ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:8])} and {len(names) - 8} more"
    since = f"for {spell(max(each.seconds for each in unowned))} or longer"
    if unowned[0].bound:
        verb = "is" if len(names) == 1 else "are"
        text = f"{who} {verb} bound to no worker, {since}, so group {group} reads nothing of it"
        mend = "Give it to a worker in partitions= of the subscription, and swarmctl reload."
    else:
        text = f"nobody in group {group} has {who}, {since}, so nothing of it is read"
        mend = "A worker leaves the group and joins again by itself; else: does every member know the topic, and may it read it?"
    return Finding("unowned", "error", names[0], text, mend)


_WEIGHT: Final = {"error": 0, "warning": 1, "note": 2, "fine": 3}


def _in_order(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first, else as they come: rules are asked in the order of their weight."""
    return sorted(findings, key=lambda each: _WEIGHT[each.level])


def _together(findings: list[Finding]) -> list[Finding]:
    """One of each kind on partitions, with how many others are alike, so that a hundred partitions are not a hundred lines."""
    kept: list[Finding] = []
    others: dict[tuple[str, Level], list[str]] = {}
    for each in findings:
        is_partition = "/" in each.subject
        key = (each.rule, each.level)
        if is_partition and key in others:
            others[key].append(each.subject)
            continue
        if is_partition:
            others[key] = []
        elif any(other.rule == each.rule == "broker_away" for other in kept):
            continue  # all have the same brokers
        kept.append(each)
    return [
        replace(each, text=f"{each.text} (and {_names(more)} likewise)")
        if "/" in each.subject and (more := others.get((each.rule, each.level)))
        else each
        for each in kept
    ]


def _names(subjects: list[str]) -> str:
    return ", ".join(subjects) if len(subjects) <= 6 else f"{len(subjects)} other partitions"


def _blocking(swarm: Swarm, worker: Worker) -> Iterator[Finding]:
    for rule in BLOCKING:
        finding = rule(swarm, worker)
        if finding is not None:
            yield finding
            if rule in (frozen, dead, silent):
                return  # whatever else is to be seen of it, follows from that


# -- pieces ----------------------------------------------------------------------------------------------------------


def _of(worker: Worker, rule: str, level: Level, text: str, mend: str = "") -> Finding:
    return Finding(rule, level, f"worker {worker.index}", text, mend)


def _at(partition: Partition, rule: str, level: Level, text: str, mend: str = "") -> Finding:
    return Finding(rule, level, partition.name, text, mend)


def _longest_first(worker: Worker) -> list[Partition]:
    """Its partitions, those whose batch has been running for longest first."""
    ages: dict[tuple[str, str, int], float] = {}
    for job in worker.jobs:
        key = (job.group, job.topic, job.partition)
        ages[key] = max(job.age, ages.get(key, 0.0))
    return sorted(worker.partitions, key=lambda each: -ages.get((each.group, each.topic, each.partition), 0.0))


def _same(job: Job, partition: Partition) -> bool:
    return (job.group, job.topic, job.partition) == (partition.group, partition.topic, partition.partition)


def _judged(job: Job) -> tuple[str, Level]:
    """Whether a batch that runs is worth a word: longer than SLOW, much longer than others, and not meant to be long."""
    slow = job.age > SLOW and (job.usual is None or job.age > UNUSUAL * job.usual)
    if job.limit is not None and job.age > job.limit / 2:
        slow = slow or job.age > 1.0
    if slow and job.limit is not None:
        return "slow_job", "warning"
    return ("slow_job", "note") if slow else _BRIEF


_BRIEF: Final[tuple[str, Level]] = ("running", "fine")


def _oldest(worker: Worker, partition: Partition) -> Job | None:
    """What has been running there for longest."""
    jobs = [each for each in worker.jobs if _same(each, partition)]
    return max(jobs, key=lambda each: each.age, default=None)


def _client_failure(worker: Worker, member: Member) -> Failure | None:
    """The newest error of a group's client, if it is recent."""
    if member.error_age is None or member.error_age > RECENT:
        return None
    found = [each for each in worker.failures_seen if each.kind == "client" and each.group == member.group]
    return min(found, key=lambda each: each.age, default=None)


def _failure(worker: Worker, partition: Partition, kind: str) -> Failure | None:
    """The newest failure of a kind there."""
    place = (partition.group, partition.topic, partition.partition)
    found = [
        each for each in worker.failures_seen if each.kind == kind and (each.group, each.topic, each.partition) == place
    ]
    return min(found, key=lambda each: each.age, default=None)


def _behind(partition: Partition) -> str:
    return f"; its lag is {number(partition.lag)}" if partition.lag else ""


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
