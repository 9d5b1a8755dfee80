from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.scenarios.supervision.explaining import APP, by_command, until
from tests.support.daemon import Daemon
from tests.support.kafka import Broker

MORE = """
    @app.each("LIMITED", rate_limit=RateLimit(1, seconds=300.0))
    def limited(message):
        pass

    @app.each("DELAYED", not_before=300.0)
    def delayed(message):
        pass
"""


@pytest.mark.limit(240)  # it starts some dozens of commands
def test_why_says_what_holds_each_partition_up(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """A handler that hangs, one that fails, one that paused, an operator's pause, a rate, a delay, a quiet swarm: each is named, with its
    numbers; and where nothing is wrong, everything moves."""
    orders, limited, delayed = topic(partitions=5), topic(), topic()
    source = (APP + MORE).replace("ORDERS", orders).replace("LIMITED", limited).replace("DELAYED", delayed)
    daemon = swarm_project(source, {"swarm": {"workers": 1}, "worker": {"concurrency": 4, "commit_interval": 0.2}})
    daemon.expect_errors("consume_failed")
    daemon.start().until_running()

    idle = until(daemon, "no_lag")
    assert idle["verdict"].startswith("everything moves: there is nothing to do")
    assert until(daemon, "no_lag", f"{orders}/4")["level"] == "fine"
    assert "no worker of this swarm has elsewhere/0" in until(daemon, "not_held", "elsewhere/0")["verdict"]

    daemon.run("pause", f"{orders}/2")
    for partition, what in enumerate(("sleep", "fail", "fine", "pause")):
        broker.produce(orders, [(None, what), (None, "fine")], partition=partition)
    broker.produce(limited, [(None, "1"), (None, "2")])
    broker.produce(delayed, [(None, "1")])

    failing = until(daemon, "failing", f"{orders}/1")
    assert (
        f"{orders}/1 waits: attempt 1 failed with TimeoutError: the bank does not answer (at app.py:"
        in failing["verdict"]
    )
    assert ", next try in " in failing["verdict"]
    paused = until(daemon, "paused", f"{orders}/2")
    assert paused["verdict"].startswith(f"{orders}/2 is paused by an operator (swarmctl pause {orders}/2)")
    assert paused["findings"][0]["mend"] == f"swarmctl resume {orders}/2"
    assert "its handler paused it, for " in until(daemon, "handler_pause", f"{orders}/3")["verdict"]
    assert "its share of rate_limit is used up" in until(daemon, "rate_limited", f"{limited}/0")["verdict"]
    assert "younger than not_before allows" in until(daemon, "not_before", f"{delayed}/0")["verdict"]

    hanging = until(daemon, "slow_job", f"{orders}/0")
    assert "worker 0's handler has been running for " in hanging["verdict"]
    assert f" on {orders}/0 (offset 0) and is in app.py line " in hanging["verdict"]
    assert "(charge -> time.sleep); after 5 min (consume_timeout), in 4 min " in hanging["verdict"]
    [thread] = [each for each in hanging["threads"] if any(frame["name"] == "charge" for frame in each["frames"])]
    assert thread["thread"].startswith("processing ")
    assert [frame["name"] for frame in thread["frames"] if frame["own"]] == ["charge", "consume"]
    everything = by_command(daemon)
    assert [each["rule"] for each in everything["findings"]][:2] == ["failing", "slow_job"]

    text = daemon.run("why", "0", "--profile", "1").stdout
    for part in (
        "in hand    ",
        "limits     consume_timeout 5 min: ",
        "failures   ",
        "profile, ",
        "> charge (app.py line ",
    ):
        assert part in text, text
    shown = daemon.run("backtrace", "0").stdout
    assert f"[in hand: {orders}/0 offsets 0-0, group {daemon.group}, attempt 1, for " in shown

    daemon.run("quiet")
    assert until(daemon, "quiet", f"{orders}/4")["level"] == "note"
    (daemon.folder / "gate").touch()
    assert daemon.stop() == 0
