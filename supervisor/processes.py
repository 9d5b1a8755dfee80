"""Forking, signalling and reaping: the only module that calls fork, kill and wait. Decides nothing.

Linux only: pidfds (5.3, pidfd_open(2)), PR_SET_PDEATHSIG, signalfd-like wakeups through `signal.set_wakeup_fd`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from swarm.exits import signal_name

if TYPE_CHECKING:
    from swarm.app import App
    from swarm.config import Loaded
    from swarm.debugging import Debug
    from swarm.logs import Log
    from swarm.scoreboard import Bulletin, Scoreboard

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_libc = ctypes.CDLL(None, use_errno=True)

HANDLED: Final = frozenset(
    {
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGHUP,
        signal.SIGTSTP,
        signal.SIGCONT,
        signal.SIGTTIN,
        signal.SIGTTOU,
        signal.SIGCHLD,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGALRM,
        signal.SIGWINCH,
    }
)
"""Blocked around a fork, until the child has handlers and a wakeup descriptor of its own."""

_IGNORED_BY_CHILDREN: Final = (
    signal.SIGINT,
    signal.SIGTSTP,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGTTOU,
    signal.SIGPIPE,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
)
"""A terminal sends INT, TSTP, HUP and QUIT to the whole foreground group: what they mean is the supervisor's to say."""


def load_children() -> None:
    """Import, before the first fork, all that a child will run: a package upgraded on disk must not meet itself half loaded, a
    fork that imports nothing is ready sooner, and what was loaded once is shared by all. Importing confluent_kafka starts no thread.
    """
    import faulthandler  # noqa: F401

    import setproctitle  # noqa: F401

    import swarm.admin
    import swarm.debugging
    import swarm.supervisor.exposition
    import swarm.supervisor.observer
    import swarm.supervisor.page
    import swarm.worker  # noqa: F401


@dataclass(slots=True)
class Process:
    """A child of ours that has not been reaped."""

    pid: int
    pidfd: int
    """-1 once it is closed: the kernel gives the number to the next descriptor, which may be that of another process."""
    channel: socket.socket | None = None

    def close(self) -> None:
        """Close what we hold of it; after it was reaped."""
        os.close(self.pidfd)
        self.pidfd = -1
        if self.channel is not None:
            self.channel.close()


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: exactly one of `code` and `signal` is set."""

    code: int | None
    signal: str | None


def send(process: Process, number: signal.Signals) -> bool:
    """Signal a process through its pidfd, which can never mean another process. False: it has ended."""
    if process.pidfd < 0:
        return False
    try:
        signal.pidfd_send_signal(process.pidfd, number)
    except ProcessLookupError:
        return False
    return True


def reap(process: Process) -> Exit | None:
    """The exit of a process that has ended; None while it lives. Does not block."""
    try:
        result = os.waitid(os.P_PIDFD, process.pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return Exit(None, "SIGKILL")  # somebody else reaped it: all that is known is that it is gone
    if result is None:
        return None
    if result.si_code == os.CLD_EXITED:
        return Exit(result.si_status, None)
    return Exit(None, signal_name(result.si_status))


def end(process: Process) -> None:
    """SIGKILL and reap, for a process of which nobody needs to know how it ended. Blocks until the kernel has ended it."""
    send(process, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, process.pidfd, os.WEXITED)


def reap_strangers(ours: Iterable[int]) -> int:
    """As PID 1 (a container): reap what we inherited; our own children are left to `reap`. Returns how many there were."""
    known = set(ours)
    count = 0
    while True:
        try:
            seen = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return count
        if seen is None or seen.si_pid in known:
            return count  # ours stands first in the queue: it is reaped through its pidfd, and we are called again
        with contextlib.suppress(ChildProcessError):
            os.waitpid(seen.si_pid, os.WNOHANG)
        count += 1


def own_threads() -> int:
    """Threads of this process: forking is safe only with one."""
    return len(os.listdir("/proc/self/task"))


def fork_worker(
    index: int,
    loaded: Loaded,
    app: App | None,
    board: Scoreboard,
    log: Callable[[], Log],
    dump_fd: int,
    close: Sequence[int],
    suspects: list[dict[str, Any]],
    pauses: list[dict[str, Any]],
    state_dir: Path,
    debug: Debug | None = None,
) -> Process:
    """Fork a worker. `suspects`, `pauses`: what it has to know of messages that may kill it, and of partitions that are paused. `debug`: what its clients shall tell. `close` names descriptors of the supervisor that the child must not hold; raises OSError (EAGAIN, ENOMEM)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    theirs.setblocking(False)
    parent = os.getpid()

    def be_worker() -> int:
        from swarm.worker import Birth, run

        ours.close()
        signal_fd = _become_child(close, dump_fd)
        return run(
            Birth(
                index, loaded, app, board, theirs, parent, log(), suspects, pauses, state_dir, signal_fd, dump_fd, debug
            )
        )

    pid = _fork(be_worker)
    theirs.close()
    return Process(pid, _watch(pid), ours)


def fork_observer(
    loaded: Loaded,
    boards: Sequence[Scoreboard],
    bulletin: Bulletin,
    dump_fd: int,
    close: Sequence[int],
    metrics_dir: Path,
) -> Process:
    """Fork the observer; what it announces comes through the channel as JSON."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    parent = os.getpid()

    def be_observer() -> int:
        import setproctitle

        from swarm.supervisor.observer import run

        ours.close()
        _become_child(close, dump_fd, wakeup=False)
        _die_with_parent(parent)
        settings = loaded.settings
        setproctitle.setproctitle(f"swarm: {settings.swarm.name} [observer]")

        def announce(what: dict[str, object]) -> None:
            with contextlib.suppress(OSError):
                theirs.send(json.dumps(what).encode())

        host, port = settings.observer.host, settings.observer.port
        return run(host, port, boards, bulletin, announce=announce, metrics_dir=metrics_dir)

    pid = _fork(be_observer)
    theirs.close()
    return Process(pid, _watch(pid), ours)


def end_group(process: Process) -> None:
    """SIGKILL and reap a process that leads a group of its own, and end all that is in it. Blocks until the kernel has ended it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # the leader is not reaped, so the number is still its own
    end(process)


def spawn(command: Sequence[str], environment: Mapping[str, str], out: int, more: int) -> Process:
    """Start a program that reads nothing, writes into `out`, and has `more` as descriptor 3; raises OSError. It leads a group of its own:
    what a terminal sends to ours does not concern it."""
    null = os.open(os.devnull, os.O_RDONLY)
    try:
        pid = os.posix_spawn(
            command[0],
            list(command),
            dict(environment),
            file_actions=[
                (os.POSIX_SPAWN_DUP2, null, 0),
                (os.POSIX_SPAWN_DUP2, out, 1),
                (os.POSIX_SPAWN_DUP2, out, 2),
                (os.POSIX_SPAWN_DUP2, more, 3),
            ],
            setpgroup=0,
            setsigmask=[],
            setsigdef=HANDLED,
        )
    finally:
        os.close(null)
    return Process(pid, _watch(pid))


def adopt(pid: int, channel: int | None) -> Process | None:
    """A child of ours from before this process executed itself anew, dead or alive; None where it was reaped by an application's code."""
    sock = socket.socket(fileno=channel) if channel is not None else None
    try:
        pidfd = _watch(pid)
    except OSError:
        if sock is not None:
            sock.close()
        return None
    if sock is not None:
        sock.setblocking(False)
    return Process(pid, pidfd, sock)


def block_signals() -> None:
    """Let signals wait: for their handlers in the program that this process is about to execute, or for `unblock_signals`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)


def unblock_signals() -> None:
    """After the handlers are installed: let in what was blocked while this process executed itself anew."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)


def _watch(pid: int) -> int:
    """A pidfd of a child; where there is none (EMFILE), the child ends: nobody could supervise it. Raises OSError."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def fork_helper(
    title: str, body: Callable[[socket.socket], int], dump_fd: int, close: Sequence[int], *, brief: bool = False
) -> Process:
    """Fork a child that does something for the supervisor; `body` gets its end of the channel. brief: it ends with the supervisor, at once, and
    prints nothing; else it sees by the channel's end that the supervisor has gone."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    parent = os.getpid()

    def be_helper() -> int:
        import setproctitle

        ours.close()
        _become_child(close, dump_fd, wakeup=False)
        if brief:
            _die_with_parent(parent)
            for number in (1, 2):
                os.dup2(0, number)
        setproctitle.setproctitle(f"swarm: {title}")
        return body(theirs)

    pid = _fork(be_helper)
    theirs.close()
    return Process(pid, _watch(pid), ours)


def _fork(body: Callable[[], int]) -> int:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    try:
        pid = os.fork()
    except BaseException:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return pid
    code = 1
    try:
        code = body()
    except BaseException:
        traceback.print_exc()
    finally:
        from swarm.worker import flush_and_exit

        flush_and_exit(code)
    raise AssertionError("unreachable")


def _become_child(close: Sequence[int], dump_fd: int, *, wakeup: bool = True) -> int:
    """Leave everything of the supervisor's behind; returns the descriptor that signals make readable."""
    import faulthandler

    signal.set_wakeup_fd(-1)
    for fd in close:
        with contextlib.suppress(OSError):
            os.close(fd)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    # Inherited as registered: to register it again would change the file but not install the handler anew.
    faulthandler.unregister(signal.SIGTTIN)
    for number in HANDLED - set(_IGNORED_BY_CHILDREN):
        signal.signal(number, signal.SIG_DFL)
    for number in _IGNORED_BY_CHILDREN:
        signal.signal(number, signal.SIG_IGN)
    # In C, so that it answers while native code holds the GIL; into a memfd, which never fills up as a pipe would.
    faulthandler.register(signal.SIGTTIN, file=dump_fd, all_threads=True, chain=False)
    faulthandler.enable(file=dump_fd, all_threads=True)
    read_fd = -1
    if wakeup:
        signal.signal(signal.SIGTERM, lambda *_: None)
        read_fd, write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
    return read_fd


def _die_with_parent(parent: int) -> None:
    """SIGTERM when the parent ends (prctl(2)); at once if it has ended already."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def become_subreaper() -> None:
    """Inherit orphaned grandchildren, as PID 1 does (prctl(2)), so that nothing an app spawns is left unreaped."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def in_child(body: Callable[[], Any], timeout: float) -> Any:
    """Run `body` in a short-lived child and return its JSON-able result: for what must not happen in this process.

    Raises TimeoutError (the child is killed), RuntimeError with the child's error text.
    """
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()

    def child() -> int:
        os.close(read_fd)
        for number in HANDLED:
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        _die_with_parent(parent)
        try:
            answer = {"result": body()}
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        # Where the code of the application handles SIGTERM, the child outlives who asked: then there is nobody to tell.
        with contextlib.suppress(BrokenPipeError), os.fdopen(write_fd, "w") as stream:
            json.dump(answer, stream)
        return 0

    pid = _fork(child)
    os.close(write_fd)
    data = b""
    deadline = time.monotonic() + timeout
    try:
        poll = select.poll()
        poll.register(read_fd, select.POLLIN)
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                os.kill(pid, signal.SIGKILL)
                raise TimeoutError(f"no answer within {timeout:g} s")
            chunk = os.read(read_fd, 65536)
            if not chunk:
                break
            data += chunk
    finally:
        os.close(read_fd)
        os.waitpid(pid, 0)
    if not data:
        raise RuntimeError("the child ended without an answer")
    answer = json.loads(data)
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer["result"]
