"""The simulation of many hosts (tests/support/fleet.py): what each accident costs, and that docs/scale.md says what it prints."""

from __future__ import annotations

import pytest

from swarm.supervisor.policy import RestartPolicy, decide
from tests.support import fleet
from tests.support.fleet import BOOT, SETTINGS, Fleet, Setting
from tests.support.sources import ROOT

DEFAULT, _, PATIENT, DYNAMIC, NEW = SETTINGS
STATIC = [setting for setting in SETTINGS if setting.static]


def small(setting: Setting) -> Fleet:
    """Ten hosts of four workers with two partitions each."""
    return Fleet(setting, hosts=10, workers=4, partitions=80)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_a_fleet_in_peace_costs_nothing(setting: Setting) -> None:
    """And `decide` finds nothing to do there: that the simulation asks it only when something has happened loses nothing."""
    calm = small(setting)

    assert [decide(host.view(), host._limits, calm.clock.now) for host in calm.all] == [[]] * 10
    assert calm.run(lambda _: None) == fleet.Result(0, 0.0, 0, 0)


@pytest.mark.parametrize("setting", STATIC, ids=lambda setting: setting.name)
def test_a_static_worker_comes_back_unnoticed(setting: Setting) -> None:
    """At once after its first death: two partitions, for as long as a process takes to come up."""
    result = small(setting).run(lambda each: each.all[3].kill(1))

    assert (result.rebalances, result.forks) == (0, 1)
    assert result.unserved == pytest.approx(2 * BOOT)


def test_a_dynamic_worker_strands_its_partitions_for_a_session() -> None:
    """Its successor is somebody else to the group, which waits for the dead one."""
    for setting in (DYNAMIC, NEW):
        result = small(setting).run(lambda each: each.all[3].kill(1))

        assert result.rebalances > 0
        assert result.unserved >= 2 * setting.session


def test_a_session_decides_whether_a_host_that_is_away_is_waited_for() -> None:
    """Back after 30 s: 45 s suffice. Back after 70: only the longer session saves the rebalances."""

    def away(setting: Setting, seconds: float) -> fleet.Result:
        def lose(each: Fleet) -> None:
            each.all[0].lose_power()
            each.clock.after(seconds, each.all[0].start)

        return small(setting).run(lose)

    for setting, seconds, rebalances in ((DEFAULT, 30.0, 0), (DEFAULT, 70.0, 2), (PATIENT, 70.0, 0)):
        assert away(setting, seconds).rebalances == rebalances


def test_a_reload_replaces_a_worker_at_a_time_on_each_host() -> None:
    """However many hosts do so at once; nobody leaves the group."""
    result = small(DEFAULT).run(fleet.workers_are_replaced)

    assert (result.rebalances, result.forks) == (0, 40)
    assert result.most_unserved == 10 * 2


def test_a_crash_loop_is_slowed_down_to_the_longest_backoff() -> None:
    """Ten workers, an hour."""
    result = small(DEFAULT).run(fleet.workers_crash_forever)

    assert result.forks < 10 * (3600 / RestartPolicy().maximum + 10)


def test_nothing_is_served_twice_or_forgotten() -> None:
    """After every accident that ends, each partition has one seat again."""
    for scenario in (fleet.workers_die, fleet.workers_freeze, fleet.hosts_reboot, fleet.hosts_are_gone):
        for setting in SETTINGS:
            each = small(setting)
            each.run(scenario, seconds=4000.0)

            assert each.group.unserved_now == 0
            assert sum(seat.partitions for seat in each.group.seats.values()) == 80
            assert len(each.group.seats) == 40


def test_the_page_says_what_the_simulation_prints() -> None:
    """Three of the tables, of those that are soon played: two thousand workers and an hour each. `make scale` compares all."""
    page = (ROOT / "docs" / "scale.md").read_text()

    for scenario in fleet.SCENARIOS:
        assert f"**{scenario.__doc__}**" in page
    for scenario in (fleet.workers_freeze, fleet.hosts_reboot, fleet.workers_crash_forever):
        assert fleet.table_of(scenario) in page
