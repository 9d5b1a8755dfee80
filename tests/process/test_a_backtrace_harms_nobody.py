"""A backtrace is written by the process itself while its threads stand; the signal, which reads them while they run, is for what is stuck."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.daemon import Daemon

NO_BROKER = "127.0.0.1:1"

# Twenty threads compute; the signal is ignored, so that whatever is shown was written without it.
BUSY = """
    import faulthandler, signal, threading
    from swarm import App

    app = App("shop")

    def compute():
        while True:
            sum(number * number for number in range(1000))

    @app.after_fork
    def begin(index):
        faulthandler.unregister(signal.SIGTTIN)
        signal.signal(signal.SIGTTIN, signal.SIG_IGN)
        for number in range(20):
            threading.Thread(target=compute, name=f"warehouse {number}", daemon=True).start()

    @app.subscribe("orders")
    def handle(messages):
        pass
"""


def test_a_busy_process_is_shown_with_its_threads_names_and_profiled_without_a_signal(
    swarm_project: Callable[..., Daemon],
) -> None:
    daemon = swarm_project(BUSY, {"swarm": {"workers": 1}}, bootstrap=NO_BROKER)
    daemon.start()
    daemon.wait_for(lambda: daemon.workers()[0]["report_age"] is not None, what="its worker")
    daemon.wait_for(
        lambda: "warehouse" in daemon.run("backtrace", "0").stdout,
        what="the names that the application gave its threads",
    )

    shown = daemon.run("backtrace", "0")
    profile = daemon.run("why", "0", "--profile", "1")

    assert shown.stdout.count("in compute") >= 20, shown
    assert all(f'"warehouse {number}"' in shown.stdout for number in range(20)), shown
    assert "compute" in profile.stdout, profile
    assert daemon.workers()[0]["restarts"] == 0
