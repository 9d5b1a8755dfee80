from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = """
    from swarm import App, Backoff
    from recording import record

    app = App("shop")

    def fail(message):
        record(message)
        raise ValueError("not yet")

    app.each("{hasty}", backoff=Backoff(initial=0.05, factor=1.0, maximum=0.05, jitter=0.0))(fail)
    app.each("{growing}", backoff=Backoff(initial=0.1, factor=2.0, maximum=0.8, jitter=0.0))(fail)
    app.each("{patient}", backoff=Backoff(initial=3.0, factor=1.0, maximum=3.0, jitter=0.0))(fail)
"""


def test_the_pauses_between_attempts_are_those_of_each_subscription_in_one_group(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """One retries twenty times while another waits; the pauses of a third grow up to their cap. None waits for another's."""
    names = {"hasty": topic(), "growing": topic(), "patient": topic()}
    daemon = swarm_project(APP.format(**names), {"swarm": {"workers": 1}, "worker": {"concurrency": 2}})
    daemon.expect_errors("consume_failed")
    recording = Recording(daemon.folder)
    for name in names.values():
        broker.produce(name, [(None, "x")])

    daemon.start()
    daemon.wait_for(
        lambda: len(recording.all(topic=names["patient"])) == 2, what="the second attempt of the patient one"
    )
    daemon.wait_for(lambda: len(recording.all(topic=names["growing"])) >= 6, what="six attempts of the one that grows")
    assert daemon.stop() == 0

    pauses = {
        kind: [later.at - earlier.at for earlier, later in pairwise(recording.all(topic=name))]
        for kind, name in names.items()
    }
    assert min(pauses["hasty"]) >= 0.05
    assert min(pauses["patient"]) >= 3.0
    for pause, least in zip(pauses["growing"], (0.1, 0.2, 0.4, 0.8, 0.8), strict=False):
        assert pause >= least
    began = {kind: recording.all(topic=name)[0].at for kind, name in names.items()}
    meanwhile = [each for each in recording.all(topic=names["hasty"]) if each.at < began["patient"] + 3.0]
    assert len(meanwhile) >= 20, "it waited for others"
    assert [each.attempt for each in recording.all(topic=names["growing"])][:6] == [1, 2, 3, 4, 5, 6]
