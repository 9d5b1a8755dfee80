"""A status answer as text for people. Knows the fields of `status --json`; knows no socket, no process and no clock.

Everything here takes what it shows as arguments and returns text, so that it can be tested as it stands; rich is imported only by
what draws for a terminal. What is unknown is shown as "-": a 0 is a measured 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from swarm.exits import in_words
from swarm.wording import counted

if TYPE_CHECKING:
    from rich.console import Group

UNKNOWN: Final = "-"
WIDTH: Final = 80
"""Columns of a terminal that everything should fit into."""
LONG_START: Final = 20.0
"""Seconds of a start that are worth a word: setting up and joining take one or two."""

COLUMNS: Final = (
    ("worker", "right"),
    ("pid", "right"),
    ("state", "left"),
    ("uptime", "right"),
    ("restarts", "right"),
    ("messages", "right"),
    ("lag", "right"),
    ("memory", "right"),
    ("cpu", "right"),
    ("partitions", "left"),
)
"""Headers of the table of workers, and to which side their cells lean."""

_NARROW_HEADERS: Final = {"worker": "#"}
_STYLES: Final = {
    "running": "green",
    "ok": "green",
    "standby": "cyan",
    "starting": "cyan",
    "quiet": "cyan",
    "stopping": "yellow",
    "stopped": "yellow",
    "slow": "yellow",
    "backoff": "red",
    "stuck": "red",
    "fenced": "red",
}
_REASONS: Final = {
    "finished": "went by itself",
    "requested": "stopped as asked",
    "report_timeout": "had not reported for too long, so it was replaced",
    "poll_timeout": "had not polled for too long, so it was replaced",
    "consume_timeout": "one job took longer than it may, so it was replaced",
    "partition_stands": "one of its partitions stood still although its log grew, so it was replaced",
    "memory_limit": "had grown over memory_limit, so it was drained and replaced",
    "memory_kill": "had grown over memory_kill, so it was killed and replaced",
    "lifetime": "had reached max_lifetime, so it was replaced",
    "max_messages": "had handled worker.max_messages, so it was replaced",
    "join_stuck": "had not joined its group though the broker answers, so it was replaced",
    "fenced": "its client had met fatal errors again and again, so it was replaced",
    "orphaned": "its supervisor was gone",
}


# -- one value -------------------------------------------------------------------------------------------------------


def duration(seconds: float | None) -> str:
    """Seconds for people, in two units at most: `0.2s`, `42s`, `3m12s`, `5h07m`, `2d04h`."""
    if seconds is None or seconds < 0:
        return UNKNOWN
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m{rest:02}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes:02}m"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours:02}h"


def count(number: int | None) -> str:
    """A number of things: exact up to 999,999, then three digits and a unit."""
    if number is None:
        return UNKNOWN
    if abs(number) < 1_000_000:
        return f"{number:,}"
    return _scaled(number, 1000.0, ("", "k", "M", "G", "T", "P"))


def size(number: int | None) -> str:
    """Bytes, in powers of 1024: `812B`, `47M`, `1.2G`."""
    return UNKNOWN if number is None else _scaled(number, 1024.0, ("B", "K", "M", "G", "T", "P"))


def _scaled(number: float, step: float, units: Sequence[str]) -> str:
    value, unit = float(number), 0
    while abs(value) >= step and unit < len(units) - 1:
        value, unit = value / step, unit + 1
    digits = 0 if unit == 0 or abs(value) >= 99.95 else 1 if abs(value) >= 9.995 or step == 1024.0 else 2
    return f"{value:.{digits}f}{units[unit]}"


def percent(number: float | None) -> str:
    """Percent of one CPU."""
    return UNKNOWN if number is None else f"{number:.0f}%"


def lag(lags: Iterable[int | None]) -> str:
    """Lags of partitions together; `12+` where some are unknown, "-" where all are."""
    listed = list(lags)
    known = [value for value in listed if value is not None and value >= 0]
    if not known:
        return UNKNOWN
    return count(sum(known)) + ("+" if len(known) < len(listed) else "")


def partitions(assignment: Iterable[Mapping[str, Any]], *, with_group: bool = False) -> str:
    """Assigned partitions, a topic after the other with ranges drawn together: `clicks/0-2,5 orders/1`."""
    topics: dict[str, set[int]] = {}
    for held in assignment:
        name = f"{held['group']}:{held['topic']}" if with_group else str(held["topic"])
        topics.setdefault(name, set()).add(held["partition"])
    return " ".join(f"{name}/{ranges(numbers)}" for name, numbers in sorted(topics.items())) or UNKNOWN


def ranges(numbers: Iterable[int]) -> str:
    """Numbers with runs of three or more drawn together: `0-2,5,6`."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    texts = []
    for first, last in runs:
        texts += [f"{first}-{last}"] if last - first >= 2 else [str(n) for n in range(first, last + 1)]
    return ",".join(texts)


def condition(state: str | None, health: str | None) -> str:
    """State and health in one word where one says it all: `running` when that is ok, `slow` when it runs but slowly."""
    if state is None:
        return UNKNOWN
    if health in (None, "ok"):
        return state
    return health if state == "running" else f"{state}/{health}"


# -- the answer ------------------------------------------------------------------------------------------------------


def heading(status: Mapping[str, Any]) -> list[str]:
    """Two lines about the swarm."""
    workers = status.get("workers", [])
    up = duration(status.get("uptime"))
    counts = [worker.get("messages") for worker in workers]
    messages = None if None in counts or not counts else sum(counts)
    lags = lag(held.get("lag") for worker in workers for held in worker.get("assignment") or [])
    who = f"{status.get('name', UNKNOWN)}  {status.get('state', UNKNOWN)}  pid {status.get('pid', UNKNOWN)}"
    return [
        f"{who}  up {up}  version {status.get('version', UNKNOWN)}",
        f"groups {', '.join(map(str, status.get('groups', []))) or UNKNOWN}  messages {count(messages)}  lag {lags}",
    ]


def cells(status: Mapping[str, Any]) -> list[list[str]]:
    """The table: a list of texts per worker, in the order of COLUMNS."""
    workers = status.get("workers", [])
    with_group = len(status.get("groups", [])) > 1
    memories = [worker["memory"] for worker in workers if worker.get("memory")]
    # Of one kind for all, or the numbers could not be compared: the finer ones are not taken of every worker at every look.
    kind = next((k for k in ("uss", "pss") if all(m.get(k) is not None for m in memories)), "rss")
    return [_cells(worker, kind, with_group=with_group) for worker in workers]


def _cells(worker: Mapping[str, Any], memory_kind: str, *, with_group: bool) -> list[str]:
    used = (worker.get("memory") or {}).get(memory_kind)
    pid = worker.get("pid")
    assignment = worker.get("assignment") or []
    return [
        str(worker.get("index", UNKNOWN)),
        UNKNOWN if pid is None else str(pid),
        condition(worker.get("state"), worker.get("health")),
        duration(worker.get("uptime")),
        count(worker.get("restarts")),
        count(worker.get("messages")),
        lag(held.get("lag") for held in assignment),
        size(used),
        percent(worker.get("cpu_percent")),
        partitions(assignment, with_group=with_group),
    ]


def remarks(status: Mapping[str, Any], now: float) -> list[str]:
    """What the table does not say: why workers were replaced, and what is wrong with those that are not well.

    now: the wall clock (s since the epoch).
    """
    texts = []
    for worker in status.get("workers", []):
        index = worker.get("index", UNKNOWN)
        if worker.get("health") in ("slow", "stuck", "fenced"):
            ages = [
                f"{what} {duration(worker[age])}{ago}"
                for what, age, ago in (
                    ("its job has been running for", "job_age", ""),
                    ("last poll", "poll_age", " ago"),
                    ("last report", "report_age", " ago"),
                )
                if worker.get(age) is not None
            ]
            since = ", ".join(ages) or "since when is unknown"
            texts.append(f"worker {index} is {worker['health']}: {since}. swarmctl why {index} says where.")
        for held in worker.get("assignment") or []:
            if held.get("standing") is not None:
                where = f"{held['topic']}/{held['partition']} (worker {index}, group {held['group']})"
                texts.append(
                    f"{where} stands still at {held['position']} for {duration(held['standing'])} although its log grows."
                )
        if worker.get("errors"):
            failed = f"{counted(worker['errors'], 'run')} of a handler failed"
            texts.append(f"worker {index}: {failed} so far; swarmctl why {index} and the log say which, and why.")
        if worker.get("restart_in") is not None:
            texts.append(f"worker {index} is started again in {duration(worker['restart_in'])}.")
        if worker.get("last_exit"):
            at = worker["last_exit"].get("at")
            when = f" {duration(max(0.0, now - at))} ago" if at is not None else ""
            texts.append(f"worker {index}, last exit{when}: {exit_in_words(worker['last_exit'])}.")
    late = {
        worker["index"]: worker["state_for"]
        for worker in status.get("workers", [])
        if worker.get("state") == "starting" and (worker.get("state_for") or 0.0) > LONG_START
    }
    if late:  # one line: where a broker is away, it is all of them
        who = f"workers {ranges(late)} have" if len(late) > 1 else f"worker {min(late)} has"
        texts.append(
            f"{who} been starting for {duration(max(late.values()))}: swarmctl why {min(late)} says what it waits for."
        )
    for group, topic in sorted({(each["group"], each["topic"]) for each in status.get("unowned", [])}):
        here = [each for each in status["unowned"] if (each["group"], each["topic"]) == (group, topic)]
        since = duration(max(each["for"] for each in here))
        numbers = ranges(each["partition"] for each in here)
        texts.append(f"nobody in group {group} has {topic}/{numbers}, since {since} ago or longer.")
    paused = [each for each in status.get("paused", []) if each["paused"]]
    if paused:
        texts.append(f"paused: {', '.join(_pause(each, status['paused']) for each in paused)}.")
    for each in status.get("findings", []):
        texts.append(f"{each['severity']}: {each['what']}. {each['cause']} {each['fix']}")
    if status.get("under_way"):
        texts.append(f"under way: {status['under_way']}.")
    if status.get("reload_error"):
        texts.append(f"the newest code or settings are not in use: {status['reload_error']}")
    for each in status.get("suspects", []):
        if each["condemned"]:
            where = f"{each['topic']}/{each['partition']} (group {each['group']})"
            texts.append(
                f"message {each['first_offset']} of {where} killed its process {counted(each['deaths'], 'time')}: it never runs again."
            )
    return texts


def _place(word: Mapping[str, Any]) -> str:
    where = word["topic"] if word["partition"] is None else f"{word['topic']}/{word['partition']}"
    return where if word["group"] is None else f"{where} (group {word['group']})"


def _pause(word: Mapping[str, Any], words: Sequence[Mapping[str, Any]]) -> str:
    """One pause, with what was taken out of it since."""
    later = words[list(words).index(word) + 1 :]
    but = [_place(other) for other in later if not other["paused"] and other["topic"] == word["topic"]]
    return f"{_place(word)} but {' and '.join(but)}" if but else _place(word)


def exit_in_words(last_exit: Mapping[str, Any]) -> str:
    """A `last_exit` for people, with the reason's own word in parentheses."""
    reason = last_exit.get("reason")
    code, signal = last_exit.get("code"), last_exit.get("signal")
    words = _REASONS.get(str(reason)) or str(last_exit.get("detail") or "").rstrip(".") or in_words(code, signal)
    how = signal or (f"code {code}" if code else "")
    facts = ", ".join(str(fact) for fact in (reason, how) if fact)
    return f"{words} ({facts})" if facts else words


def plain(status: Mapping[str, Any], now: float) -> str:
    """The whole status as lines without colour, as wide as they need to be: for pipes, files and logs."""
    table = [[name for name, _ in COLUMNS], *cells(status)]
    widths = [max(len(row[i]) for row in table) for i in range(len(COLUMNS))]
    lines = []
    for row in table:
        texts = [
            text.rjust(width) if side == "right" else text.ljust(width)
            for text, width, (_, side) in zip(row, widths, COLUMNS, strict=True)
        ]
        lines.append("  ".join(texts).rstrip())
    notes = remarks(status, now)
    return "\n".join([*heading(status), "", *lines, *([""] if notes else []), *notes])


def drawing(status: Mapping[str, Any], now: float) -> Group:
    """The whole status for a terminal 80 columns wide or wider. Imports rich."""
    from rich.console import Group
    from rich.text import Text

    title, *more = heading(status)
    name, _, rest = title.partition("  ")
    state = str(status.get("state", UNKNOWN))
    first = Text.assemble((name, "bold"), "  ", (state, _STYLES.get(state, "")), rest.removeprefix(state))
    parts: list[Any] = [first, *(Text(line, style="dim") for line in more), Text(), table(status)]
    notes = remarks(status, now)
    if notes:
        parts += [Text(), *(Text(note, style="yellow") for note in notes)]
    return Group(*parts)


def table(status: Mapping[str, Any]) -> Any:
    """The table of workers as a rich Table."""
    from rich.table import Table
    from rich.text import Text

    rows = cells(status)
    headers = [_NARROW_HEADERS.get(name, name) for name, _ in COLUMNS]
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    # Two spaces between columns where an old terminal's width has room for them.
    gap = 2 if sum(widths) + 2 * (len(widths) - 1) <= WIDTH else 1
    result = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="bold")
    for name, side in COLUMNS:
        last = name == "partitions"
        result.add_column(
            _NARROW_HEADERS.get(name, name),
            justify="right" if side == "right" else "left",
            no_wrap=not last,
            overflow="fold" if last else "ellipsis",
        )
    for row in rows:
        state = row[2].rpartition("/")[2]
        result.add_row(*(Text(text, style=_STYLES.get(state, "") if i == 2 else "") for i, text in enumerate(row)))
    return result
