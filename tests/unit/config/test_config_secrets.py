"""What is hidden of texts that somebody quoted a secret in, and what is left alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from swarm.config import hider
from swarm.config.kafka import HIDDEN

KEY = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG\n-----END PRIVATE KEY-----"
TABLES: list[dict[str, Any]] = [
    {
        "sasl.password": 'pa"ss\\word',
        "sasl.oauthbearer.config": "principalClaimName=azp token=eyJhbGciOi",
        "sasl.oauthbearer.token.endpoint.url": "https://joe:hunter22@idp/token",
        "bootstrap.servers": "kafka-1:9092,kafka-2:9092",
        "retries": 12345,
        "client.id": "shop-client",
    },
    {"ssl.key.pem": KEY, "sasl.username": "shop-user", "ssl.key.password": "abc"},
]


@pytest.mark.parametrize(
    "quoted",
    [
        'pa"ss\\word',
        json.dumps('pa"ss\\word'),
        repr('pa"ss\\word'),
        "eyJhbGciOi",
        "hunter22",
        KEY,
        "MIIEvQIBADANBgkqhkiG",
        "shop-user",
    ],
)
def test_a_secret_that_somebody_quotes_is_hidden(quoted: str) -> None:
    """Also a part of it, and as JSON or Python would write it."""
    text = hider(TABLES)(f"no login with {quoted} at kafka-1:9092")

    assert quoted.strip("'\"") not in text
    assert text.startswith("no login with ")
    assert HIDDEN in text
    assert text.endswith(" at kafka-1:9092")


def test_a_password_in_any_url_is_hidden() -> None:
    """Also of one that is no property of ours: a database's, for example."""
    text = hider([])("cannot reach postgresql://joe:secret@db:5432/shop or amqp://:s@h")

    assert text == f"cannot reach postgresql://{HIDDEN}@db:5432/shop or amqp://{HIDDEN}@h"


@pytest.mark.parametrize(
    "text",
    [
        "ask joe@example.org: orders/3@5",
        "https://example.org/a:b@c",
        "retries 12345 of shop-client",
        "abc",
        '{"a": "x:y@z"}',
    ],
)
def test_what_is_no_secret_is_left_alone(text: str) -> None:
    """An address, an offset, a number; a secret of three letters would be found everywhere."""
    assert hider(TABLES)(text) == text
