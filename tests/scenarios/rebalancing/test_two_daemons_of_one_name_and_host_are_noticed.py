"""Two daemons of one name and host have the same static ids, and fence each other: that is said, and is no storm."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from typing import Any

from tests.scenarios.rebalancing.ledger import HANDLER, steady_input
from tests.scenarios.supervision.explaining import until
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = HANDLER + '\n    app.subscribe("TOPIC", max_messages=20)(Noted)\n'


def steady(finding: dict[str, Any]) -> dict[str, Any]:
    """A finding without its evidence, which counts on between two looks."""
    return {field: told for field, told in finding.items() if field != "evidence"}


def test_two_daemons_with_the_same_static_ids_say_so_without_a_restart(
    broker: Broker, topic: Callable[..., str], group: str, swarm_project: Callable[..., Daemon]
) -> None:
    """Both say what is wrong and how to mend it; no process is replaced; when one is stopped, the other one consumes on, well again."""
    orders = topic(partitions=2)
    settings = {
        "swarm": {"group_id": group, "host": "here", "workers": 1},
        "worker": {"commit_interval": 0.2},
        "log": {"level": "info"},  # no judgement of each message: until the fenced one notices, both handle the same
    }
    first, second = (swarm_project(APP.replace("TOPIC", orders), settings) for _ in range(2))
    for daemon in (first, second):
        daemon.expect_errors("seat_contested")
    recordings = [Recording(daemon.folder) for daemon in (first, second)]
    with steady_input(broker, {orders: 2}) as written:
        first.start().until_running()
        second.start()
        for daemon in (first, second):
            daemon.wait_for_event("seat_contested", times=2)
        finding = first.wait_for(lambda: first.status()["findings"], what="the finding in its status")[0]
        until(first, "seat_contested")
        shown = first.run("status").stdout
        examined = json.loads(first.run("doctor", "--json", "--seconds", "0").stdout)["findings"]
        with urllib.request.urlopen(f"{first.url}/metrics", timeout=10) as answer:
            metrics = answer.read().decode()
        assert second.stop() == 0
        seen = len(recordings[0].seen(orders))
        first.wait_for(lambda: len(recordings[0].seen(orders)) > seen, what="the other one to consume on")
    first.wait_for(
        lambda: len(recordings[0].seen(orders) | recordings[1].seen(orders)) == written.count(orders), what="the rest"
    )
    health = first.workers()[0]["health"]
    assert first.stop() == 0

    assert finding["severity"] == "error"
    assert steady(finding) in map(steady, examined)
    assert "shop.here.0" in finding["what"]
    assert "swarm.name" in finding["fix"]
    assert "another process uses the group.instance.id shop.here.0" in shown.replace("\n", " ")
    assert 'swarm_worker_contested{worker="0"} 1.0' in metrics
    assert health == "ok"
    for daemon in (first, second):
        said = daemon.events("seat_contested")
        assert [(line["times"], line["seconds"]) for line in said][:1] == [(2, 1.0)]
        assert {line["instance"] for line in said} == {"shop.here.0"}
        assert [line["reason"] for line in daemon.events("worker_exited")] == ["requested"], "a restart helps nobody"
