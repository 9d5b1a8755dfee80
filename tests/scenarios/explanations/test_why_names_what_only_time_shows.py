from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from confluent_kafka import Producer

from tests.scenarios.doctor import ward
from tests.scenarios.supervision.explaining import mentioned, until
from tests.support.daemon import Daemon
from tests.support.kafka import Broker

APP = """
    import time
    from swarm import App

    app = App("shop")
    kept = []

    @app.each("{unmarked}", offsets="manual")
    def forgets(message, consumer):
        pass  # and never says what is done

    @app.each("{slow}", max_messages=10)
    def slow(message):
        time.sleep(0.1)  # ten a second, where a hundred come

    @app.subscribe("{filling}", max_messages=100, max_wait=300.0)
    def fills(messages):
        pass

    @app.each("{hidden}")
    def hidden(message):
        pass

    @app.each("{fat}")
    def fat(message):
        kept.append(b"x" * (930 << 20))
"""


@pytest.mark.limit(240)  # two of them are only seen after a while
def test_why_names_what_is_seen_only_over_time(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon]
) -> None:
    """Work that is never marked, a lag that grows, a batch that fills, a worker near its memory limit, and a transaction that somebody
    left open, whatever is written behind it: neither is a slow handler to blame for that, nor whoever holds the partition."""
    names = {name: topic() for name in ("unmarked", "slow", "filling", "fat", "hidden")}
    daemon = swarm_project(
        APP.format(**names),
        {
            "swarm": {"workers": 1},
            "worker": {"commit_interval": 0.2, "concurrency": 6},
            "supervision": {"memory_limit": "1000MiB", "memory_kill": "4GiB", "check_interval": 0.2},
        },
    )
    daemon.start().until_running()
    for name in ("unmarked", "filling", "fat"):
        broker.produce(names[name], [(None, "x")] * 5 if name != "fat" else [(None, "x")])

    left = Producer({"bootstrap.servers": broker.direct, "transactional.id": names["hidden"], "log_level": 2})
    left.init_transactions(30.0)
    left.begin_transaction()
    left.produce(names["hidden"], b"x", timestamp=ward.now_ms() - 61_000)
    left.flush(30.0)

    done = threading.Event()

    def pour() -> None:
        while not done.wait(0.5):
            broker.produce(names["slow"], [(None, "x")] * 50)
            broker.produce(names["hidden"], [(None, "x")] * 5)

    pouring = threading.Thread(target=pour)
    pouring.start()
    try:
        filling = until(daemon, "gathering", f"{names['filling']}/0")
        near = mentioned(daemon, "near_memory_limit", "0")
        behind = until(daemon, "falls_behind", f"{names['slow']}/0", within=60)
        still = until(daemon, "still", f"{names['unmarked']}/0", within=60)
        withheld = until(daemon, "withheld", f"{names['hidden']}/0", within=60)
        found = ward.examine(daemon)
        lag = daemon.run("lag", "--json").stdout
    finally:
        done.set()
        pouring.join()
        left.abort_transaction(30.0)
    assert daemon.stop() == 0

    assert "its batch is filling (max_wait)" in filling["verdict"]
    assert "of its memory_limit of 1,000 MiB" in near["text"]
    assert "messages/s are done" in behind["verdict"]
    assert "does not mark what it has done" in still["verdict"]
    assert "a producer's open transaction hides the" in withheld["verdict"]
    assert "open_transaction" in found.rules
    assert not [
        each for each in found.findings if each["rule"] == "partition_stuck" and names["hidden"] in each["what"]
    ]
    assert "more behind an open transaction" in lag
