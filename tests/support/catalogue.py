"""The tables of docs/events-and-metrics.md, made from the code. `python -m tests.support.catalogue` (`make docs`) writes them.

What stands outside the marks in that page is written by hand.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Final

from swarm import events
from swarm.scoreboard import Bulletin, Scoreboard
from swarm.supervisor.exposition import Exposition
from swarm.supervisor.observer import View
from tests.support.sources import ROOT, sources

PAGE: Final = ROOT / "docs" / "events-and-metrics.md"

LISTENERS: Final = frozenset({"swarm.journal"})
"""Modules that name events of others: only what they make themselves is theirs."""
_SUFFIXES: Final = {"counter": "_total", "info": "_info"}


def table_row(*cells: str) -> str:
    """One row of a table, with `|` written so that it stays in its cell."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def publishers() -> dict[str, set[str]]:
    """Class name of each event -> who makes such events, by the modules that call its constructor: `supervisor`, `worker`."""
    found: dict[str, set[str]] = {}
    for source in sources().values():
        who = "supervisor" if source.name.startswith("swarm.supervisor.") else "worker"
        if source.name.startswith("swarm.testing"):
            continue
        for node in ast.walk(ast.parse(source.path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "events":
                if source.name not in LISTENERS:
                    found.setdefault(node.attr, set()).add(who)
            elif isinstance(node, ast.Call):
                found.setdefault(ast.unparse(node.func).removeprefix("events."), set()).add(who)
    return found


def event_rows() -> list[str]:
    """A row for each event of the catalogue."""
    made = publishers()
    rows = []
    for name, cls in events.CATALOGUE.items():
        facts = ", ".join(f"`{field.name}`" for field in fields(cls)) or "-"
        who = ", ".join(sorted(made.get(cls.__name__, ()))) or "-"
        rows.append(table_row(f"`{name}`", who, cls.LEVEL, facts, " ".join((cls.__doc__ or "").split())))
    return rows


def metrics() -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    """Name as it is scraped (of a histogram, its base), type, labels and meaning of every metric of ours."""
    bulletin = Bulletin.create()
    bulletin.post({"name": "shop", "version": "1", "state": "running", "groups": [], "workers": []})
    exposition = Exposition(View([Scoreboard.create(0)], bulletin), ROOT / "nowhere", lambda _, __: None)
    for family in exposition.collect():
        labels = getattr(family, "_labelnames", ()) or ("version", "name") * (family.type == "info")
        yield family.name + _SUFFIXES.get(family.type, ""), family.type, tuple(labels), family.documentation


def series() -> set[str]:
    """The names of all samples that a page of /metrics may have of ours."""
    found = set()
    for name, kind, _, _ in metrics():
        found |= {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    return found


def metric_rows() -> list[str]:
    """A row for each metric."""
    return [
        table_row(f"`{name}`", "gauge" if kind == "info" else kind, ", ".join(labels) or "-", text)
        for name, kind, labels, text in metrics()
    ]


TABLES: Final = {"events": event_rows, "metrics": metric_rows}


def written(text: str) -> str:
    """The page with its tables made anew; ValueError where a mark is missing."""
    for name, rows in TABLES.items():
        begin, end = f"<!-- {name}: made by `make docs` -->\n", f"<!-- end of {name} -->"
        if begin not in text or end not in text:
            raise ValueError(f"{PAGE.name}: the marks of the table {name!r} are gone")
        before, _, rest = text.partition(begin)
        table, _, after = rest.partition(end)
        head = re.findall(r"^\|.*\n", table, re.MULTILINE)[:2]
        text = f"{before}{begin}\n{''.join(head)}" + "\n".join(rows()) + f"\n\n{end}{after}"
    return text


def main() -> None:
    """Write the page."""
    text = PAGE.read_text()
    PAGE.write_text(written(text))


if __name__ == "__main__":
    main()
