from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

# A topic for each combination, named `PREFIX-` and what is on in it.
APP = """
    import asyncio
    from swarm import App, Backoff, DeadLetter, VirtualPartitions
    from recording import record

    app = App("shop")

    def subscribe(topic):
        on = topic.rpartition("-")[2]

        def work(message, consumer):
            record(message)
            if message.key == b"bad" and ("d" in on or message.attempt == 1):
                raise ValueError("no order")
            if "{delivery}" == "exactly_once":
                consumer.producer.produce("{outputs}", message.raw, key=topic)
            if "m" in on:
                consumer.mark_as_consumed(message)

        async def work_later(message, consumer):
            await asyncio.sleep(0)
            work(message, consumer)

        def batch(messages, consumer):
            for message in messages:
                work(message, consumer)

        async def batch_later(messages, consumer):
            for message in messages:
                await work_later(message, consumer)

        one, many = (work_later, batch_later) if "a" in on else (work, batch)
        kind, handler = (app.each, one) if "e" in on else (app.subscribe, many)
        kind(
            topic,
            delivery="{delivery}",
            offsets="manual" if "m" in on else "automatic",
            virtual_partitions=VirtualPartitions(by=lambda message: message.key) if "v" in on else None,
            long_running="l" in on,
            backoff=Backoff(initial=0.01, maximum=0.02),
            dead_letter=DeadLetter("{letters}", max_attempts=3) if "d" in on else None,
        )(handler)

    for topic in {topics!r}:
        subscribe(topic)
"""
MESSAGES, POISON = 12, 5
KEYS = [f"key-{number % 3}" if number != POISON else "bad" for number in range(MESSAGES)]


def combinations(delivery: str) -> list[str]:
    """Letters of what is on: each, manual, dead letters, long-running; virtual and async, which no transaction can be."""
    letters = "emdl" if delivery == "exactly_once" else "emdlva"
    choices = itertools.product(*((letter, "") for letter in letters))
    return ["0" + "".join(choice) for choice in choices]


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once", "exactly_once"])
def test_every_combination_of_what_a_subscription_may_ask_for_keeps_its_promises(
    delivery: str, broker: Broker, topic: Callable[..., str], group: str, swarm_project: Callable[..., Daemon]
) -> None:
    """All in one group of one worker, each with a message that fails: at every attempt where it can be set aside, else at the first."""
    letters, outputs = topic(), topic()
    topics = {f"{group}-{on}": on for on in combinations(delivery)}
    broker.create_topics(topics)
    for name in topics:
        broker.produce(name, [(key, str(number)) for number, key in enumerate(KEYS)])
    app = APP.format(delivery=delivery, outputs=outputs, letters=letters, topics=list(topics))
    daemon = swarm_project(app, {"swarm": {"workers": 1}, "worker": {"concurrency": 6, "commit_interval": 0.2}})
    daemon.expect_errors("consume_failed", "message_dead_lettered", "message_dropped", "transaction_aborted")
    recording = Recording(daemon.folder)

    daemon.start()
    done = {(name, 0): MESSAGES for name in topics}
    daemon.wait_for(lambda: broker.committed(daemon.group) == done, what="every combination's end", within=90)
    everything = {(name, number) for name in topics for number in range(MESSAGES)}
    if delivery == "at_most_once":  # which is committed before it is done
        daemon.wait_for(lambda: handled(daemon, recording) == everything, what="every message", within=60)
    assert daemon.stop() == 0

    aside: dict[str, list[int]] = {name: [] for name in topics}
    for letter in broker.read_all(letters, read_committed=True):
        headers: Any = dict(letter.headers() or [])
        aside[headers["swarm.source.topic"].decode()].append(int(headers["swarm.source.offset"]))
    dropped: dict[str, list[int]] = {name: [] for name in topics}
    for line in daemon.events("message_dropped"):
        dropped[line["topic"]] += range(line["first_offset"], line["last_offset"] + 1)
    produced: dict[str, list[int]] = {name: [] for name in topics}
    for message in broker.read_all(outputs, read_committed=True):
        produced[(message.key() or b"").decode()].append(int(message.value() or b""))

    for name, on in topics.items():
        seen = recording.offsets(name)[0]
        if delivery == "at_most_once":
            judge_at_most_once(on, seen, aside[name], dropped[name])
        else:
            judge_repeated(on, seen, aside[name])
        if delivery == "exactly_once":
            assert produced[name] == [number for number in range(MESSAGES) if number not in aside[name]], on


def handled(daemon: Daemon, recording: Recording) -> set[tuple[str, int]]:
    """(topic, offset) of what was run, set aside or dropped."""
    given_up = {(line["topic"], line["offset"]) for line in daemon.events("message_dead_lettered")}
    for line in daemon.events("message_dropped"):
        given_up |= {(line["topic"], offset) for offset in range(line["first_offset"], line["last_offset"] + 1)}
    return given_up | {(each.topic, each.offset) for each in recording.all()}


def judge_repeated(on: str, seen: list[int], aside: list[int]) -> None:
    times = Counter(seen)
    assert set(times) == set(range(MESSAGES)), on
    assert aside == ([POISON] if "d" in on else []), on
    assert times[POISON] == (3 if "d" in on else 2) or "e" not in on, f"{on}: {times}"
    first = list(dict.fromkeys(seen))
    if "v" in on:
        for key in set(KEYS):
            of_key = [number for number in first if KEYS[number] == key]
            assert of_key == sorted(of_key), f"{on}: {key} out of order"
    else:
        assert first == sorted(first), f"{on}: out of order"


def judge_at_most_once(on: str, seen: list[int], aside: list[int], dropped: list[int]) -> None:
    assert len(set(seen)) == len(seen), f"{on}: repeated"
    assert {*seen, *aside, *dropped} == set(range(MESSAGES)), on
    assert POISON in (aside if "d" in on else dropped), on
    assert len({*aside, *dropped}) == len(aside) + len(dropped), f"{on}: twice given up"
    if "e" in on:
        assert aside + dropped == [POISON], f"{on}: a healthy message was given up"
