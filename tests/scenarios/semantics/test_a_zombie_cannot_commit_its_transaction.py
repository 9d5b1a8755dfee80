from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    import os
    import time
    from pathlib import Path
    from swarm import App
    from recording import note, record

    app = App("shop")
    here = Path(__file__).parent

    @app.subscribe("{orders}", delivery="exactly_once")
    def invoice(messages, consumer):
        for message in messages:
            record(message)
            consumer.producer.produce("{invoices}", value=message.raw)
        if not (here / "zombie").exists():
            (here / "zombie").write_text(str(os.getpid()))
            time.sleep(0.1)  # what was produced is on its way
            note("middle")
            while not (here / "go on").exists():
                time.sleep(0.02)
"""


def test_a_zombie_cannot_commit_its_transaction_once_its_successor_has_begun(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """A worker is frozen in the middle of a run and its supervisor killed; the next daemon of that name does the work; then the old
    worker goes on, and nothing of its run happens: no output and no offset."""
    orders, invoices = topic(), topic()
    daemon = swarm_project(APP.format(orders=orders, invoices=invoices), {"swarm": {"workers": 1}})
    recording = Recording(daemon.folder)
    broker.produce(orders, [(None, str(number)) for number in range(20)])
    daemon.start()
    daemon.wait_for(lambda: recording.all("middle"), what="the middle of a run")
    zombie = recording.all("middle")[0].pid

    os.kill(zombie, signal.SIGSTOP)
    daemon.signal(signal.SIGKILL)
    daemon.wait_for(lambda: daemon.exit_code is not None, what="the supervisor's end")
    daemon.start()
    daemon.wait_for(lambda: broker.committed(daemon.group) == {(orders, 0): 20}, what="the successor's commit")
    (daemon.folder / "go on").touch()
    os.kill(zombie, signal.SIGCONT)
    aborted, *_ = daemon.wait_for_event("transaction_aborted", pid=zombie)
    daemon.wait_for(lambda: not Path(f"/proc/{zombie}").exists(), what="the zombie's end")
    broker.produce(orders, [(None, "20")])
    daemon.wait_for(lambda: broker.committed(daemon.group) == {(orders, 0): 21}, what="the last commit")
    assert daemon.stop() == 0

    outputs = [message.value() for message in broker.read_all(invoices, read_committed=True)]
    assert outputs == [str(number).encode() for number in range(21)]
    # By the successor's producer of the same id, or by the group, if that one was not registered yet: whoever is asked first.
    assert "fenced" in aborted["error"].lower()
    assert len(broker.read_all(invoices)) > 21, "the zombie had not produced anything, so nothing was proved"
    assert {each.pid for each in recording.all(offset=0)} > {zombie}
