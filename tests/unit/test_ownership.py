"""Which partitions nobody has, and when that is an alarm."""

from __future__ import annotations

from typing import Any, cast

from swarm import ownership
from swarm.bus import Bus
from swarm.ownership import MOST, Unowned, unowned
from swarm.plan import Plan, make_plan
from swarm.scoreboard import Scoreboard
from swarm.supervisor.census import Census
from swarm.supervisor.partitions import Partitions
from swarm.supervisor.processes import Process
from swarm.supervisor.record import Worker


def plan(*topics: str, pattern: str | None = None) -> Plan:
    return make_plan(handler=lambda messages: None, topics=topics, pattern=pattern)


def test_what_no_member_has_of_a_subscribed_topic_is_unowned() -> None:
    """By the broker's word, so members of other swarms count; topics that nobody subscribed to do not."""
    census = ownership.Census(
        True, {"orders": 3, "clicks.a": 2, "other": 5}, frozenset({("orders", 1), ("clicks.a", 0)}), 2
    )

    assert unowned(census, [plan("orders", "to.come"), plan(pattern="clicks\\..*")]) == {
        "clicks.a": [1],
        "orders": [0, 2],
    }
    assert unowned(census._replace(held=census.held | {("orders", 0), ("orders", 2)}), [plan("orders")]) == {}


def test_while_a_group_rebalances_or_is_empty_nothing_is_known() -> None:
    """Unknown is not the same as unowned."""
    census = ownership.Census(True, {"orders": 3}, frozenset(), 1)

    assert unowned(census._replace(stable=False), [plan("orders")]) is None
    assert unowned(census._replace(members=0), [plan("orders")]) is None


def test_an_answer_fits_one_message() -> None:
    """However many partitions there are."""
    found = unowned(ownership.Census(True, {"a": MOST - 1, "b": 10}, frozenset(), 1), [plan("a", "b")])

    assert found is not None
    assert {topic: len(numbers) for topic, numbers in found.items()} == {"a": MOST - 1, "b": 1}


def test_the_second_look_in_a_row_is_an_alarm_and_the_only_one() -> None:
    """New partitions get their time; a rebalance in between neither counts nor forgets; an owner ends it."""
    book = Unowned()

    first = book.told("shop", {"orders": [1]}, 100.0)
    rebalancing = book.told("shop", None, 130.0)
    second = book.told("shop", {"orders": [1, 2]}, 160.0)
    third = book.told("shop", {"orders": [1, 2]}, 220.0)
    fourth = book.told("shop", {"orders": [1, 2]}, 280.0)
    shown = book.facts(280.0)
    book.told("audit", {}, 300.0)
    others = len(book.facts(300.0))
    book.told("shop", {}, 340.0)

    assert (first, rebalancing, fourth) == ([], [], [])
    assert second == [("orders", [1], 60.0)]
    assert third == [("orders", [2], 60.0)]
    assert shown == [
        {"group": "shop", "topic": "orders", "partition": 1, "for": 180.0},
        {"group": "shop", "topic": "orders", "partition": 2, "for": 120.0},
    ]
    assert others == 2
    assert book.facts(340.0) == []
    assert book.told("shop", {"orders": [1]}, 400.0) == []


def test_a_group_is_mended_at_its_alarm_and_then_less_and_less_often() -> None:
    """Not at the first sight, which may be of a rebalance's half; not again before a minute, two, four; anew when it was well between."""
    unowned = Unowned()
    unowned.told("shop", {"orders": [3]}, 0.0)
    assert unowned.in_doubt()
    assert not unowned.to_mend("shop", 0.0)

    mended = []
    for now in range(10, 600, 10):
        unowned.told("shop", {"orders": [3]}, float(now))
        if unowned.to_mend("shop", float(now)):
            mended.append(now)
    assert mended == [10, 70, 190, 430]
    assert not unowned.in_doubt()

    unowned.told("shop", {}, 600.0)
    assert not unowned.to_mend("shop", 600.0)
    for later in (610.0, 620.0):
        unowned.told("shop", {"orders": [3]}, later)
    assert unowned.to_mend("shop", 620.0)


class Swarm:
    """A supervisor's partitions with one worker, which is told to look; the clock is an argument."""

    def __init__(self) -> None:
        self.board = Scoreboard.create(0)
        self.worker = Worker(0, self.board, -1)
        self.worker.process = Process(0, -1)
        self.board.set_state("running")
        self.slot = self.board.add_group("shop")
        self.told: list[str] = []
        self.asked = 0
        self.pause = 0.0
        self.partitions = Partitions([self.worker], Bus([]), self.tell)

    def begin(self) -> bool:
        """Stands for the child that asks."""
        self.asked += 1
        return True

    def tell(self, worker: Worker, command: dict[str, Any]) -> bool:
        """What is sent to the worker."""
        self.told.append(command["command"])
        return True

    def ask(self, now: float) -> None:
        """One round of the supervisor."""
        self.partitions.ask_for_owners(60.0, now, cast(Census, self))

    def looks(self, begin: float, end: float) -> list[float]:
        """When the broker is asked between two instants, each second; it says that one partition has no owner."""
        found = []
        for now in range(int(begin), int(end) + 1):
            before = self.asked
            self.ask(float(now))
            if self.asked > before:
                found.append(float(now))
                self.partitions.hear_census({"group": "shop", "unowned": {"orders": [1]}}, float(now))
        return found


def test_what_a_dead_worker_was_giving_back_is_looked_for_at_once() -> None:
    """The successor takes its seat without a rebalance, so nobody else looks: a partition would wait for two looks, 10 s apart."""
    swarm = Swarm()
    swarm.ask(0.0)
    swarm.board.gives_back(swarm.slot, 5.0)
    swarm.partitions.died(swarm.worker)
    swarm.board.clear()
    swarm.board.set_state("running")
    swarm.board.add_group("shop")
    swarm.partitions.came_up(7.0)

    assert swarm.looks(7.0, 9.0) == [8.0, 9.0]
    assert swarm.told.count("rejoin") == 1
    assert len(swarm.looks(10.0, 37.0)) == 28
    assert swarm.looks(38.0, 90.0) == []
    assert swarm.told.count("rejoin") == 1


def test_what_an_idle_worker_leaves_is_looked_for_as_ever() -> None:
    """It gave nothing back when it died: its successor has what it had."""
    swarm = Swarm()
    swarm.ask(0.0)
    swarm.board.gives_back(swarm.slot, 5.0)
    swarm.board.gives_back(swarm.slot, 0.0)
    swarm.partitions.died(swarm.worker)
    swarm.partitions.came_up(7.0)

    assert swarm.looks(7.0, 40.0) == [17.0, 27.0]


def test_asking_rests_after_it_was_expensive() -> None:
    """An app that is imported for each look, say: then not each minute, nor each second where somebody hurries."""
    swarm = Swarm()
    swarm.pause = 100.0

    assert swarm.looks(0.0, 250.0) == [0.0, 100.0, 200.0]


def test_somebody_of_the_group_joins_again() -> None:
    """A worker that the group's subscriptions are not placed on cannot, nor one that is on its way out."""
    swarm = Swarm()
    other = Worker(1, Scoreboard.create(1), -1)
    other.process = Process(0, -1)
    other.board.set_state("running")
    other.board.add_group("audit")
    told: list[int] = []

    def tell(worker: Worker, _: object) -> bool:
        told.append(worker.index)
        return True

    partitions = Partitions([swarm.worker, other], Bus([]), tell)

    for now in (1.0, 2.0):
        partitions.hear_census({"group": "audit", "unowned": {"clicks": [1]}}, now)

    assert told == [1]


def test_who_has_least_in_hand_joins_again() -> None:
    """Whoever does ends its jobs before, and one that hangs would hold the partitions up for as long as it may."""
    swarm = Swarm()
    swarm.board.job_begin(0, 1.0, 0.0, (swarm.board.string("shop"), swarm.board.string("orders"), 0, 5, 9, 1))
    idle = Worker(1, Scoreboard.create(1), -1)
    idle.process = Process(0, -1)
    idle.board.set_state("running")
    idle.board.add_group("shop")
    told: list[int] = []

    def tell(worker: Worker, _: object) -> bool:
        told.append(worker.index)
        return True

    partitions = Partitions([swarm.worker, idle], Bus([]), tell)
    for now in (1.0, 2.0):
        partitions.hear_census({"group": "shop", "unowned": {"orders": [1]}}, now)

    assert told == [1]
