from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.kafka import Broker
from tests.support.service import Service

APP = """
    @app.each("TOPIC")
    def handle(message):
        time.sleep(0.002)
        saw(message)
"""
MESSAGES = 1500


@pytest.mark.parametrize(("signal", "result"), [("KILL", "signal"), ("STOP", "watchdog")])
def test_systemd_starts_anew_what_has_lost_its_supervisor(
    signal: str, result: str, broker: Broker, topic: Callable[..., str], service: Callable[..., Service]
) -> None:
    """After kill -9 at once, after SIGSTOP by the watchdog: another supervisor, no process of the former swarm, nothing lost."""
    orders = topic(partitions=2)
    shop = service(APP.replace("TOPIC", orders), unit="RestartSec=500ms\nWatchdogSec=3")
    shop.systemctl("start")
    shop.until_running()
    former, pid = shop.processes(), shop.main_pid
    assert pid in former
    for number in range(2):
        broker.produce(orders, [(None, str(n)) for n in range(MESSAGES)], number)
    shop.wait_for(lambda: len(shop.seen()) > 100, "work to be under way")

    shop.signal(signal, pid)
    shop.wait_for(lambda: shop.main_pid not in (0, pid), "another supervisor")
    shop.until_running()

    assert shop.show("NRestarts") == "1"
    assert f"Failed with result '{result}'" in shop.machine.run("journalctl", "-q", "-u", shop.unit, "_PID=1")
    shop.wait_for(lambda: not any(shop.machine.path(f"/proc/{each}").exists() for each in former), "the former to go")
    everything = {(partition, n) for partition in range(2) for n in range(MESSAGES)}
    shop.wait_for(lambda: set(shop.seen()) == everything, "every message to have been handled")
    shop.systemctl("stop")
    assert broker.committed(shop.name) == {(orders, 0): MESSAGES, (orders, 1): MESSAGES}
