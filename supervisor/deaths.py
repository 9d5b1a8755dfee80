"""Why a worker died: its exit put together with what was known of it. Pure, but that it reads the scoreboard it has left behind."""

from __future__ import annotations

from swarm import exits
from swarm.supervisor.policy import Reason
from swarm.supervisor.processes import Exit
from swarm.supervisor.record import Worker


def own_fault(worker: Worker, exit_: Exit, reason: Reason) -> bool:
    """Whether what was in hand may be why it died: never a kill from outside, nor an end that was asked for."""
    if reason in ("consume_timeout", "memory_kill"):
        return True
    if worker.reason is not None:
        return False
    if exit_.code is None:
        return exit_.signal in exits.OWN_FAULTS
    # An exit out of user code, with whatever code: whoever goes in good order has no job in hand, and the runtime says why it gives up.
    return not (exit_.code in (exits.BOOT_ERROR, exits.THREAD_DIED) and worker.board.error)


def explain(worker: Worker, exit_: Exit, *, out_of_memory: bool) -> tuple[Reason, str]:
    """The reason of `last_exit`, and what it was in words. out_of_memory: the cgroup has counted a kill that nothing else explains."""
    words = exits.in_words(exit_.code, exit_.signal)
    if out_of_memory:
        words = "killed by the kernel for its memory (the cgroup's memory.events counts it)"
    error = worker.board.error
    if worker.reason is not None:
        if exit_.signal == "SIGKILL" and worker.killed:
            return worker.reason, "killed by the supervisor"
        if exit_.code == exits.HELD_UP and error:
            return worker.reason, error.splitlines()[0]
        return worker.reason, "stopped by the supervisor" + (f"; {words}" if exit_.code != 0 else "")
    if exit_.signal is not None:
        return "killed", words
    match exit_.code:
        case exits.SMOOTH if worker.board.state != "stopped":
            return "finished", "exited with code 0 in the middle of its work: os._exit in the application?"
        case exits.SMOOTH:
            return "finished", words
        case exits.ORPHANED if worker.board.state == "stopped":
            return "orphaned", words
        case exits.ORPHANED:
            return (
                "crashed",
                f"exited with code {exit_.code} in the middle of its work: os._exit in the application?",
            )
        case exits.BOOT_ERROR if error:
            return "boot_error", error.splitlines()[0]
        case exits.THREAD_DIED if error:
            return "crashed", error.splitlines()[0]
        case _:
            return "crashed", words
