"""librdkafka's properties: which are ours, and which are nobody's business in a log."""

from __future__ import annotations

import pytest

from swarm.config import check_properties, hidden, redact
from swarm.config.kafka import OWNED


@pytest.mark.parametrize("name", [*OWNED, "error_cb", "stats_cb", "ssl.certificate.verify_cb", "on_commit"])
def test_a_property_that_is_ours_is_refused_with_the_reason_and_the_way_out(name: str) -> None:
    """For [kafka] and for the kafka= of a subscription alike."""
    [problem] = check_properties({name: "x"}, "kafka", "swarm.toml")

    assert (problem.where, problem.source) == (f"kafka.{name}", "swarm.toml")
    assert "is not yours to set. " in problem.what
    assert problem.fix


def test_properties_of_the_user_pass() -> None:
    """Unknown names are librdkafka's to refuse."""
    properties = {"client.id": "x", "max.poll.interval.ms": 1000, "socket.keepalive.enable": True, "no.such": 0.5}

    assert check_properties(properties, "kafka", "swarm.toml") == []


def test_only_the_token_callback_may_be_a_callable() -> None:
    """The application alone knows where its tokens come from; in a file it can be no function."""
    assert check_properties({"oauth_cb": lambda config: ("token", 0.0)}, "kafka", "app") == []
    assert len(check_properties({"oauth_cb": "x"}, "kafka", "swarm.toml")) == 1
    assert len(check_properties({"partitioner": len}, "kafka", "app")) == 1


@pytest.mark.parametrize("value", [None, [1], {"a": 1}, float("nan"), "a\0b", "\udcff", b"x"])
def test_a_value_of_no_kind_that_a_property_has_is_refused(value: object) -> None:
    """librdkafka would take its text form, or a part of it."""
    assert len(check_properties({"client.id": value}, "kafka", "app")) == 1


def test_a_refused_secret_is_not_shown() -> None:
    """A message may end in a log."""
    [problem] = check_properties({"sasl.password": {"hunter2": 1}, "client.id": "x"}, "kafka", "swarm.toml")

    assert "hunter2" not in str(problem)


def test_secrets_are_hidden_and_the_rest_is_not() -> None:
    """Passwords, keys, tokens, SASL's settings, and user and password in a URL."""
    secrets = [
        *(
            "sasl.password",
            "sasl.username",
            "ssl.key.password",
            "ssl.key.pem",
            "ssl.keystore.password",
            "sasl.jaas.config",
        ),
        *(
            "sasl.oauthbearer.client.secret",
            "sasl.oauthbearer.config",
            "some.token",
            "basic.auth.user.info",
            "SASL.Password",
        ),
    ]
    plain = {
        "bootstrap.servers": "a:9092,b:9092",
        "sasl.mechanism": "PLAIN",
        "ssl.ca.location": "/ca.pem",
        "linger.ms": 5,
    }

    shown = redact(
        {**dict.fromkeys(secrets, "hunter2"), **plain, "url": "https://me:hunter2@host/x", "pem": "-PRIVATE KEY-"}
    )

    assert "hunter2" not in str(shown)
    assert shown["url"].endswith("********@host/x")
    assert shown["pem"] == "********"
    assert {name: shown[name] for name in plain} == plain


def test_a_text_that_quotes_a_secret_is_shown_without_it() -> None:
    """As it is, as JSON writes it, as a number, and in a URL; what is no secret stays."""
    properties = {"sasl.password": 'hun"ter2', "ssl.key.password": 123456, "client.id": "shop", "sasl.username": ""}

    text = hidden('shop: "hun\\"ter2" hun"ter2 123456 https://me:pw@host/', properties)

    assert text == 'shop: "********" ******** ******** https://********@host/'
