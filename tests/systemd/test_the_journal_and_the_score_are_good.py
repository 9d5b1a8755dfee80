from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.support.kafka import Broker
from tests.support.service import Service

APP = """
    import logging

    @app.each("TOPIC")
    def handle(message):
        logging.warning("odd")
        if message.attempt == 1:
            raise ValueError("bad")
        saw(message)
"""
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3}
WORST_SCORE = 2.0


def test_the_journal_knows_the_level_of_each_line(
    broker: Broker, topic: Callable[..., str], service: Callable[..., Service]
) -> None:
    """`journalctl -p err` shows the errors and nothing else; the lines themselves carry no mark of it."""
    orders = topic()
    shop = service(APP.replace("TOPIC", orders), {"log": {"level": "debug"}})
    shop.systemctl("start")
    broker.produce(orders, [(None, "bad")])
    shop.wait_for(shop.seen, "the message to be handled at its second attempt")
    shop.systemctl("stop")

    lines = shop.log()
    assert {line["level"] for line in lines} == set(PRIORITIES)
    assert [line for line in lines if line["PRIORITY"] != PRIORITIES[line["level"]]] == []
    assert [line["event"] for line in shop.log("-p", "err")] == ["consume_failed"]


def test_the_unit_is_not_exposed_more_than_it_must_be(
    service: Callable[..., Service], capsys: pytest.CaptureFixture[str]
) -> None:
    """`systemd-analyze security`, of the unit as systemd has loaded it: 0 is best, 10 worst."""
    shop = service(APP)

    table = shop.machine.run("systemd-analyze", "security", "--no-pager", shop.unit)

    open_points = [line for line in table.splitlines() if line.startswith("✗")]
    with capsys.disabled():
        print("\n" + "\n".join([*open_points, table.splitlines()[-1]]))
    score = re.search(r"exposure level for .*: ([0-9.]+)", table)
    assert score is not None
    assert float(score[1]) <= WORST_SCORE
