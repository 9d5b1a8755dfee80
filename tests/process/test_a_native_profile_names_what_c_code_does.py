"""`why WORKER --profile`, with py-spy: what a thread does below Python, where a backtrace shows one line whatever happens."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.daemon import Daemon

NO_BROKER = "127.0.0.1:1"

COMPUTES_AND_WAITS = """
    import threading, zlib
    from swarm import App

    app = App("shop")
    DATA = bytes(10_000_000)

    def compute():
        while True:
            zlib.crc32(DATA)

    def hang():
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()

    @app.after_fork
    def begin(index):
        threading.Thread(target=compute, name="checksums", daemon=True).start()
        threading.Thread(target=hang, name="till", daemon=True).start()

    @app.subscribe("orders")
    def handle(messages):
        pass
"""


def test_who_computes_and_who_waits_in_c_code_is_shown_by_function_and_costs_no_worker(
    swarm_project: Callable[..., Daemon],
) -> None:
    daemon = swarm_project(COMPUTES_AND_WAITS, {"swarm": {"workers": 1}}, bootstrap=NO_BROKER)
    daemon.start()
    daemon.wait_for(lambda: daemon.workers()[0]["report_age"] is not None, what="its worker")
    before = daemon.workers()[0]["pid"]

    shown = daemon.run("why", "0", "--profile", "2")

    native = shown.stdout.partition("native profile (py-spy, ")[2].splitlines()
    assert native, shown
    computing = native.index("  checksums") + 1
    assert "compute (app.py:" in native[computing], native
    assert "> zlib_crc32" in native[computing], native
    waiting = native.index("  till") + 1
    assert "100 %  " in native[waiting], native
    assert "hang (app.py:" in native[waiting], native
    assert "lock_PyThread_acquire_lock" in native[waiting], native
    assert daemon.workers()[0]["pid"] == before
    assert daemon.workers()[0]["restarts"] == 0
