from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from tests.scenarios.supervision.explaining import APP, until, why
from tests.support.daemon import Daemon
from tests.support.kafka import Broker


@pytest.mark.limit(240)  # it starts some dozens of commands
def test_why_needs_no_help_of_a_worker_that_is_stuck(
    broker: Broker,
    topic: Callable[..., str],
    swarm_project: Callable[..., Daemon],
    expect_violation: Callable[[str, str], None],
) -> None:
    """C code that holds Python's lock is named by the application's line; so is a process that is stopped, one that died,
    a message that kills each time; and when the daemon itself is gone, what happened last."""
    orders = topic(partitions=4)
    daemon = swarm_project(
        APP.replace("ORDERS", orders),
        {
            "swarm": {"workers": 2, "shutdown_timeout": 1.0},
            "supervision": {"report_timeout": 6.0, "restart_backoff": {"initial": 3.0, "maximum": 3.0}},
        },
    )
    daemon.expect_errors("worker_killed", "message_condemned", "message_held")
    daemon.start().until_running()
    # Workers that join one after the other hand partitions over.
    daemon.wait_for(lambda: all(len(each["assignment"]) == 2 for each in daemon.workers()), what="two partitions each")
    holder = {held["partition"]: each for each in daemon.workers() for held in each["assignment"]}
    stuck = holder[0]["index"]

    broker.produce(orders, [(None, "gil")], partition=0)
    silent = until(daemon, "silent", str(stuck))
    assert "(charge -> ctypes.PyDLL(None).sleep), with " in silent["verdict"]
    assert f"{orders}/0 offset 0 in hand; in " in silent["verdict"]
    assert "waits: worker" in why(daemon, f"{orders}/0")["verdict"]
    daemon.wait_for_event("worker_killed", worker=stuck)

    daemon.until_running()
    incident = why(daemon, str(stuck))["incidents"][0]
    assert (incident["reason"], incident["worker"]) == ("report_timeout", stuck)
    frozen = daemon.workers()[1 - stuck]
    os.kill(frozen["pid"], signal.SIGSTOP)
    stopped = until(daemon, "frozen", str(1 - stuck))
    assert f"(pid {frozen['pid']}) is stopped by a signal (SIGSTOP)" in stopped["verdict"]
    assert stopped["findings"][0]["mend"] == f"kill -CONT {frozen['pid']}"
    os.kill(frozen["pid"], signal.SIGCONT)

    partition = next(number for number, each in holder.items() if each["index"] == 1 - stuck)
    broker.produce(orders, [(None, "die")], partition=partition)
    dead = until(daemon, "no_process", str(1 - stuck))
    assert "exited with code 7" in dead["verdict"]
    assert "its next start is in " in dead["verdict"]
    # The third death condemns the message. There is no topic to set it aside in, so it is held, and nobody dies of it again.
    for subject in (str(1 - stuck), f"{orders}/{partition}"):
        held = until(daemon, "held", subject)
        assert f"{orders}/{partition} waits for somebody: message 0 was in hand at 3 deaths" in held["verdict"]

    daemon.signal(signal.SIGKILL)
    gone = until(daemon, "not_running")
    assert "is left, so it did not end by itself" in gone["verdict"]
    assert "the last incident was " in gone["verdict"]
    assert gone["incidents"][0]["reason"] == "report_timeout"
