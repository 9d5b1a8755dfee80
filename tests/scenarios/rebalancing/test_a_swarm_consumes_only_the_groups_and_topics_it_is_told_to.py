from __future__ import annotations

from collections.abc import Callable

from tests.scenarios.rebalancing.ledger import HANDLER
from tests.support.daemon import Daemon
from tests.support.kafka import Broker
from tests.support.recording import Recording

APP = (
    HANDLER
    + """
    app.subscribe("ORDERS", "CLICKS", group="GROUP-shop")(Noted)
    app.subscribe("ORDERS", group="GROUP-billing")(Noted)
"""
)


def test_options_choose_among_the_groups_and_topics_of_an_app_and_a_slip_is_refused(
    broker: Broker, topic: Callable[..., str], group: str, swarm_project: Callable[..., Daemon]
) -> None:
    """The settings file says one thing, the command line the other; the others' groups are not even joined."""
    orders, clicks = topic(), topic()
    for name in (orders, clicks):
        broker.produce(name, [(None, str(number)) for number in range(10)])
    daemon = swarm_project(
        APP.replace("ORDERS", orders).replace("CLICKS", clicks).replace("GROUP", group),
        {"swarm": {"workers": 1, "exclude_groups": [f"{group}-b*"]}},
    )
    recording = Recording(daemon.folder)

    refused = daemon.run("check", "--exclude-topic", "oders")
    assert refused.returncode == 1
    assert "the app has no topics oders (--exclude-topic)" in refused.stderr

    daemon.start("--exclude-topic", clicks).until_running()
    daemon.wait_for(lambda: len(recording.all()) == 10, what="what is left")
    assert daemon.status()["groups"] == [f"{group}-shop"]
    assert daemon.stop() == 0

    assert recording.offsets(orders) == {0: [*range(10)]}
    assert broker.committed(f"{group}-shop") == {(orders, 0): 10}
    assert broker.committed(f"{group}-billing") == {}


def test_what_is_included_on_the_command_line_is_all_there_is(
    broker: Broker, topic: Callable[..., str], group: str, swarm_project: Callable[..., Daemon]
) -> None:
    """`--include-group` and `--include-topic` leave out what they do not name; `--exclude-group` goes before them."""
    orders, clicks = topic(), topic()
    for name in (orders, clicks):
        broker.produce(name, [(None, str(number)) for number in range(10)])
    daemon = swarm_project(
        APP.replace("ORDERS", orders).replace("CLICKS", clicks).replace("GROUP", group), {"swarm": {"workers": 1}}
    )
    recording = Recording(daemon.folder)

    daemon.start("--include-group", f"{group}-*", "--exclude-group", f"{group}-b*", "--include-topic", clicks)
    daemon.until_running()
    daemon.wait_for(lambda: len(recording.all()) == 10, what="what is included")
    assert daemon.status()["groups"] == [f"{group}-shop"]
    assert daemon.stop() == 0

    assert recording.offsets(clicks) == {0: [*range(10)]}
    assert recording.offsets(orders) == {}
    assert broker.committed(f"{group}-shop") == {(clicks, 0): 10}
