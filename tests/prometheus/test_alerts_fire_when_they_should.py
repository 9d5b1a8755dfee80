"""The alert rules by promtool: each fires for its cause, and is silent for what is lawful.

`make test-prometheus` fetches Prometheus (Debian's package) and PyYAML; this starts nothing but promtool.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.sources import ROOT

FILE = ROOT / "config" / "prometheus" / "alerts.yaml"
RULES: list[dict[str, Any]] = yaml.safe_load(FILE.read_text())["groups"][0]["rules"]

AT = 'job="swarm",instance="a:1"'
WORKER = f'{AT},worker="0"'
MINUTES = 60
"""Samples, one a minute."""

Series = dict[str, str]
# Alert -> series for which it fires at the end of the hour, series for which it does not. As promtool writes them: start+step x count.
CASES: dict[str, tuple[Series, Series]] = {
    "SwarmUnreachable": (
        {f"up{{{AT}}}": "1x50 0x10", f"swarm_workers{{{AT}}}": "2x50"},
        {f"up{{{AT}}}": "1x60", f"swarm_workers{{{AT}}}": "2x60", 'up{job="other",instance="b:1"}': "0x60"},
    ),
    "SwarmNotRunning": (
        {f'swarm_state{{{AT},state="running"}}': "1x40 0x20", f'swarm_state{{{AT},state="quiet"}}': "0x40 1x20"},
        {f'swarm_state{{{AT},state="running"}}': "1x50 0x4 1x6", f'swarm_state{{{AT},state="quiet"}}': "0x60"},
    ),
    "SwarmWorkerDown": ({f"swarm_worker_up{{{WORKER}}}": "1x50 0x10"}, {f"swarm_worker_up{{{WORKER}}}": "1x57 0x1 1x5"}),
    "SwarmWorkersKeepDying": (
        # One after the other: a message that kills its process.
        {f'swarm_worker_restarts_total{{{AT},worker="{i}",reason="killed"}}': f"0x{50 + i} 2x10" for i in range(2)},
        {f'swarm_worker_restarts_total{{{WORKER},reason="{reason}"}}': "0+2x60" for reason in ("requested", "lifetime", "max_messages")}
        | {f'swarm_worker_restarts_total{{{WORKER},reason="killed"}}': "0x55 1x5"},
    ),
    "SwarmWorkerSilent": (
        {f"swarm_worker_report_age_seconds{{{WORKER}}}": "0.4x58 20x2"},
        {f"swarm_worker_report_age_seconds{{{WORKER}}}": "0.4x58 3x2"},
    ),
    "SwarmStandsStill": (
        {f'swarm_consumer_lag{{{AT},group="g",topic="t",partition="0"}}': "0x30 7x30", f"swarm_messages_total{{{WORKER}}}": "100x60"},
        {f'swarm_consumer_lag{{{AT},group="g",topic="t",partition="0"}}': "7x60", f"swarm_messages_total{{{WORKER}}}": "100+1x60"},
    ),
    "SwarmLagGrows": (
        {f'swarm_consumer_lag{{{AT},group="g",topic="t",partition="0"}}': "2000+100x60"},
        {f'swarm_consumer_lag{{{AT},group="g",topic="t",partition="0"}}': "9000-100x60",
         f'swarm_consumer_lag{{{AT},group="g",topic="burst",partition="0"}}': "0x55 9000x5"},
    ),
    "SwarmHandlersFail": (
        {f'swarm_errors_total{{{WORKER},kind="handler"}}': "0+10x60", f"swarm_batches_total{{{WORKER}}}": "0+50x60"},
        {f'swarm_errors_total{{{WORKER},kind="handler"}}': "0+1x60", f"swarm_batches_total{{{WORKER}}}": "0+500x60"},
    ),
    "SwarmDeadLetters": ({f"swarm_dead_letters_total{{{WORKER}}}": "0x50 1x10"}, {f"swarm_dead_letters_total{{{WORKER}}}": "0x10 5x50"}),
    "SwarmDeadLettersFail": (
        {f'swarm_errors_total{{{WORKER},kind="dead_letter"}}': "0x55 3x5"}, {f'swarm_errors_total{{{WORKER},kind="dead_letter"}}': "3x60"},
    ),
    "SwarmCommitsFail": (
        {f'swarm_errors_total{{{WORKER},kind="commit"}}': "0+1x60"}, {f'swarm_errors_total{{{WORKER},kind="commit"}}': "0x55 2x5"},
    ),
    "SwarmClientErrors": (
        {f'swarm_errors_total{{{WORKER},kind="client"}}': "0+3x60"}, {f'swarm_errors_total{{{WORKER},kind="client"}}': "0x55 4x5"},
    ),
    "SwarmTransactionsAbort": (
        {f"swarm_transactions_aborted_total{{{WORKER}}}": "0+2x60"}, {f"swarm_transactions_aborted_total{{{WORKER}}}": "0x55 3x5"},
    ),
    "SwarmListenersFail": (
        {f'swarm_errors_total{{{WORKER},kind="hook"}}': "0x50 1x10"}, {f'swarm_errors_total{{{WORKER},kind="hook"}}': "1x60"},
    ),
    "SwarmRebalancesOften": (
        {f"swarm_rebalances_total{{{WORKER}}}": "0+2x60"}, {f"swarm_rebalances_total{{{WORKER}}}": "0x50 6x10"},
    ),
    "SwarmSeatContested": ({f"swarm_worker_contested{{{WORKER}}}": "0x50 1x10"}, {f"swarm_worker_contested{{{WORKER}}}": "0x60"}),
    "SwarmPartitionsUnserved": (
        {f'swarm_unowned_partitions{{{AT},group="g",topic="t"}}': "0x50 2x10", f'swarm_standing_partitions{{{AT},group="g",topic="t"}}': "0x60"},
        {f'swarm_unowned_partitions{{{AT},group="g",topic="t"}}': "0x57 2x1 0x5", f'swarm_paused_partitions{{{AT},group="g",topic="t"}}': "2x60"},
    ),
    "SwarmWorkerCrashLoop": ({f"swarm_worker_failures{{{WORKER}}}": "0x50 5x10"}, {f"swarm_worker_failures{{{WORKER}}}": "0x50 4x10"}),
    "SwarmMessageCondemned": (
        {f'swarm_condemned_messages{{{AT},group="g",topic="t"}}': "0x50 1x10"}, {f'swarm_condemned_messages{{{AT},group="g",topic="t"}}': "0x60"},
    ),
    "SwarmMetricFilesDamaged": ({f"swarm_damaged_metric_files{{{AT}}}": "0x50 1x10"}, {f"swarm_damaged_metric_files{{{AT}}}": "0x60"}),
}  # fmt: skip


def promtool(*args: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *map(str, args)], capture_output=True, text=True, check=False)


def test_the_rules_are_sound() -> None:
    """As Prometheus reads them; each has a severity, and says what to do."""
    done = promtool("check", "rules", FILE)

    assert done.returncode == 0, done.stdout + done.stderr
    assert {rule["labels"]["severity"] for rule in RULES} == {"page", "ticket"}
    assert all(set(rule["annotations"]) == {"summary", "action"} for rule in RULES)


def test_every_alert_has_its_case() -> None:
    """A new rule asks for one."""
    assert {rule["alert"] for rule in RULES} == set(CASES)


@pytest.mark.parametrize("alert", CASES)
def test_an_alert_fires_for_its_cause_alone(alert: str, tmp_path: Path) -> None:
    """After an hour with the cause at its end it fires; with what is lawful it does not."""
    # What it says is left out here: promtool would compare it to the letter.
    bare = [{key: value for key, value in rule.items() if key != "annotations"} for rule in RULES]
    (tmp_path / "rules.json").write_text(json.dumps({"groups": [{"name": "kafka-swarm", "rules": bare}]}))
    [rule] = [rule for rule in RULES if rule["alert"] == alert]
    fires, calm = CASES[alert]
    bad = _case(calm, f"count(ALERTS{{alertname={alert!r},alertstate='firing'}})", [])
    good = _case(
        fires, f"count(ALERTS{{alertname={alert!r},alertstate='firing',severity={rule['labels']['severity']!r}}})", [1]
    )
    (tmp_path / "cases.json").write_text(
        json.dumps({"rule_files": ["rules.json"], "evaluation_interval": "30s", "tests": [good, bad]})
    )

    done = promtool("test", "rules", tmp_path / "cases.json")

    assert done.returncode == 0, done.stdout + done.stderr


def _case(series: Series, expr: str, expected: list[int]) -> dict[str, Any]:
    samples = [{"labels": "{}", "value": value} for value in expected]
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": expr, "eval_time": f"{MINUTES}m", "exp_samples": samples}],
    }
