"""A real Prometheus scrapes a live swarm: every expression of the dashboard has data, and the alerts fire under injected faults."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.ports import free_port
from tests.support.sources import ROOT
from tests.support.waiting import wait_for

RULES: list[dict[str, Any]] = yaml.safe_load((ROOT / "config" / "prometheus" / "alerts.yaml").read_text())["groups"][0][
    "rules"
]
PANELS = json.loads((ROOT / "config" / "grafana" / "swarm.json").read_text())["panels"]
WINDOW = "20s"
"""What the rules' windows of minutes are here."""
BY_PROMTOOL_ALONE = {
    "SwarmTransactionsAbort",  # takes a broker that fails in the middle of transactions, more than ten times
    "SwarmCommitsFail",  # takes a coordinator that refuses
    "SwarmSeatContested",  # takes a second daemon, and two minutes
    "SwarmPartitionsUnserved",  # takes partitions that nobody notices, for minutes
    "SwarmMessageCondemned",  # takes a message that kills its process three times
}
"""Their causes are not injected here: only that their metrics are there is looked at."""

SHOP = """
    import time
    from swarm import App, Backoff, DeadLetter, events

    app = App("shop")

    @app.each("ORDERS", dead_letter=DeadLetter("LETTERS", max_attempts=2), backoff=Backoff(initial=0.01))
    def order(message):
        if message.raw == b"poison":
            raise ValueError("no order")
        if message.raw == b"slow":
            time.sleep(0.3)

    @app.each("MAILS", dead_letter=DeadLetter("NOWHERE", max_attempts=1))
    def mail(message):
        raise ValueError("no mail")

    @app.on(events.WorkerExited)
    def hear(event):
        pass

    @app.on(events.PartitionsAssigned)
    def listen(event):
        raise RuntimeError("a listener that raises")
"""


class Prometheus:
    """A running one that scrapes one target each second."""

    def __init__(self, folder: Path, target: str) -> None:
        self._port = free_port()
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(ROOT / "config" / "prometheus" / "alerts.yaml")],
            "scrape_configs": [{"job_name": "swarm", "static_configs": [{"targets": [target]}]}],
        }
        (folder / "prometheus.json").write_text(json.dumps(config))
        with (folder / "prometheus.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["prometheus", f"--config.file={folder / 'prometheus.json'}", f"--storage.tsdb.path={folder / 'tsdb'}",
                 f"--web.listen-address=127.0.0.1:{self._port}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            wait_for(lambda: self.query("up == 1"), 60, "the first scrape", (folder / "prometheus.log").read_text)
        except BaseException:
            self.close()
            raise

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The instant vector; [] also while Prometheus is not up."""
        url = f"http://127.0.0.1:{self._port}/api/v1/query?{urllib.parse.urlencode({'query': expr})}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                found = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            if error.code == 503:  # it begins
                return []
            raise AssertionError(f"{expr}: {error.read().decode()}") from error
        except OSError:
            return []
        return list(found["data"]["result"])

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(30)


def shortened(expr: str) -> str:
    """A rule for which a fault of seconds is enough."""
    expr = re.sub(r"\[\d+[smh]:\d+[smh]\]", f"[{WINDOW}:1s]", expr)
    return re.sub(r"\[(?!1d)\d+[smh]\]", f"[{WINDOW}]", expr)


def of_panel(expr: str) -> str:
    """An expression of the dashboard as Grafana would ask it, for all instances."""
    return expr.replace("$__rate_interval", "30s").replace("$job", ".*").replace("$instance", ".*")


def rule(alert: str) -> str:
    [found] = [shortened(each["expr"]) for each in RULES if each["alert"] == alert]
    return found


@pytest.fixture
def swarm(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon], tmp_path: Path
) -> Iterator[tuple[Daemon, Prometheus, str, str]]:
    orders, mails = topic(4), topic(1)
    source = (
        SHOP.replace("ORDERS", orders)
        .replace("MAILS", mails)
        .replace("LETTERS", topic(1))
        .replace("NOWHERE", f"{mails}.nowhere")
    )
    settings = {
        "worker": {"commit_interval": 0.2},
        "supervision": {
            "report_timeout": 120.0,
            "poll_timeout": 120.0,
            "restart_backoff": {"initial": 0.0, "maximum": 4.0},
        },
    }
    daemon = swarm_project(source, settings)
    daemon.start().until_running(60)
    prometheus = Prometheus(tmp_path, daemon.url.removeprefix("http://"))
    yield daemon, prometheus, orders, mails
    prometheus.close()


def test_every_panel_has_data(broker: Broker, swarm: tuple[Daemon, Prometheus, str, str]) -> None:
    """While a swarm works, fails, retries, sets aside and loses a worker, no expression of the dashboard is empty."""
    daemon, prometheus, orders, _ = swarm
    os.kill(daemon.workers()[0]["pid"], signal.SIGKILL)
    daemon.wait_for_event("worker_exited")
    daemon.until_running()
    asked = [of_panel(target["expr"]) for panel in PANELS for target in panel.get("targets", ())]
    assert len(asked) > 25

    def all_have_data() -> bool:
        broker.produce(orders, [(None, "poison" if i == 7 else "x") for i in range(50)])
        empty[:] = [expr for expr in asked if not prometheus.query(expr) and "> 60" not in expr]
        return not empty

    empty: list[str] = []
    wait_for(all_have_data, 60, "data for all expressions", lambda: "\n".join(empty))
    assert prometheus.query("swarm_consumer_lag_age_seconds"), (
        "the one that shows only partitions that are paused for long"
    )


def test_alerts_fire_under_faults(broker: Broker, swarm: tuple[Daemon, Prometheus, str, str]) -> None:
    """Each rule (with windows of seconds) finds its fault, injected into the live swarm, and the calm swarm before has none."""
    daemon, prometheus, orders, mails = swarm
    fired: set[str] = set()

    def until_it_fires(*alerts: str, within: float = 60.0) -> None:
        for alert in alerts:
            wait_for(lambda: prometheus.query(rule(alert)), within, f"{alert}: {rule(alert)}", daemon.story)  # noqa: B023
            fired.add(alert)

    # The app's listener raises at the assignment, before the first scrape: an increase of what was there from the start is none.
    broker.produce(orders, [(None, "x")] * 200)
    wait_for(lambda: prometheus.query("sum(swarm_messages_total) >= 200"), 60, "work to be seen", daemon.story)
    calm = [
        each["alert"]
        for each in RULES
        if prometheus.query(rule(each["alert"])) and each["alert"] not in ("SwarmListenersFail",)
    ]
    assert calm == []

    broker.produce(orders, [(None, "poison")] * 20)
    until_it_fires("SwarmDeadLetters", "SwarmHandlersFail")
    broker.produce(mails, [(None, "x")])
    until_it_fires("SwarmDeadLettersFail")

    daemon.run("scale", "3")
    until_it_fires("SwarmListenersFail")
    for number in ("2", "3", "2"):
        daemon.run("scale", number)
    wait_for(
        lambda: prometheus.query("sum(increase(swarm_rebalances_total[60s])) > 3"),
        60,
        "rebalances to be seen",
        daemon.story,
    )
    fired.add("SwarmRebalancesOften")  # with another threshold: twenty would take minutes

    daemon.run("quiet")
    until_it_fires("SwarmNotRunning")
    broker.produce(orders, [(None, "x")] * 200)
    until_it_fires("SwarmStandsStill")
    daemon.run("resume")

    def lag_grows() -> bool:
        broker.produce(orders, [(None, "slow")] * 100)
        return bool(prometheus.query(rule("SwarmLagGrows")))

    broker.produce(orders, [(None, "slow")] * 1500)
    wait_for(lag_grows, 90, "the lag to grow", daemon.story)
    fired.add("SwarmLagGrows")

    metrics = Path(str(daemon.settings["swarm"]["run_dir"])) / "metrics"
    (metrics / "counter_7.db").write_bytes(b"\xff" * 50)
    until_it_fires("SwarmMetricFilesDamaged")

    frozen = daemon.workers()[1]["pid"]
    os.kill(frozen, signal.SIGSTOP)
    until_it_fires("SwarmWorkerSilent")
    os.kill(frozen, signal.SIGCONT)

    for _ in range(6):  # the last ones wait for their next start
        pid = daemon.wait_for(lambda: daemon.workers()[0]["pid"], what="a process of worker 0")
        os.kill(pid, signal.SIGKILL)
        daemon.wait_for_event("worker_exited", pid=pid)
    until_it_fires("SwarmWorkersKeepDying", "SwarmWorkerDown", "SwarmWorkerCrashLoop")

    broker.stop()
    until_it_fires("SwarmClientErrors")
    broker.start()

    daemon.expect_errors()
    for alert in BY_PROMTOOL_ALONE:
        for name in re.findall(r"swarm_\w+", rule(alert)):
            assert prometheus.query(name), name
    assert daemon.stop() in (0, 2)
    until_it_fires("SwarmUnreachable")
    assert fired | BY_PROMTOOL_ALONE == {each["alert"] for each in RULES}
