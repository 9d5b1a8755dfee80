"""`swarm.testing.feed`: a handler gets messages in-process, by the worker's own rules, and everything it did is there to see."""

from __future__ import annotations

import json
from typing import Any

import pytest

from swarm import App, Backoff, Consumer, DeadLetter, Message, Messages, RateLimit, VirtualPartitions
from swarm.errors import ConfigurationError
from swarm.testing import EPOCH, feed, message


def messages(count: int, topic: str = "orders", **more: Any) -> list[Any]:
    return [message(topic, str(number), **more) for number in range(count)]


def test_what_a_handler_produced_and_marked_is_there_to_see() -> None:
    """The plainest use: a Consumer class, some messages, and what came of them."""

    class Orders(Consumer):
        def consume(self, messages: Messages) -> None:
            for each in messages:
                self.producer.produce("receipts", each.raw, key=each.key, headers={"from": self.topic})

    outcome = feed(Orders, [message("orders", "espresso", key="ann"), message("orders", "tea", key="bob")])

    assert [(each.topic, each.key, each.value) for each in outcome.produced] == [
        ("receipts", b"ann", b"espresso"),
        ("receipts", b"bob", b"tea"),
    ]
    assert outcome.produced[0].header("from") == "orders"
    assert outcome.marked == {("orders", 0): 2}
    assert outcome.committed == {("test", "orders", 0): 2}
    assert (outcome.raised, outcome.left, outcome.settled) == ([], set(), True)


def test_an_app_is_fed_by_its_own_subscriptions() -> None:
    """Each message goes to the handlers of its topic, in every group, with their options; the app stays as it was."""
    app = App("shop")
    seen: list[tuple[str, Any]] = []

    @app.subscribe("orders", deserializer=json.loads)
    def orders(batch: Messages) -> None:
        seen.extend(("orders", each.value) for each in batch)

    @app.each("orders", "clicks", group="audit")
    def audit(each: Message) -> None:
        seen.append(("audit", each.raw))

    outcome = feed(app, [message("orders", "{}"), message("clicks", "x", partition=3)])

    assert sorted(seen, key=str) == [("audit", b"x"), ("audit", b"{}"), ("orders", {})]
    assert outcome.committed == {("shop", "orders", 0): 1, ("audit", "orders", 0): 1, ("audit", "clicks", 3): 1}
    with pytest.raises(ConfigurationError, match="in workers only"):
        _ = app.producer


def test_retries_take_no_time_and_are_all_there() -> None:
    """A failed run is repeated after its backoff, on a clock that jumps."""
    attempts: list[int] = []

    def orders(batch: Messages, consumer: Consumer) -> None:
        attempts.append(consumer.attempt)
        if consumer.attempt < 4:
            raise OSError("the database is away")

    outcome = feed(orders, messages(3), backoff=Backoff(initial=60.0, factor=2.0, maximum=600.0, jitter=0.0))

    assert attempts == [1, 2, 3, 4]
    assert [(run.first_offset, run.last_offset, run.attempt) for run in outcome.runs] == [
        (0, 2, n) for n in (1, 2, 3, 4)
    ]
    assert [str(error) for error in outcome.raised] == ["the database is away"] * 3
    assert outcome.seconds >= 60 + 120 + 240
    assert outcome.marked == {("orders", 0): 3}


def test_a_handler_that_always_fails_is_given_up_by_the_clock() -> None:
    """Without a dead letter topic it is tried for ever: the outcome says that it did not come to an end."""

    def orders(each: Message) -> None:
        raise ValueError(each.raw)

    outcome = feed(orders, messages(2), each=True, within=600.0)

    assert not outcome.settled
    assert outcome.marked == {("orders", 0): 0}
    assert outcome.left == {("orders", 0, 0), ("orders", 0, 1)}
    assert 20 < len(outcome.runs) < 40


def test_only_the_message_that_fails_is_dead_lettered() -> None:
    """A batch is taken apart until it stands alone; the letter says where it came from and why."""

    def orders(batch: Messages) -> None:
        if b"5" in batch.raw_values():
            raise ValueError("poison")

    outcome = feed(orders, messages(10), dead_letter=DeadLetter("orders.dead", max_attempts=2))

    assert [(letter.offset, letter.error) for letter in outcome.dead_letters] == [(5, "ValueError: poison")]
    assert outcome.dead_letters[0].letter.topic == "orders.dead"
    assert outcome.dead_letters[0].letter.value == b"5"
    assert outcome.dead_letters[0].letter.header("swarm.source.offset") == "5"
    assert outcome.produced == []
    assert outcome.marked == {("orders", 0): 10}


def test_a_topic_that_refuses_makes_the_run_fail() -> None:
    """What cannot be delivered is not done, and what it was made from is not marked."""

    def orders(batch: Messages, consumer: Consumer) -> None:
        consumer.producer.produce("receipts", "x")

    outcome = feed(orders, messages(3), refusing=["receipts"], within=60.0)

    assert not outcome.settled
    assert outcome.produced == []
    assert outcome.left == {("orders", 0, offset) for offset in range(3)}


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
def test_a_transaction_produces_all_or_nothing(delivery: str) -> None:
    """Of a run that fails nothing is seen, whether the runtime opened the transaction or the handler."""

    class Orders(Consumer):
        def consume(self, messages: Messages) -> None:
            if delivery == "exactly_once":
                self.handle(messages, self.producer)
            else:
                with self.transaction() as transaction:
                    self.handle(messages, transaction)

        def handle(self, messages: Messages, producer: Any) -> None:
            for each in messages:
                producer.produce("receipts", each.raw)
                self.mark_as_consumed(each)
            if self.attempt == 1:
                raise ValueError("after all was produced")

    outcome = feed(Orders, messages(3), delivery=delivery)

    assert [each.value for each in outcome.produced] == [b"0", b"1", b"2"]
    assert len(outcome.runs) == 2
    assert outcome.marked == {("orders", 0): 3}


def test_at_most_once_drops_what_fails() -> None:
    """It is said and not repeated."""

    def orders(each: Message) -> None:
        if each.raw == b"1":
            raise ValueError("once is enough")

    outcome = feed(orders, messages(3), each=True, delivery="at_most_once")

    assert outcome.dropped == [("orders", 0, 1)]
    assert len(outcome.raised) == 1
    assert outcome.marked == {("orders", 0): 3}


def test_manual_offsets_leave_what_was_not_marked() -> None:
    """It would be handled again by the next holder."""

    def orders(batch: Messages, consumer: Consumer) -> None:
        consumer.mark_as_consumed(batch[2])

    outcome = feed(orders, messages(5), offsets="manual")

    assert outcome.marked == {("orders", 0): 3}
    assert outcome.left == {("orders", 0, 3), ("orders", 0, 4)}


def test_async_handlers_share_one_event_loop() -> None:
    """As in a worker: what one of them left there is found by the next."""
    loops: set[int] = set()

    async def orders(each: Message) -> None:
        import asyncio

        loops.add(id(asyncio.get_running_loop()))
        await asyncio.sleep(0)
        if each.raw == b"1":
            raise SystemExit("is an ordinary failure")

    outcome = feed(orders, messages(3), each=True, dead_letter=DeadLetter("dead", max_attempts=1))

    assert len(loops) == 1
    assert [letter.offset for letter in outcome.dead_letters] == [1]
    assert outcome.left == set()


def test_keys_are_kept_together_in_virtual_partitions() -> None:
    """Slices run one after the other here; what they get is what they would get."""
    slices: list[list[bytes | None]] = []

    def orders(batch: Messages) -> None:
        slices.append([each.key for each in batch])

    fed = [message("orders", str(n), key=f"k{n % 3}") for n in range(12)]
    outcome = feed(orders, fed, virtual_partitions=VirtualPartitions(maximum=3))

    assert sorted({tuple(set(part)) for part in slices}) == [(b"k0",), (b"k1",), (b"k2",)]
    assert outcome.marked == {("orders", 0): 12}


def test_flow_options_go_by_the_clock_that_jumps() -> None:
    """Ages, delays, filters and rates: no test waits for them."""
    seen: list[bytes | None] = []

    def orders(each: Message) -> None:
        seen.append(each.raw)

    fed = [
        message("orders", "old", timestamp=EPOCH - 3600),
        message("orders", "unwanted"),
        *(message("orders", f"fresh {n}") for n in range(4)),
    ]
    outcome = feed(
        orders,
        fed,
        each=True,
        expires_after=600.0,
        not_before=60.0,
        filter=lambda each: each.raw != b"unwanted",
        rate_limit=RateLimit(2, seconds=30.0),
    )

    assert seen == [b"fresh 0", b"fresh 1", b"fresh 2", b"fresh 3"]
    assert outcome.skipped == [("orders", 0, 0), ("orders", 0, 1)]
    assert outcome.marked == {("orders", 0): 6}
    assert 89 < outcome.seconds < 120


def test_pauses_and_seeks_are_obeyed_and_told() -> None:
    """What a handler asked for, and what it got."""
    calls: list[tuple[int, int]] = []

    class Orders(Consumer):
        asked = False

        def consume(self, messages: Messages) -> None:
            calls.append((messages.first_offset, messages.last_offset))
            if not self.asked:
                self.asked = True
                self.pause(120.0)
            elif messages.first_offset == 0:
                self.seek(3)

    outcome = feed(Orders, messages(5))

    assert calls == [(0, 4), (0, 4), (3, 4)]
    assert outcome.paused == [("orders", 0, 120.0)]
    assert outcome.sought == [("orders", 0, 3)]
    assert outcome.seconds > 120


@pytest.mark.parametrize(
    ("end", "hook", "marked"), [("stop", "on_shutdown", 2), ("revoke", "on_revoked", 2), ("lose", "on_revoked", 0)]
)
def test_the_end_is_a_stop_or_a_loss_as_asked(end: Any, hook: str, marked: int) -> None:
    """Hooks run as they would; after a loss nothing more is committed."""
    hooks: list[str] = []

    class Orders(Consumer):
        def consume(self, messages: Messages) -> None:
            hooks.append("consume")

        def on_assigned(self) -> None:
            hooks.append("on_assigned")

        def on_revoked(self) -> None:
            hooks.append("on_revoked")

        def on_shutdown(self) -> None:
            hooks.append("on_shutdown")

    outcome = feed(Orders, messages(2), end=end)

    assert hooks == ["on_assigned", "consume", hook]
    assert outcome.marked == {("orders", 0): marked}


def test_offsets_and_partitions_are_as_they_were_fed() -> None:
    """Gaps, several partitions, and a group that stands in the middle."""
    seen: list[tuple[int, int]] = []

    def orders(each: Message) -> None:
        seen.append((each.partition, each.offset))

    fed = [message("orders", offset=offset) for offset in (3, 4, 7)] + [message("orders", partition=1)]
    outcome = feed(orders, fed, each=True, committed={("test", "orders", 0): 4})

    assert sorted(seen) == [(0, 4), (0, 7), (1, 0)]
    assert outcome.marked == {("orders", 0): 8, ("orders", 1): 1}


def test_mistakes_are_said_at_once() -> None:
    """As the App says them, and what only a feed can get wrong."""
    app = App("shop")
    app.subscribe("orders")(lambda batch: None)

    with pytest.raises(ConfigurationError, match="unknown option"):
        feed(lambda batch: None, [], max_mesages=3)
    with pytest.raises(ValueError, match="no subscription reads that topic"):
        feed(app, [message("clicks")])
    with pytest.raises(ValueError, match="offsets only grow"):
        feed(app, [message("orders", offset=5), message("orders", offset=5)])
    with pytest.raises(TypeError, match="takes the options from the app"):
        feed(app, [], max_messages=3)
