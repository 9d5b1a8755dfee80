"""Loading an application: its author's mistakes are one readable error each, with the author's own frames only."""

from __future__ import annotations

import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from swarm import App, Consumer, Message, Messages, VirtualPartitions
from swarm.config import Settings
from swarm.config.schema import SupervisionSection
from swarm.errors import AppError, ConfigurationError
from swarm.loading import app_problems, foreign_threads, load_app, refuse_threads

Write = Callable[[str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes the module `loaded`, which is forgotten afterwards."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def module(source: str) -> None:
        (tmp_path / "loaded.py").write_text(textwrap.dedent(source))

    yield module
    sys.modules.pop("loaded", None)


def test_an_app_is_found_in_the_directory_of_its_settings(tmp_path: Path, write: Write) -> None:
    """Which is first on sys.path, before a package of the same name."""
    write('from swarm import App\nclass ns:\n    app = App("shop")')

    assert load_app("loaded:ns.app", tmp_path).name == "shop"
    assert sys.path[0] == str(tmp_path)


@pytest.mark.parametrize(
    ("spec", "source", "says"),
    [
        ("loaded", "", "expected module:attribute"),
        ("nowhere:app", "", "there is no module 'nowhere'"),
        ("loaded:app", "import nowhere_either", "does not import: No module named 'nowhere_either'"),
        ("loaded:app", "from swarm import App\nshop = App('shop')", "It has: shop"),
        ("loaded:app", "x = 1", "It has no App at all"),
        ("loaded:app", "app = 5", "is a int, not a swarm.App"),
        ("loaded:app", "raise SystemExit('bye')", "SystemExit: bye"),
        ("loaded:app", "def broken(:", "SyntaxError"),
        ("loaded:app", "from swarm import App\nApp('s').subscribe('t', max_mesages=1)", "Did you mean max_messages"),
    ],
)
def test_what_does_not_load_says_why(tmp_path: Path, write: Write, spec: str, source: str, says: str) -> None:
    """SystemExit included: an import must not end the daemon."""
    write(source)

    with pytest.raises(AppError) as refused:
        load_app(spec, tmp_path)

    assert says in str(refused.value)
    assert str(refused.value).count("\n") < 6


def test_an_exception_shows_the_application_s_frames_only(tmp_path: Path, write: Write) -> None:
    """Neither ours nor importlib's; the innermost last."""
    write(
        """
        def deep():
            raise KeyError("DATABASE_URL")
        deep()
        """
    )

    with pytest.raises(AppError, match="KeyError") as refused:
        load_app("loaded:app", tmp_path)

    frames = [line for line in refused.value.frames.splitlines() if line.strip().startswith("File")]
    assert len(frames) == 2
    assert all("loaded.py" in frame for frame in frames)


def test_all_problems_of_an_app_are_told_at_once() -> None:
    """Two subscriptions to one topic, differing properties of one group's client, and a handler that could never mark."""
    app = App("shop")

    @app.subscribe("orders", kafka={"fetch.min.bytes": 1})
    class Orders(Consumer):
        def consume(self, messages: Messages) -> None: ...

    @app.subscribe("orders", "clicks", kafka={"fetch.min.bytes": 2})
    def again(messages: Messages) -> None: ...

    @app.subscribe("refunds", offsets="manual")
    def unmarked(messages: Messages) -> None: ...

    app.subscribe("orders", group="another")(again)
    problems = [what for _, what, fix in app_problems(app, None) if fix]

    assert len(problems) == 3
    assert "orders is subscribed twice in group shop" in problems[0]
    assert "differ in kafka=" in problems[1]
    assert "nothing could ever be marked" in problems[2]
    assert [what for _, what, _ in app_problems(App("empty"), None)] == [
        "it has no subscription, so there is nothing to consume"
    ]


def test_threads_that_would_not_survive_the_fork_are_named() -> None:
    """With the way out; without them nothing is said."""
    gate = threading.Event()
    before = foreign_threads()
    thread = threading.Thread(target=gate.wait, args=(30.0,), name="metrics flusher")
    thread.start()
    try:
        # One of those that other tests' clients leave behind may end meanwhile.
        assert Counter(foreign_threads()) - Counter(before) == Counter(["metrics flusher"])
        with pytest.raises(AppError) as refused:
            refuse_threads()
    finally:
        gate.set()
        thread.join()

    assert "metrics flusher" in str(refused.value)
    assert "after_fork" in str(refused.value)
    assert "preload = false" in str(refused.value)


def exactly_once(app: App, topic: str = "orders", **options: Any) -> None:
    """A subscription that is in order."""

    @app.subscribe(topic, delivery="exactly_once", **options)
    def invoice(messages: Messages, consumer: Consumer) -> None: ...


def problems(app: App, kafka: dict[str, Any] | None = None, consume_timeout: float = 300.0) -> list[str]:
    """What and fix of all problems of an app with these settings."""
    settings = Settings(
        kafka=kafka or {}, supervision=SupervisionSection.model_validate({"consume_timeout": consume_timeout})
    )
    return [f"{where}: {what}. {fix}" for where, what, fix in app_problems(app, None, settings)]


def test_what_an_exactly_once_subscription_needs_is_said_in_one_message_each() -> None:
    """An async handler, and a function that could produce nothing; a class and a function of two parameters are in order."""
    app = App("shop")

    @app.subscribe("clicks", delivery="exactly_once")
    async def click(messages: Messages, consumer: Consumer) -> None: ...

    @app.each("emails", delivery="exactly_once", offsets="manual")
    def email(message: Message) -> None: ...

    @app.subscribe("orders", delivery="exactly_once")
    class Orders(Consumer):
        def consume(self, messages: Messages) -> None: ...

    exactly_once(app, "refunds")
    found = problems(app)

    assert len(found) == 2
    assert "async handler" in found[0]
    assert "plain def" in found[0]
    assert "second parameter" in found[1]


def test_exactly_once_beside_virtual_partitions_is_refused_where_it_is_written() -> None:
    """As the long and as the short form."""
    for option in ({"virtual_partitions": VirtualPartitions()}, {"concurrency_key": "key"}):
        with pytest.raises(ConfigurationError, match="exclude each other"):
            exactly_once(App("shop"), **option)


@pytest.mark.parametrize("options", [{"kafka": {"fetch.min.bytes": 2}}, {"delivery": "at_most_once"}])
def test_subscriptions_of_one_group_that_differ_in_what_its_client_does_are_refused(options: dict[str, Any]) -> None:
    """A worker has one client for a group; one of a group of its own may differ."""

    def declared(**group: str) -> App:
        app = App("shop")
        exactly_once(app, kafka={"fetch.min.bytes": 1})
        merged: dict[str, Any] = {"delivery": "exactly_once", **options, **group}

        @app.subscribe("clicks", **merged)
        def click(messages: Messages, consumer: Consumer) -> None: ...

        return app

    (name,) = options
    (found,) = problems(declared())
    assert f"differ in {name}=" in found
    assert "group=" in found
    assert problems(declared(group="another")) == []


@pytest.mark.parametrize(
    ("kafka", "options", "says"),
    [
        ({"transaction.timeout.ms": 60000}, {}, "shorter than a job may run (300 s"),
        ({"transaction.timeout.ms": "60000"}, {}, "shorter than a job may run (300 s"),
        ({"transaction.timeout.ms": 60000}, {"consume_timeout": 50.0}, ""),
        ({"transaction.timeout.ms": 60000}, {"long_running": True}, ""),
        ({"transaction.timeout.ms": 300000}, {}, ""),
        ({"transaction.timeout.ms": "a minute"}, {}, ""),  # librdkafka says that
        ({}, {"consume_timeout": 3600.0}, "transaction.max.timeout.ms"),
        ({"transaction.timeout.ms": 3600000}, {"consume_timeout": 3600.0}, ""),
        ({"isolation.level": "read_uncommitted"}, {}, "Leave isolation.level out"),
        ({}, {"kafka": {"isolation.level": "read_uncommitted"}}, "Leave isolation.level out"),
        ({"isolation.level": "read_uncommitted"}, {"kafka": {"isolation.level": "read_committed"}}, ""),
    ],
)
def test_properties_that_would_break_exactly_once_are_refused_with_the_mend(
    kafka: dict[str, Any], options: dict[str, Any], says: str
) -> None:
    """A transaction has to outlive its job, and input of transactions that never happened must not be handled; at-least-once may."""
    app, other = App("shop"), App("shop")
    exactly_once(app, **options)
    other.subscribe("orders", **options)(print)

    found = problems(app, kafka)

    assert bool(found) == bool(says), found
    assert all(says in each for each in found)
    assert len(found) <= 1
    assert problems(other, kafka) == []


@pytest.mark.parametrize(("traces", "missing"), [("off", False), ("otlp", True), ("app", True)])
def test_traces_without_their_packages_are_refused_with_the_mend(
    traces: str, missing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At check and start, not in each worker."""
    app = App("shop")
    app.subscribe("orders")(lambda messages: None)
    settings = Settings.model_validate({"instrumentation": {"traces": traces}})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    problems = app_problems(app, None, settings)

    assert [fix for _, _, fix in problems] == ['pip install "kafka-swarm[opentelemetry]"'] * missing
