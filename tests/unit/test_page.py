"""The page for people: what it says about given facts, and that nothing of them becomes HTML."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser

import pytest

from swarm.scoreboard import PID, Bulletin, Scoreboard
from swarm.supervisor import page
from swarm.supervisor.observer import View

NOW = 1_000.0
NASTY = "<script>alert(1)</script>'\" onload=x & \udcff"


class Reader(HTMLParser):
    """Elements with their attributes, and all text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "


@pytest.fixture
def boards() -> Iterator[list[Scoreboard]]:
    """Two workers' boards, nothing on them."""
    made = [Scoreboard.create(index) for index in range(2)]
    yield made
    for board in made:
        board.close()


def shown(boards: list[Scoreboard], posted: dict[str, object] | None, loop_at: float = NOW - 0.5) -> Reader:
    bulletin = Bulletin.create()
    os.close(bulletin.fd)  # the mapping stays
    if posted is not None:
        bulletin.post(posted)
        bulletin.came_round(loop_at)
    return Reader(page.render(page.facts(View(boards, bulletin, lambda: NOW)), 2_000_000_000.0).decode())


def worker(index: int, **more: object) -> dict[str, object]:
    return {
        "index": index, "pid": 100 + index, "state": "running", "health": "ok", "uptime": 61.0, "restarts": 0, "messages": 7,
        "errors": 0, "cpu_percent": 3.0, "memory": {"rss": 1 << 20}, "last_exit": None, **more,
    }  # fmt: skip


def swarm(*workers: dict[str, object], **more: object) -> dict[str, object]:
    return {
        "name": "shop",
        "state": "running",
        "pid": 1,
        "version": "9",
        "uptime": 5.0,
        "groups": ["shop"],
        "workers": [*workers],
        **more,
    }


def hold(board: Scoreboard, pid: int, topic: str, partition: int = 0, lag: int = 5) -> None:
    board.ints[PID] = pid
    names = (board.string("shop"), board.string(topic))
    board.set_assigned([(*names, partition, 10, 10, 10 + lag, NOW, False, 0.0)])
    board.job_begin(0, NOW - 20.0, 60.0, (*names, partition, 10, 14, 2))


def test_it_shows_what_status_shows(boards: list[Scoreboard]) -> None:
    """Workers with state and health, partitions with lag, jobs in hand, findings and last exits."""
    hold(boards[0], 100, "orders", 3, lag=12_345)
    gone = {
        "code": None,
        "signal": "SIGKILL",
        "reason": "killed",
        "detail": "perhaps out of memory",
        "at": 1_999_999_940.0,
    }
    finding = {"severity": "error", "what": "two daemons", "cause": "One name.", "fix": "Rename one."}

    page = shown(
        boards,
        swarm(
            worker(0, health="slow", job_age=20.0),
            worker(1, pid=None, state="backoff", last_exit=gone),
            findings=[finding],
        ),
    )

    for text in (
        "shop",
        "slow",
        "backoff",
        "orders/3",
        "12,345",
        "10-14",
        "two daemons",
        "60s ago",
        "perhaps out of memory",
    ):
        assert text.replace("60s", "1m00s") in page.text, text
    assert "worker 0 is slow: its job has been running for 20s" in page.text
    assert {"http-equiv": "refresh", "content": "5"} in [
        attributes for tag, attributes in page.elements if tag == "meta"
    ]


def test_nothing_from_outside_becomes_html(boards: list[Scoreboard]) -> None:
    """Names, topics and errors are text, whatever is in them, also what UTF-8 cannot say."""
    hold(boards[0], 100, NASTY)
    gone = {"code": 1, "signal": None, "reason": NASTY, "detail": NASTY, "at": None}
    finding = {"severity": NASTY, "what": NASTY, "cause": NASTY, "fix": NASTY}

    page = shown(
        boards,
        swarm(
            worker(0, state=NASTY, last_exit=gone),
            name=NASTY,
            groups=[NASTY],
            findings=[finding],
            version=NASTY,
            reload_error=NASTY,
        ),
    )

    tags = {tag for tag, _ in page.elements}
    assert "script" not in tags
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert page.text.count("alert(1)") >= 10


def test_a_browser_may_do_nothing_but_show_it(boards: list[Scoreboard]) -> None:
    """The policy names the style sheet that is really there, by its digest; nothing on the page needs anything else."""
    view = View(boards, Bulletin.create(), lambda: NOW)
    text = page.render(page.facts(view), 0.0).decode()
    os.close(view.bulletin.fd)
    [style] = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()

    policy = page.HEADERS["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert f"style-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    assert not re.search(r'<(script|img|link|iframe|form)|style="|src=|url\(|@import', text)


def test_it_says_how_old_it_is_and_when_there_is_nothing_yet(boards: list[Scoreboard]) -> None:
    """A supervisor that hangs is the first thing to be seen, and one that has not posted is no error."""
    assert "has not posted its state yet" in shown(boards, None).text
    assert "hangs or was stopped" in shown(boards, swarm(worker(0)), loop_at=NOW - 60.0).text
    assert "hangs" not in shown(boards, swarm(worker(0))).text


def test_a_board_of_another_process_is_not_shown(boards: list[Scoreboard]) -> None:
    """A worker that is gone holds nothing, whatever its scoreboard still says."""
    hold(boards[0], 55, "orders")

    assert "orders" not in shown(boards, swarm(worker(0))).text


def test_it_lists_the_partitions_that_lag_most_and_says_how_many_are_left(
    boards: list[Scoreboard], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of eight thousand rows helps nobody."""
    monkeypatch.setattr(page, "MOST_ROWS", 2)
    board = boards[0]
    board.ints[PID] = 100
    names = (board.string("shop"), board.string("orders"))
    board.set_assigned([(*names, p, 10, 10, 10 + p, NOW, False, 0.0) for p in range(5)])

    text = shown(boards, swarm(worker(0))).text

    assert "3 more with less lag" in text
