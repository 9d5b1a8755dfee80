"""The dashboard and the alert rules speak of metrics that there are. Prometheus itself is asked by `make test-prometheus`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from swarm.scoreboard import ERROR_KINDS
from swarm.supervisor.exposition import RESTART_REASONS, SWARM_STATES
from tests.support.catalogue import metrics, series
from tests.support.sources import ROOT

DASHBOARD = json.loads((ROOT / "config" / "grafana" / "swarm.json").read_text())
ALERTS = (ROOT / "config" / "prometheus" / "alerts.yaml").read_text()


def expressions() -> Iterator[str]:
    """Of all panels, and the text of the rules."""
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    yield ALERTS


def test_every_metric_that_is_named_exists() -> None:
    """With the suffix that its samples have."""
    named = {name for text in expressions() for name in re.findall(r"\bswarm_[a-z_]+\b", text)}

    assert named - series() == set()


def test_every_metric_is_on_the_dashboard() -> None:
    """Who adds one decides where it is looked at."""
    shown = " ".join(target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ()))

    assert [name for name, *_ in metrics() if name not in shown] == []


def test_labels_and_their_values_exist() -> None:
    """`kind`, `reason` and `state` are compared with values that can be."""
    values = {"kind": {*ERROR_KINDS, "rss", "uss", "pss"}, "reason": set(RESTART_REASONS), "state": set(SWARM_STATES)}
    compared = {
        pair for text in expressions() for pair in re.findall(r'\b(kind|reason|state)(?:=~|!~|!=|=)"([^"]+)"', text)
    }

    assert {label for label, _ in compared} == {"kind", "reason", "state"}
    assert [pair for pair in compared if not set(pair[1].split("|")) <= values[pair[0]]] == []


def test_panels_do_not_overlap_and_are_numbered() -> None:
    """Grafana would move them; each has a title and a place of its own."""
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert panel["title"]
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
