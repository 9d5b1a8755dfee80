"""The parent process: it forks the workers, watches them, and replaces the one that is not well.

Words. A worker's *index* (0 to N-1) is its number, kept over restarts; a *process* holds it for a while. To *terminate* is SIGTERM and
a deadline for draining; to *kill* is SIGKILL after it. A *fault* is a reason to replace a worker: it does not report, poll or get on
with its job, or uses too much memory; slow is none, and neither is a broker that is away.

A pass of the loop (`loop`): what happened (signals, exits by pidfd, requests) is folded into facts (`record`, from the `swarm.scoreboard`
that each worker writes); `policy.decide` says what to do about them; the loop carries it out (`processes`), takes backtraces first
(`backtraces`), keeps them (`incidents`), and shows the result (`status`, `control`, `notify`, `observer`). One thread, no Kafka client, and
no code of the application after the first fork: nothing in it can hang.
"""
