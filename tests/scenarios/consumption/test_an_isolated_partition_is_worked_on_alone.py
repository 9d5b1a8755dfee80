from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    from swarm import App, events
    from recording import note, record

    app = App("shop")

    @app.subscribe("ORDERS", virtual_partitions=None)
    def orders(messages):
        note("batch", messages.topic, messages.partition, len(messages))
        for message in messages:
            record(message)

    @app.each("MAILS")
    def mails(message):
        record(message)

    @app.on(events.PartitionsAssigned)
    def hears(event):
        note("heard")
"""


@pytest.mark.limit(240)  # it starts some dozens of commands
def test_an_isolated_partition_is_worked_on_alone(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """One worker, one thread, one message at a time, no listener; the group's own offsets, before and after; and not while others are in
    the group, unless one insists."""
    orders, mails = topic(partitions=3), topic()
    source = APP.replace("ORDERS", orders).replace("MAILS", mails)
    daemon = swarm_project(source, {"swarm": {"workers": 3}, "worker": {"concurrency": 4}})
    recording = Recording(daemon.folder)
    for partition in range(3):
        broker.produce(orders, [(None, str(number)) for number in range(20)], partition)
    broker.produce(mails, [(None, "1")])

    daemon.start("--isolate", f"{orders}/1").until_running()
    daemon.wait_for(lambda: len(recording.seen(orders)) == 20, what="the messages of the partition")
    [worker] = daemon.workers()
    shown = daemon.run("why", f"{orders}/0", "--json").stdout

    assert {partition for partition, _ in recording.seen(orders)} == {1}
    assert {each.offset for each in recording.all("batch")} == {1}  # as many messages in each
    assert not recording.seen(mails)
    assert not recording.all("heard")
    assert worker["health"] == "ok"
    assert "is paused by an operator" in shown
    beside = swarm_project(
        source, {"swarm": {"group_id": daemon.group}}, name="beside", folder=daemon.folder.with_name("beside")
    )
    Recording(beside.folder)
    refused = beside.run("start", "--isolate", f"{orders}/1")
    assert refused.returncode == 1
    assert f"group {daemon.group} has 1 member already" in refused.stderr
    assert daemon.stop() == 0
    assert broker.committed(daemon.group) == {
        (orders, 0): 0,
        (orders, 1): 20,
        (orders, 2): 0,
    }  # where they begin, and no further

    daemon.start().until_running()
    daemon.wait_for(lambda: len(recording.seen(orders)) == 60, what="everything else")
    assert recording.all("heard")
    assert daemon.stop() == 0
    assert broker.committed(daemon.group) == {(orders, 0): 20, (orders, 1): 20, (orders, 2): 20, (mails, 0): 1}
