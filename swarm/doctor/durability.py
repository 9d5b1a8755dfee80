"""Rules about what the cluster keeps: replicas, acknowledgements, offsets, transactions, timestamps. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from swarm.doctor.facts import Facts, Topic, Value, listed
from swarm.doctor.finding import Found, Rule
from swarm.wording import counted

DOWNTIME: Final = 3 * 24 * 60
"""Minutes for which an application may plausibly be down: a long weekend."""
USUAL_REPLICAS: Final = 3
OUTAGE: Final = 60.0
"""Seconds for which a transaction may be open before that is no slow producer any more."""
LONG: Final = 10.0
"""Seconds for which a transaction may be open before it is said to hold readers up."""
SKEW: Final = 2.0
"""Seconds by which clocks may differ: more than the network and a delayed answer explain."""


def _unreachable(facts: Facts) -> Iterator[Found]:
    if facts.unreachable:
        yield Found(
            "no broker answers",
            "The address is wrong, the cluster is down, or the network, TLS or the credentials do not let us in.",
            'Check "bootstrap.servers" and the security properties of [kafka]; swarmctl check -v shows those in use.',
            f"{facts.unreachable}; bootstrap.servers ({facts.source('kafka.bootstrap.servers')})",
        )


def _topic_missing(facts: Facts) -> Iterator[Found]:
    assert facts.cluster is not None
    created = facts.cluster.config.get("auto.create.topics.enable") == "true"
    for group in facts.groups:
        missing = sorted(topic for topic in group.topics if topic not in facts.cluster.topics)
        if missing:
            yield Found(
                f"the group {group.name} subscribes to topics that do not exist: {listed(missing)}",
                "A name is misspelt, or the topic is not made yet; or this user may not see it (DESCRIBE).",
                "Make the topic, or mend its name.",
                f"{listed(each.label for each in group.subscriptions)}; not among the topics that the brokers list",
            )
    letters = sorted(
        {
            each.dead_letter
            for group in facts.groups
            for each in group.subscriptions
            if each.dead_letter is not None and each.dead_letter not in facts.cluster.topics
        }
    )
    if letters:
        yield Found(
            f"dead letter topics do not exist: {listed(letters)}",
            "The brokers make one at the first dead letter, with one partition and their default replication."
            if created
            else "The first message that has to be set aside cannot be, and its partition waits until it can.",
            "Make them, with as many partitions as their source.",
            f"dead_letter= of {listed(s.label for g in facts.groups for s in g.subscriptions if s.dead_letter in letters)}; "
            f"auto.create.topics.enable = {facts.cluster.config.get('auto.create.topics.enable', 'unknown')}",
            "warning",
        )


def _retention(facts: Facts) -> Iterator[Found]:
    assert facts.cluster is not None
    minutes = facts.cluster.number("offsets.retention.minutes")
    if minutes is not None and minutes < DOWNTIME and facts.groups:
        yield Found(
            f"the brokers forget a group's offsets {minutes / 60:g} h after its last member has gone",
            "An application that is down for longer, over a weekend say, begins again at initial_offset: everything once more, or "
            "a gap.",
            f"Set the brokers' offsets.retention.minutes to {DOWNTIME} or more; Kafka's own default is 10080 (7 days).",
            f"offsets.retention.minutes = {minutes} (broker); groups {listed(group.name for group in facts.groups)}",
        )


# -- replicas --------------------------------------------------------------------------------------------------------


def _kept(facts: Facts) -> list[Topic]:
    """Topics that matter to the application: what it reads, where it sets aside, where its offsets and transactions are."""
    assert facts.cluster is not None
    names = {topic.name: None for _, _, topic in facts.subscribed()}
    names |= {each.dead_letter: None for group in facts.groups for each in group.subscriptions if each.dead_letter}
    names["__consumer_offsets"] = None
    if any(group.exactly_once for group in facts.groups):
        names["__transaction_state"] = None
    return [facts.cluster.topics[name] for name in names if name in facts.cluster.topics]


def _replication(facts: Facts) -> Iterator[Found]:
    assert facts.cluster is not None
    brokers = facts.cluster.brokers
    wanted = min(USUAL_REPLICAS, brokers)
    few = [topic for topic in _kept(facts) if topic.replication < wanted]
    if brokers > 1 and few:
        alone = any(topic.replication == 1 for topic in few)
        yield Found(
            f"topics have fewer replicas than the {brokers} brokers could keep: {listed(topic.name for topic in few)}",
            "The loss of one broker's disk loses what only it had, and its restart stops these partitions."
            if alone
            else "While one broker is down there is no second copy.",
            f"Raise their replication to {wanted} (kafka-reassign-partitions), and the brokers' default.replication.factor.",
            listed(f"{topic.name}: {topic.replication}" for topic in few) + f"; {brokers} brokers",
            None if alone else "info",
        )


def _min_insync(facts: Facts) -> Iterator[Found]:
    assert facts.cluster is not None
    if facts.cluster.brokers < 2:
        return
    replicated = [topic for topic in _kept(facts) if topic.replication > 1 and topic.min_insync is not None]
    low = [topic for topic in replicated if topic.min_insync == 1 and topic.replication > 2]
    high = [topic for topic in replicated if (topic.min_insync or 0) >= topic.replication]
    if low:
        yield Found(
            f"one replica alone may acknowledge a message in {listed(topic.name for topic in low)}",
            "With acks=all a message counts when all replicas in sync have it, and min.insync.replicas = 1 lets that be only one: "
            "if it fails then, acknowledged messages are lost.",
            "Set min.insync.replicas = 2 for these topics, or for the brokers.",
            listed(f"{t.name}: replication {t.replication}, min.insync.replicas {t.min_insync}" for t in low),
        )
    if high:
        yield Found(
            f"nothing can be written to {listed(topic.name for topic in high)} while one broker is down",
            "min.insync.replicas is as high as the number of replicas: each restart of a broker stops all writers.",
            "Set min.insync.replicas one below the replication, or raise the replication.",
            listed(f"{t.name}: replication {t.replication}, min.insync.replicas {t.min_insync}" for t in high),
        )


def _auto_create(facts: Facts) -> Iterator[Found]:
    assert facts.cluster is not None
    if facts.cluster.config.get("auto.create.topics.enable") == "true":
        yield Found(
            "the brokers make topics by themselves",
            "A misspelt name becomes a topic with the brokers' default partitions and replication, and its messages are read by "
            "nobody.",
            "Set auto.create.topics.enable = false on the brokers, and make topics on purpose.",
            f"auto.create.topics.enable = true (broker); {counted(facts.cluster.brokers, 'broker')}",
            None if facts.cluster.brokers > 1 else "info",
        )


# -- producers -------------------------------------------------------------------------------------------------------


def _acks(facts: Facts) -> Iterator[Found]:
    acks = facts.produced("acks")
    if acks.text.lower() not in ("-1", "all"):
        yield Found(
            f"producers do not wait for all replicas (acks={acks.text})",
            "A message counts as delivered when it is on one broker at most; if that fails, it is lost, although the offset of the "
            "message it was made from is committed.",
            "Remove acks and enable.idempotence from [kafka]: the defaults are all and true.",
            f"acks = {acks.text} ({acks.source})",
        )


def _idempotence(facts: Facts) -> Iterator[Found]:
    value = facts.producer.get("enable.idempotence", Value("true", ""))  # ours is always there
    if value.text.lower() not in ("true", "1", "t") and facts.produced("acks").text.lower() in ("-1", "all"):
        yield Found(
            "producers are not idempotent",
            "An acknowledgement that gets lost makes the client send again: the message is in the topic twice, or out of order.",
            "Remove enable.idempotence from [kafka]: the default is true.",
            f"enable.idempotence = {value.text} ({value.source})",
        )


# -- transactions and clocks -----------------------------------------------------------------------------------------


def _open_transaction(facts: Facts) -> Iterator[Found]:
    assert facts.cluster is not None
    first, last = facts.cluster.looks[0], facts.cluster.looks[-1]
    reading = {
        topic.name for group, _, topic in facts.subscribed() if group.value("isolation.level").text == "read_committed"
    }
    for place, end in sorted(last.ends.items()):
        stable = last.stable.get(place)
        if place[0] not in reading or stable is None or stable >= end or first.stable.get(place) != stable:
            continue
        age = facts.cluster.withheld.get(place)
        if age is not None and age < LONG:
            continue
        since = f", {age:.0f} s old" if age is not None else ""
        yield Found(
            f"an open transaction holds up the readers of {place[0]}/{place[1]}",
            "Who reads committed messages gets nothing behind the first message of a transaction that is neither committed nor "
            "aborted: its producer is slow, hangs, or died, and then the broker waits for its transaction.timeout.ms.",
            f"Find that producer: kafka-transactions.sh describe-producers --topic {place[0]} --partition {place[1]} says which has a "
            "transaction there since when, and abort ends what nobody will.",
            f"last stable offset {stable} at both looks{since}, high watermark {end}: {counted(end - stable, 'message')} withheld",
            "error" if age is not None and age > OUTAGE else None,
        )


def _clock_skew(facts: Facts) -> Iterator[Found]:
    assert facts.cluster is not None
    looks = facts.cluster.looks
    if not looks:
        return
    now = looks[-1].wall
    for topic in {topic.name: topic for _, _, topic in facts.subscribed()}.values():
        if topic.newest is None or topic.newest - now <= SKEW:
            continue
        ahead = topic.newest - now
        brokers = topic.config.get("message.timestamp.type") == "LogAppendTime"
        yield Found(
            f"the newest message of {topic.name} is {ahead:,.0f} s in the future",
            "The brokers' clocks are ahead of this machine's, or this one is behind."
            if brokers
            else "The clock of who produced it is ahead of this machine's, or this one is behind. expires_after=, not_before= and lag "
            "in seconds go by these timestamps.",
            "Synchronise the clocks (chrony, systemd-timesyncd).",
            f"its timestamp is {topic.newest:.3f} "
            f"({topic.config.get('message.timestamp.type', 'CreateTime')}), this machine's clock {now:.3f}",
        )


RULES: Final = (
    Rule("broker_unreachable", "error", "brokers that do not answer", _unreachable),
    Rule(
        "topic_missing",
        "error",
        "subscribed topics, and (warning) dead letter topics, that do not exist",
        _topic_missing,
        ("app", "cluster"),
    ),
    Rule(
        "offsets_retention",
        "warning",
        "`offsets.retention.minutes` shorter than three days",
        _retention,
        ("app", "broker config"),
    ),
    Rule(
        "replication",
        "warning",
        "topics with one replica where there are several brokers (info: with fewer than three)",
        _replication,
        ("app", "cluster"),
    ),
    Rule(
        "min_insync_replicas",
        "warning",
        "`min.insync.replicas` of 1 with three replicas or more, or as high as the replication",
        _min_insync,
        ("app", "topic config"),
    ),
    Rule(
        "auto_created_topics",
        "warning",
        "brokers that make topics by themselves (info: a single broker)",
        _auto_create,
        ("broker config",),
    ),
    Rule("producer_acks", "warning", "producers with `acks` other than all", _acks),
    Rule("producer_not_idempotent", "warning", "producers without idempotence", _idempotence),
    Rule(
        "open_transaction",
        "warning",
        "a last stable offset that stands below the high watermark at both looks",
        _open_transaction,
        ("app", "looks"),
    ),
    Rule(
        "clock_skew",
        "warning",
        "messages with timestamps in the future: brokers' clocks with `LogAppendTime`, else producers'",
        _clock_skew,
        ("app", "cluster"),
    ),
)
