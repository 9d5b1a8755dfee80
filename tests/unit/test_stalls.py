"""What a thread waits for, read from its stack and the source of its lines, and who may hold the lock."""

from __future__ import annotations

import pytest

from swarm.stacks import Frame, Stack
from swarm.stalls import waits_at

SHOP = """\
def update(account):
    with LOCK:
        book(account)
        time.sleep(9)
    with (
        LOCK
    ):
        book(account)


def other(account):
    LOCK.acquire()
    with open(account) as file:
        file.read()
    with LOCK: time.sleep(9)
    with SLOTS:
        charge(account)
    with ThreadPoolExecutor(4) as pool:
        pool.map(charge, account)
    ", ".join(account)
    cache.get(account)
    item = JOBS.get()
    thread.join()
    return pool.submit(charge, account).result(timeout=60)


def condition(account):
    with READY:
        READY.wait()
        for done in as_completed(account):
            charge(done)
    with READY:
        with OTHER, LOCK:
            charge(account)
    thread.start()
    connection.join(account)
    if not cheque.is_covered_by(the_account_of_the_customer_who_has_signed_it, within=SECONDS) or LOCK.acquire():
        charge(account)
    value = REGEX.sub(PATTERN.get(), account)
    cursor.execute(SQL, CONTEXT.get())
    record(GATE.acquire(), account)
    took = (
        GATE.acquire()  # alone
    )


class Till:
    def __init__(self):
        self.lock = Lock()
        self.ready = Condition()
        self.connection = connect()

    def open(self):
        with self.lock:  # opens
            self.take()
        with self.ready:  # opens
            self.give()
        with self.connection:  # opens
            self.write()

    def merge(self, other):
        with self.lock:  # merges
            other.open()
        with self.ready:  # merges
            other.merge(self)
        with self.connection:  # merges
            self.read()


class Vault:
    def open(self):
        with self.lock:  # of the vault
            self.lift()


def given(lock):
    with lock:  # given
        use_it()
    with lock:  # given again
        use_it()
"""
FILE = "/srv/shop/shop.py"
THREADING = "/usr/lib/python3.11/threading.py"
FUTURES = "/usr/lib/python3.11/concurrent/futures/_base.py"


def lines(file: str) -> list[str]:
    return SHOP.splitlines(keepends=True) if file == FILE else []


def thread(*at: int | Frame, number: int = 1) -> Stack:
    """A thread at these places, the innermost first; a number is a line of the shop."""
    frames = tuple(Frame(FILE, each, f"f{each}") if isinstance(each, int) else each for each in at)
    return Stack(
        number, f"processing {number}", (*frames, Frame("/usr/lib/python3.11/threading.py", 1045, "_bootstrap"))
    )


def inside(*names: str, file: str = THREADING) -> tuple[Frame, ...]:
    return tuple(Frame(file, 327, name) for name in names)


def line_of(text: str) -> int:
    [found] = [n for n, line in enumerate(SHOP.splitlines(), 1) if text in line]
    return found


@pytest.mark.parametrize(
    ("stack", "waits"),
    [
        (thread(2), "`with LOCK:` (shop.py line 2)"),
        (thread(5), "`with LOCK:` (shop.py line 5)"),
        (thread(6), "`with LOCK:` (shop.py line 6)"),
        (thread(12), "`LOCK.acquire()` (shop.py line 12)"),
        (thread(*inside("acquire"), line_of("with SLOTS")), "`with SLOTS:` (shop.py line 16)"),
        (
            thread(*inside("_wait_for_tstate_lock", "join"), *inside("shutdown", "__exit__", file=FUTURES), 18),
            "`with ThreadPoolExecutor(4):` (shop.py line 18)",
        ),
        (thread(line_of("JOBS.get")), "`item = JOBS.get()` (shop.py line 22)"),
        (
            thread(*inside("wait"), *inside("get", file="/usr/lib/python3.11/queue.py"), line_of("JOBS.get")),
            "`item = JOBS.get()` (shop.py line 22)",
        ),
        (thread(*inside("_wait_for_tstate_lock", "join"), line_of("thread.join")), "`thread.join()` (shop.py line 23)"),
        (
            thread(*inside("wait"), *inside("result", file=FUTURES), line_of(".result(")),
            "`return pool.submit(charge, account).result(timeout=60)` (shop.py line 24)",
        ),
        (thread(*inside("wait"), line_of("READY.wait")), "`READY.wait()` (shop.py line 29)"),
        (
            thread(*inside("wait", "wait"), *inside("as_completed", file=FUTURES), line_of("as_completed")),
            "`for done in as_completed(account):` (shop.py line 30)",
        ),
        (thread(line_of("OTHER, LOCK")), "`with OTHER, LOCK:` (shop.py line 33)"),
        (thread(*inside("__enter__"), 32), "`with READY:` (shop.py line 32)"),
        (thread(line_of("# alone")), f"`GATE.acquire()  # alone` (shop.py line {line_of('# alone')})"),
    ],
)
def test_a_thread_waits_where_its_line_and_its_innermost_frames_say_so(stack: Stack, waits: str) -> None:
    assert waits_at(stack, [stack], lines=lines) == waits


@pytest.mark.parametrize(
    "stack",
    [
        thread(3),
        thread(4),
        thread(8),
        thread(line_of("with open")),
        thread(line_of("with LOCK: time")),
        thread(line_of('", ".join')),
        thread(line_of("cache.get")),
        thread(line_of("thread.join")),  # in C there is no join that waits
        thread(line_of("PATTERN.get")),  # the other call on the line may be the one that runs
        thread(line_of("CONTEXT.get")),
        thread(line_of("GATE.acquire(), ")),
        thread(*inside("wait", "start"), line_of("thread.start")),
        thread(*inside("readinto", file="/usr/lib/python3.11/socket.py"), 2),
        thread(Frame("/srv/venv/lib/python3.11/site-packages/bank/threading.py", 3, "acquire"), 2),
        thread(*inside("wait"), Frame("/srv/venv/lib/python3.11/site-packages/bank/api.py", 3, "ask"), 3),
        thread(line_of("if not cheque")),  # too long for a sentence
        thread(999),
        thread(Frame("/srv/shop/gone.py", 2, "f")),
        thread(*inside("wait")),
    ],
)
def test_one_that_runs_or_of_which_that_is_not_known_is_not_said_to_wait(stack: Stack) -> None:
    assert waits_at(stack, [stack], lines=lines) == ""


def test_who_stands_in_the_body_of_such_a_with_may_hold_the_lock() -> None:
    """Its line is where it is now, which may be further in."""
    waiting, holding = thread(2, number=1), thread(30, 4, number=2)

    said = waits_at(waiting, [waiting, holding, thread(17, number=3)], lines=lines)

    assert said == (
        "`with LOCK:` (shop.py line 2), perhaps held by thread processing 2, in shop.py line 30 (f30 -> as_completed)"
    )


def test_one_that_waits_for_a_lock_by_acquire_or_as_one_of_two_finds_its_holder() -> None:
    holding = thread(4, number=2)

    assert "thread processing 2, in" in waits_at(thread(12), [thread(12), holding], lines=lines)
    assert "thread processing 2, in" in waits_at(thread(33), [thread(33), holding], lines=lines)


def test_a_thread_may_stand_in_its_own_way() -> None:
    waiting = thread(2, 3)

    said = waits_at(waiting, [waiting, thread(2, number=2)], lines=lines)

    assert said == "`with LOCK:` (shop.py line 2), perhaps held by this thread itself, in shop.py line 3"


@pytest.mark.parametrize(
    "others",
    [
        [],
        [thread(2, number=2), thread(12, number=3)],  # they wait as well
        [thread(4, number=2), thread(8, number=3)],  # either of them
        [thread(17, number=2)],  # another lock
        [Stack(2, "processing 2", (Frame("/srv/shop/bank.py", 4, "f"),))],  # another file's
    ],
)
def test_where_nobody_or_more_than_one_may_hold_it_nobody_is_named(others: list[Stack]) -> None:
    waiting = thread(2)

    assert waits_at(waiting, [waiting, *others], lines=lines) == "`with LOCK:` (shop.py line 2)"


def test_who_waits_for_a_condition_has_let_go_of_its_lock() -> None:
    waiting = thread(*inside("__enter__"), 32)

    said = waits_at(waiting, [waiting, thread(*inside("wait"), 29, number=2)], lines=lines)

    assert said == "`with READY:` (shop.py line 32)"


@pytest.mark.parametrize("lock", ["lock", "ready"])
def test_an_objects_lock_may_be_held_in_another_method_of_its_class(lock: str) -> None:
    merges, opens = line_of(f"with self.{lock}:  # merges"), line_of(f"with self.{lock}:  # opens") + 1
    waiting = thread(merges)

    said = waits_at(waiting, [waiting, thread(opens, number=2)], lines=lines)

    assert said.startswith(
        f"`with self.{lock}:` (shop.py line {merges}), perhaps held by thread processing 2, in shop.py"
    )


@pytest.mark.parametrize(
    ("at", "within"),
    [
        ("self.lock:  # opens", "of the vault"),  # another class
        ("of the vault", "self.lock:  # opens"),
        ("self.connection:  # opens", "self.connection:  # merges"),  # no lock at all
        ("with lock:  # given", "given again"),  # each call has its own
    ],
)
def test_what_is_only_called_the_same_in_two_places_is_not_one_lock(at: str, within: str) -> None:
    line = next(n for n, text in enumerate(SHOP.splitlines(), 1) if at in text)
    waiting = thread(line)

    said = waits_at(waiting, [waiting, thread(line_of(within) + 1, number=2)], lines=lines)

    assert said.endswith(f" (shop.py line {line})"), said


def test_a_thread_that_has_the_lock_of_one_object_does_not_stand_in_its_own_way_at_that_of_another() -> None:
    waiting = thread(line_of("self.lock:  # opens"), line_of("self.lock:  # merges") + 1)

    assert waits_at(waiting, [waiting], lines=lines).endswith(f" (shop.py line {line_of('self.lock:  # opens')})")
