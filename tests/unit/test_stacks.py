"""Backtraces as text, read: whose thread, whose code, what is called; and many of them as shares."""

from __future__ import annotations

import os

import pytest

import swarm
from swarm.stacks import Frame, Share, called_in, cut, profile, read, sections, whereabouts

OWN = os.path.dirname(swarm.__file__)
DUMP = f"""Thread 0x00007f0000000001 "processing 1" [in hand: orders/3 offsets 7-9, group shop, attempt 1, for 2.0 s] (most recent call first):
  File "/usr/lib/python3.11/socket.py", line 706 in readinto
  File "/srv/venv/lib/python3.11/site-packages/urllib3/connection.py", line 40 in getresponse
  File "/srv/shop/shop.py", line 18 in charge
  File "/srv/shop/shop.py", line 9 in consume
  File "{OWN}/processing.py", line 300 in _run

Thread 0x00007f0000000002 "processing 2" (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 327 in wait
  File "{OWN}/dispatch.py", line 190 in next

Current thread 0x00007f0000000003 (most recent call first):
  <no Python frame>
"""


def source(file: str, line: int) -> str:
    return {18: "answer = bank.ask(order)", 9: "self.charge(order)"}.get(line, "")


def test_threads_and_frames_are_read() -> None:
    """Names stand in the text, or are given; what is no frame is left out."""
    first, second, third = read(DUMP, {3: "main"})

    assert (first.ident, first.name, len(first.frames)) == (0x7F0000000001, "processing 1", 5)
    assert first.frames[2] == Frame("/srv/shop/shop.py", 18, "charge")
    assert (second.name, third.name, third.frames) == ("processing 2", "", ())
    assert not first.is_idle
    assert second.is_idle


def test_the_applications_code_comes_first() -> None:
    """Neither a library's, nor Python's, nor ours; an application that is installed like a library is known by its package."""
    first, second, _ = read(DUMP)

    assert [frame.name for frame in first.own()] == ["charge", "consume"]
    assert second.own() == []
    assert Frame("/srv/venv/lib/python3.11/site-packages/shop/app.py", 1, "x").is_own(["shop"])
    assert not Frame("/srv/venv/lib/python3.11/site-packages/shopping/app.py", 1, "x").is_own(["shop"])
    assert Frame("/opt/venv/bin/swarmctl", 6, "<module>").is_swarms
    supervisor = os.path.join(os.path.dirname(OWN), "supervisor", "loop.py")
    if os.path.exists(supervisor):  # a checkout; installed, it lies below the package
        assert Frame(supervisor, 1, "run").is_swarms


def test_where_a_thread_is_fits_into_a_sentence() -> None:
    """The innermost line of the application's, with what it calls in a library, or, in C, by its source."""
    [first, *_] = read(DUMP)
    inside_c = read(DUMP.partition("\n\n")[0].replace('  File "/usr', '  File "<string>'))[0]
    alone = read(DUMP[: DUMP.index("  File")] + DUMP[DUMP.index('  File "/srv/shop') :].partition("\n\n")[0])[0]

    assert whereabouts(first, source=source) == "shop.py line 18 (charge -> socket.readinto)"
    assert whereabouts(alone, source=source) == "shop.py line 18 (charge -> bank.ask)"
    assert whereabouts(read(DUMP)[1], source=source) == ""
    assert inside_c.own()[0].name == "charge"


@pytest.mark.parametrize(
    ("line", "called"),
    [
        ("time.sleep(40)", "time.sleep"),
        ("return re.match(pattern, text)", "re.match"),
        ("if not lock.acquire(timeout=9):", "lock.acquire"),
        ("x = y + 1", ""),
        ("", ""),
        ("    )", ""),
        ("result = await session.get(url)", "session.get"),
    ],
)
def test_what_a_line_calls_is_read_from_its_source(line: str, called: str) -> None:
    """Also from the head of a block; a part of a statement says nothing."""
    assert called_in(line) == called


def test_a_text_that_still_grows_is_cut_before_its_last_thread() -> None:
    """Which may be half written."""
    whole, rest = cut(DUMP[: DUMP.index("dispatch.py")])

    assert len(list(sections(whole))) == 1
    assert rest.startswith('Thread 0x00007f0000000002 "processing 2"')
    assert len(list(sections(rest + DUMP[DUMP.index("dispatch.py") :]))) == 2
    assert cut("") == ("", "")


def test_samples_become_shares_of_each_thread() -> None:
    """Who did most comes first; waiting for work is told apart."""
    busy, idle, _ = list(sections(DUMP))
    other = busy.replace("line 9 in", "line 10 in")

    first, second = profile([(busy, 6), (other, 2), (idle, 8)], source=source)

    assert (first.name, first.samples) == ("processing 1", 8)
    assert first.shares[0] == Share(("consume (shop.py line 9)", "charge (shop.py line 18)", "socket.readinto"), 6)
    assert [share.samples for share in first.shares] == [6, 2]
    assert (second.name, second.shares[0].idle) == ("processing 2", True)
