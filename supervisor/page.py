"""The web page `/`: what `swarmctl status` shows, for a browser. Knows the fields of the bulletin and HTML; decides nothing.

Imported by the observer at the first request for it. Rendered here and whole: no script, nothing fetched from elsewhere, and a policy
(CSP) that lets a browser do nothing but show it. Every text from outside (topics, errors, names) goes through `_e`.

    facts       bulletin and scoreboards -> what `status --json` says     (reads shared memory)
    render      facts -> HTML                                            (pure)
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from swarm import display
from swarm.display import UNKNOWN
from swarm.supervisor.observer import HEALTHY_WITHIN, View, Worker, is_current

REFRESH: Final = 5
"""Seconds after which a browser asks again."""
MOST_ROWS: Final = 500
"""Partitions that are listed, those with the largest lag: a page is for eyes, all of them are in `/metrics`."""
_STALE: Final = 3.0
"""Seconds from which the age of what is shown is worth a word: the supervisor comes round at each `check_interval`, at most 5 s."""

_STYLE: Final = """
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--text:#1c2430;--dim:#667085;--line:#e3e6eb;
--good:#12805c;--goodbg:#e2f5ec;--note:#1d5fa8;--notebg:#e4effb;--warn:#8a5a00;--warnbg:#fdf0d3;--bad:#b42318;--badbg:#fde6e3}
@media (prefers-color-scheme:dark){:root{--bg:#12161c;--card:#1a2029;--text:#e4e8ee;--dim:#93a0b2;--line:#2a323e;
--good:#5fd3a4;--goodbg:#133527;--note:#8ebcf2;--notebg:#152c46;--warn:#f0c067;--warnbg:#3b2c0c;--bad:#ff9a8f;--badbg:#44191a}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--text);font:14px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1180px;margin:0 auto;padding:24px 20px 40px}
header{display:flex;flex-wrap:wrap;align-items:baseline;gap:6px 14px;margin-bottom:18px}
h1{font-size:24px;line-height:1.2;margin:0;overflow-wrap:anywhere}
h2{font-size:13px;font-weight:600;color:var(--dim);margin:28px 0 8px}
.dim{color:var(--dim)}
.badge{display:inline-block;padding:1px 9px;border-radius:99px;font-size:12.5px;font-weight:600;white-space:nowrap}
.good{color:var(--good);background:var(--goodbg)}.note{color:var(--note);background:var(--notebg)}
.warn{color:var(--warn);background:var(--warnbg)}.bad{color:var(--bad);background:var(--badbg)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(130px,1fr));gap:10px;margin:0}
.tiles div{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:10px 14px}
.tiles dt{color:var(--dim);font-size:12.5px}
.tiles dd{margin:2px 0 0;font-size:22px;font-weight:600;font-variant-numeric:tabular-nums}
.tiles small{font-size:13px;font-weight:400;color:var(--dim)}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;overflow-x:auto}
table{border-collapse:collapse;width:100%}
th{font-size:12.5px;font-weight:500;color:var(--dim);text-align:left;padding:8px 12px;border-bottom:1px solid var(--line);white-space:nowrap}
td{padding:7px 12px;border-bottom:1px solid var(--line);vertical-align:top;font-variant-numeric:tabular-nums}
tr:last-child td{border-bottom:0}
td.wide{min-width:180px;overflow-wrap:anywhere}
.n{text-align:right;white-space:nowrap}
meter{width:90px;height:10px;margin-left:8px;vertical-align:middle}
meter::-webkit-meter-optimum-value{background:var(--note)}
meter:-moz-meter-optimum::-moz-meter-bar{background:var(--note)}
ul{list-style:none;margin:0;padding:0}
li{padding:9px 12px;border-bottom:1px solid var(--line);overflow-wrap:anywhere}
li:last-child{border-bottom:0}
.banner{padding:10px 14px;border-radius:10px;margin-bottom:14px;font-weight:600}
footer{margin-top:28px;color:var(--dim);font-size:12.5px}
a{color:var(--note)}
@media (max-width:600px){main{padding:16px 12px}td,th{padding:6px 8px}}
"""
_DIGEST: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""What goes along: our own style sheet by its digest, and nothing else."""

_TONES: Final = {
    "running": "good", "ok": "good", "standby": "note", "starting": "note", "quiet": "note",
    "stopping": "warn", "stopped": "warn", "slow": "warn", "backoff": "bad", "stuck": "bad", "fenced": "bad",
}  # fmt: skip


# -- what there is to show -------------------------------------------------------------------------------------------


def facts(view: View) -> dict[str, Any]:
    """What the supervisor posted last, with the partitions and jobs that the workers' scoreboards show now.

    Of the bulletin only what is of its type: it is there before the first post, too.
    """
    notice, posted, now = view.notice(), view.posted, view.clock()
    workers = [
        entry
        for entry in _dicts(posted.get("workers"))
        if isinstance(entry.get("index"), int) and entry["index"] in notice.workers
    ]
    jobs: list[dict[str, Any]] = []
    for entry in workers:
        worker: Worker = notice.workers[entry["index"]]
        board = next((each for each in view.boards if each.index == worker.index), None)
        entry["assignment"] = []
        if board is None or not is_current(board, worker):
            continue
        entry["assignment"] = [
            {
                "group": held.group,
                "topic": held.topic,
                "partition": held.partition,
                "position": held.position,
                "committed": held.committed if held.committed >= 0 else None,
                "lag": held.lag,
                "paused": held.paused,
                "standing": now - held.stands_since if held.stands_since else None,
            }
            for held in board.assigned()
        ]
        jobs += [
            {"worker": worker.index, "group": job.group, "topic": job.topic, "partition": job.partition,
             "first": job.first_offset, "last": job.last_offset, "attempt": job.attempt, "age": now - job.started_at,
             "limit": job.limit}
            for job in board.jobs()
        ]  # fmt: skip
    loop_at = view.bulletin.loop_at
    age = max(0.0, now - loop_at) if loop_at > 0.0 else None
    return {**posted, "workers": workers, "jobs": jobs, "age": age, "problem": notice.problem}


def _dicts(value: object) -> list[dict[str, Any]]:
    return [dict(each) for each in value if isinstance(each, dict)] if isinstance(value, list) else []


# -- the page --------------------------------------------------------------------------------------------------------


def render(status: Mapping[str, Any], wall: float) -> bytes:
    """The page. wall: seconds since the epoch, for the times of last exits."""
    name = str(status.get("name") or "swarm")
    body = [_header(status), *_banners(status), _tiles(status), _findings(status, wall), _workers(status)]
    body += [_jobs(status), _partitions(status), _exits(status, wall)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="refresh" content="{REFRESH}"><title>{_e(name)}: {_e(status.get("state") or "?")}</title>'
        f"<style>{_STYLE}</style></head><body><main>{''.join(body)}"
        f"<footer>Asked anew every {REFRESH} s. For programs: "
        '<a href="/metrics">/metrics</a> <a href="/healthz">/healthz</a> <a href="/readyz">/readyz</a>. '
        "Why something is so: <code>swarmctl why</code>.</footer></main></body></html>\n"
    ).encode("utf-8", "replace")


def _e(value: object) -> str:
    """Any value as text of an element or of a quoted attribute."""
    return html.escape(UNKNOWN if value is None else str(value), quote=True)


def _badge(text: str) -> str:
    tone = _TONES.get(text.rpartition("/")[2], "note")
    return f'<span class="badge {tone}">{_e(text)}</span>'


def _header(status: Mapping[str, Any]) -> str:
    groups = ", ".join(map(str, status.get("groups") or [])) or UNKNOWN
    return (
        f"<header><h1>{_e(status.get('name') or 'swarm')}</h1>{_badge(str(status.get('state') or UNKNOWN))}"
        f'<span class="dim">up {_e(display.duration(status.get("uptime")))} · pid {_e(status.get("pid"))} · '
        f"version {_e(status.get('version'))} · groups {_e(groups)}</span></header>"
    )


def _banners(status: Mapping[str, Any]) -> Iterable[str]:
    age = status.get("age")
    if status.get("problem"):
        yield f'<div class="banner note">{_e(status["problem"])}</div>'
    elif age is not None and age > HEALTHY_WITHIN:
        yield (
            f'<div class="banner bad">The supervisor\'s loop came round {_e(display.duration(age))} ago: it hangs or was stopped. '
            "What is below is as old; counters and partitions are of now.</div>"
        )
    elif age is not None and age > _STALE:
        yield f'<div class="banner note">As of {_e(display.duration(age))} ago.</div>'


def _tiles(status: Mapping[str, Any]) -> str:
    workers = status["workers"]
    running = sum(1 for worker in workers if worker.get("pid") is not None)
    lags = [held["lag"] for worker in workers for held in worker["assignment"]]
    tiles = [
        ("workers", f"{running}<small> of {len(workers)}</small>"),
        ("messages handled", _e(display.count(_sum(workers, "messages")))),
        ("lag", _e(display.lag(lags))),
        ("failed runs", _e(display.count(_sum(workers, "errors")))),
        ("restarts", _e(display.count(_sum(workers, "restarts")))),
        ("memory", _e(display.size(sum((worker.get("memory") or {}).get("rss") or 0 for worker in workers)))),
    ]
    return f'<dl class="tiles">{"".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in tiles)}</dl>'


def _sum(workers: Iterable[Mapping[str, Any]], field: str) -> int | None:
    found = [worker.get(field) for worker in workers]
    return sum(found) if found and all(isinstance(each, int) for each in found) else None  # type: ignore[arg-type]


def _findings(status: Mapping[str, Any], wall: float) -> str:
    """What `status` says below its table, but for the last exits, which have a table of their own."""
    calm = {**status, "workers": [{**worker, "last_exit": None} for worker in status["workers"]]}
    notes = display.remarks(calm, wall)
    if not notes:
        return ""
    return f'<h2>To be looked at</h2><ul class="card">{"".join(f"<li>{_e(note)}</li>" for note in notes)}</ul>'


def _table(title: str, columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]], below: str = "") -> str:
    """columns: (name, class of its cells). rows: cells that are HTML."""
    head = "".join(f'<th class="{css}">{_e(name)}</th>' for name, css in columns)
    lines = "".join(
        "<tr>"
        + "".join(f'<td class="{css}">{cell}</td>' for (_, css), cell in zip(columns, row, strict=True))
        + "</tr>"
        for row in rows
    )
    more = f'<p class="dim">{_e(below)}</p>' if below else ""
    return f'<h2>{_e(title)}</h2><div class="card"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>{more}'


def _workers(status: Mapping[str, Any]) -> str:
    columns = [
        (name, "n" if side == "right" else "wide" if name == "partitions" else "") for name, side in display.COLUMNS
    ]
    rows = [[_badge(text) if i == 2 else _e(text) for i, text in enumerate(row)] for row in display.cells(status)]
    return _table("Workers", columns, rows)


def _jobs(status: Mapping[str, Any]) -> str:
    if not status["jobs"]:
        return ""
    columns = [
        ("worker", "n"),
        ("group", ""),
        ("partition", ""),
        ("offsets", "n"),
        ("attempt", "n"),
        ("for", "n"),
        ("of its limit", ""),
    ]
    rows = []
    for job in sorted(status["jobs"], key=lambda each: -each["age"]):
        limit, age = job["limit"], max(0.0, job["age"])
        meter = (
            f'{_e(display.duration(limit))}<meter min="0" max="{limit:g}" high="{limit / 2:g}" optimum="0" value="{age:g}"></meter>'
            if limit > 0
            else "none"
        )
        rows.append(
            [_e(job["worker"]), _e(job["group"]), _e(f"{job['topic']}/{job['partition']}"), _e(f"{job['first']}-{job['last']}"),
             _e(job["attempt"]), _e(display.duration(age)), meter]
        )  # fmt: skip
    return _table("In hand now", columns, rows)


def _partitions(status: Mapping[str, Any]) -> str:
    held = [(worker["index"], each) for worker in status["workers"] for each in worker["assignment"]]
    if not held:
        return ""
    shown = sorted(held, key=lambda pair: -(pair[1]["lag"] or 0))[:MOST_ROWS]
    shown.sort(key=lambda pair: (pair[1]["group"], pair[1]["topic"], pair[1]["partition"]))
    most = max((each["lag"] or 0 for _, each in shown), default=0)
    columns = [
        ("group", ""),
        ("topic", "wide"),
        ("partition", "n"),
        ("worker", "n"),
        ("committed", "n"),
        ("lag", "n"),
        ("", ""),
    ]
    rows = []
    for index, each in shown:
        lag = "?" if each["lag"] is None else f"{each['lag']:,}"
        meter = f'<meter min="0" max="{most}" value="{each["lag"]}"></meter>' if most and each["lag"] else ""
        state = "paused" if each["paused"] else "stands still" if each["standing"] is not None else ""
        rows.append(
            [_e(each["group"]), _e(each["topic"]), _e(each["partition"]), _e(index),
             _e(None if each["committed"] is None else f"{each['committed']:,}"), _e(lag),
             meter + (f' <span class="badge warn">{state}</span>' if state else "")]
        )  # fmt: skip
    left = len(held) - len(shown)
    return _table("Partitions", columns, rows, f"{left} more with less lag: see /metrics." if left else "")


def _exits(status: Mapping[str, Any], wall: float) -> str:
    rows = []
    for worker in status["workers"]:
        last = worker.get("last_exit")
        if isinstance(last, dict):
            at = last.get("at")
            ago = f"{display.duration(max(0.0, wall - at))} ago" if isinstance(at, int | float) else UNKNOWN
            rows.append([_e(worker["index"]), _e(ago), _e(display.exit_in_words(last)), _e(last.get("detail"))])
    if not rows:
        return ""
    return _table("Last exits", [("worker", "n"), ("when", "n"), ("why", "wide"), ("in detail", "wide")], rows)
