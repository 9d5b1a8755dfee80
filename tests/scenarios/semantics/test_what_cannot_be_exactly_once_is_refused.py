from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.daemon import Daemon

APP = """
    from swarm import App

    app = App("shop")

    @app.subscribe("orders", delivery="exactly_once")
    {handler}
        pass
"""


@pytest.mark.parametrize(
    ("handler", "kafka", "says"),
    [
        ("async def invoice(messages, consumer):", {}, ("invoice", "async", "plain def")),
        ("def invoice(messages, consumer):", {"acks": 1}, ("kafka.acks", "all", "swarm.toml")),
        (
            "def invoice(messages, consumer):",
            {"message.timeout.ms": 600000},
            ("kafka.message.timeout.ms", "transaction.timeout.ms", "transactional producer"),
        ),
        ("def invoice(messages, consumer):", {"transaction.timeout.ms": 9000}, ("invoice", "300 s", "300000")),
    ],
    ids=["async", "acks", "timeouts", "transaction timeout"],
)
def test_what_cannot_be_exactly_once_is_refused_before_any_worker_in_one_message(
    handler: str, kafka: dict[str, object], says: tuple[str, ...], swarm_project: Callable[..., Daemon]
) -> None:
    """By `check` and by `start`, whether the supervisor loads the app or each worker does; without a broker."""
    daemon = swarm_project(
        APP.format(handler=handler), {"kafka": kafka, "swarm": {"workers": 1}}, bootstrap="127.0.0.1:1"
    )

    done = [
        daemon.run("check"),
        daemon.run("start", "-o", "log.format=json"),
        daemon.run("start", "-o", "swarm.preload=false"),
    ]

    for each in done:
        assert each.returncode == 1, each.args
        assert each.stderr.count("\n") <= 2, each.stderr  # what, and how to mend it
        assert all(word in each.stderr for word in says), each.stderr
        assert "Traceback" not in each.stderr
        assert not each.stdout.startswith("ok")
