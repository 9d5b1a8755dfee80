"""Declaring an application: what is taken, and what is refused with the nearest right word."""

from __future__ import annotations

from typing import Any

import pytest

from swarm import App, Consumer, Messages, VirtualPartitions
from swarm.errors import ConfigurationError
from swarm.events import BatchConsumed, Event


def handler(messages: Messages) -> None: ...


class Orders(Consumer):
    def consume(self, messages: Messages) -> None: ...


class Empty(Consumer):
    pass


@pytest.mark.parametrize(("typo", "meant"), [("max_mesages", "max_messages"), ("deadletter", "dead_letter")])
def test_an_unknown_option_is_answered_with_the_one_that_was_meant(typo: str, meant: str) -> None:
    """A typo must not silently mean the default."""
    options: dict[str, Any] = {typo: 1}
    with pytest.raises(ConfigurationError, match=f"Did you mean {meant}"):
        App("shop").subscribe("orders", **options)


@pytest.mark.parametrize(
    ("declare", "says"),
    [
        (lambda app: app.subscribe(handler), "topics first"),
        (lambda app: app.subscribe()(handler), "one or more topics"),
        (lambda app: app.each("orders")(Orders), "a class goes to subscribe"),
        (lambda app: app.subscribe("orders")(int), "derives from swarm.Consumer"),
        (lambda app: app.subscribe("orders")(Empty), "define consume"),
        (lambda app: app.subscribe("orders")(5), "expected a Consumer class or a function"),
        (lambda app: app.on(int), "a class of swarm.events"),
        (lambda app: app.producer, "in workers only"),
        (lambda app: App(""), "the default group.id"),
    ],
)
def test_what_cannot_work_says_how_it_would(declare: Any, says: str) -> None:
    """At the line of the declaration, in the author's words."""
    with pytest.raises(ConfigurationError, match=says):
        declare(App("shop"))


def test_concurrency_key_is_the_short_form_of_virtual_partitions() -> None:
    """`concurrency_key="key"` is VirtualPartitions by the message's key; a function is taken as it is."""
    app = App("shop")
    app.each("emails", concurrency_key="key")(handler)
    app.each("letters", concurrency_key=len)(handler)

    assert [plan.virtual_partitions for plan in app.plans] == [VirtualPartitions(by="key"), VirtualPartitions(by=len)]
    with pytest.raises(ConfigurationError, match="concurrency_key: expected"):
        app.each("others", concurrency_key=5)(handler)


def test_subscriptions_are_grouped_by_their_group_id() -> None:
    """`group=` literally, else the setting, else the App's name."""
    app = App("shop")
    app.subscribe("orders", "refunds")(Orders)
    app.subscribe("clicks", group="analytics")(handler)

    assert {name: [plan.topics for plan in plans] for name, plans in app.groups().items()} == {
        "shop": [("orders", "refunds")],
        "analytics": [("clicks",)],
    }
    assert set(app.groups("set")) == {"set", "analytics"}


def test_decorators_give_back_what_they_decorate() -> None:
    """So the function or class can be used and tested as it is."""
    app = App("shop")

    def hook() -> None: ...

    def listener(event: Event) -> None: ...

    assert app.subscribe("orders")(Orders) is Orders
    assert app.each("clicks")(handler) is handler
    assert app.before_fork(hook) is hook
    assert app.on(BatchConsumed)(listener) is listener
    assert app.listeners == [(BatchConsumed, listener)]
