from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.kafka import Broker
from tests.support.service import Service

# The message is a glutton once only: the point here is the unit, not the message.
APP = """
    @app.each("TOPIC")
    def handle(message):
        if message.raw == b"eat" and not os.path.exists(f"{STATE}/eaten"):
            open(f"{STATE}/eaten", "w").close()
            held = []
            while True:
                held.append(b"x" * (16 << 20))
        saw(message)
"""


def test_the_kernel_kills_a_worker_for_its_memory_and_the_unit_stays(
    broker: Broker, topic: Callable[..., str], service: Callable[..., Service]
) -> None:
    """MemoryMax= of the unit: one worker dies and is replaced, with the cause in words; supervisor, unit and messages stay."""
    orders = topic(partitions=2)
    off = {"supervision": {"memory_limit": 0, "memory_kill": 0}}  # the kernel shall be the first to act
    shop = service(APP.replace("TOPIC", orders), off, unit="MemoryMax=500M\nMemorySwapMax=0")
    if not shop.machine.control_memory():
        pytest.skip("the systemd in the machine may not limit memory here")
    shop.systemctl("start")
    before, pid = shop.until_running(), shop.main_pid

    for number in range(2):
        broker.produce(orders, [(None, "eat" if number == n == 0 else "small") for n in range(10)], number)
    [exited] = shop.wait_for(lambda: shop.events("worker_exited"), "a worker to be killed")

    assert (exited["signal"], exited["reason"]) == ("SIGKILL", "killed")
    assert "by the kernel for its memory" in exited["detail"]
    shop.wait_for(
        lambda: set(shop.seen()) == {(p, n) for p in range(2) for n in range(10)}, "every message to be handled"
    )
    after = shop.until_running()
    assert len(set(before) & set(after)) == 1
    assert (shop.show("ActiveState"), shop.show("NRestarts"), shop.main_pid) == ("active", "0", pid)
