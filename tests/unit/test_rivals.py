"""Who else has our seat in the group: told from a latecomer, and from a predecessor whose session is not over."""

from __future__ import annotations

from swarm.rivals import LONGEST, OVER, PATIENCE, Rivals


def test_one_fencing_is_no_rival_and_the_second_is() -> None:
    """The first client that comes back is fenced by a latecomer once; two that both come back fence each other."""
    rivals = Rivals()

    waits, times = [rivals.fenced(100.0)], [rivals.times(100.0)]
    waits, times = [*waits, rivals.fenced(101.0)], [*times, rivals.times(101.0)]

    assert (waits, times) == ([0.5, 1.0], [0, 2])


def test_the_wait_grows_to_a_minute_and_no_further() -> None:
    """Each return takes the partitions from the other one: two daemons must not keep a group in a rebalance."""
    rivals, now, waits = Rivals(), 100.0, []
    for _ in range(80):
        waits.append(rivals.fenced(now))
        now += waits[-1] + 1.0

    assert waits[:8] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0]
    assert set(waits[8:]) == {LONGEST}
    assert rivals.times(now) == 80


def test_a_rival_is_forgotten_when_it_has_not_come_for_long() -> None:
    """Then the waits begin anew, too."""
    rivals = Rivals()
    rivals.fenced(100.0)
    rivals.fenced(101.0)

    assert rivals.times(101.0 + OVER - 1.0) == 2
    assert rivals.times(101.0 + OVER) == 0
    assert rivals.fenced(500.0) == 0.5


def test_refusals_within_a_session_s_time_are_a_predecessor_s() -> None:
    """KIP-848 keeps a killed member's id for 45 s; who is refused for much longer has a rival; who is let in, none."""
    rivals, now = Rivals(), 100.0
    met = []
    while now < 100.0 + PATIENCE + 40.0:
        now += rivals.refused(now)
        met.append((now - 100.0 >= PATIENCE, rivals.times(now) > 0))
    rivals.let_in()

    assert all(late == known for late, known in met)
    assert {late for late, _ in met} == {True, False}
    assert rivals.times(now) == 0
    assert rivals.refused(now) == 0.5
