"""What of a message is hidden before anybody sees it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.redaction import HIDDEN, Redaction, decoded, plain

PLANTED = "s3cr3t-of-the-broker"
REDACTION = Redaction({"bootstrap.servers": "kafka:9092", "sasl.password": PLANTED, "client.id": "shop"})

NAMES = (
    "password", "Password", "userPassword", "db_passwd", "pwd", "passphrase", "secret", "clientSecret", "token", "apiToken",
    "access_token", "refresh-token", "api_key", "apiKey", "X-Api-Key", "authorization", "Authorization", "credential",
    "credentials", "privateKey", "private_key", "cookie", "Set-Cookie", "sasl.jaas.config", "signature", "cvv",
)  # fmt: skip
ORDINARY = (
    "key",
    "id",
    "customer",
    "passenger",
    "author",
    "compass",
    "tokyo",
    "secretary",
    "amount",
    "monkey",
    "keyboard",
)


@pytest.mark.parametrize("name", NAMES)
def test_values_under_telling_names_are_hidden_wherever_they_stand(name: str) -> None:
    """In JSON at any depth, in a text, in a text inside of JSON."""
    nested = {"a": [{name: "hunter2"}, {"b": {name: {"deep": "hunter2"}}}]}

    assert "hunter2" not in json.dumps(REDACTION.value(nested))
    assert "hunter2" not in json.dumps(REDACTION.value({"body": json.dumps({name: "hunter2"})}))
    assert "hunter2" not in REDACTION.text(f"{name}=hunter2 and so on")
    assert "hunter2" not in REDACTION.text(f'{{"{name}": "hunter2"}}')
    assert "and so on" in REDACTION.text(f"{name}=hunter2 and so on")
    assert REDACTION.name(name)


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_names_hide_nothing(name: str) -> None:
    assert REDACTION.value({name: "plain"}) == {name: "plain"}


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer hunter2hunter2",
        "curl -H 'authorization: Basic aHVudGVyMjpodW50ZXIy'",
        "postgres://shop:hunter2@db/shop",
        "-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY-----",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJodW50ZXIyIn0.hunter2",
        f"broker says {PLANTED}",
    ],
)
def test_secrets_without_a_name_are_known_by_their_form(text: str) -> None:
    """Credentials in URLs, bearer tokens, private keys, JSON web tokens, and what is planted in [kafka]."""
    shown = REDACTION.text(text)

    assert HIDDEN in shown
    assert not any(secret in shown for secret in ("hunter2", "aHVudGVyMj", PLANTED))


@settings(max_examples=60, deadline=None)
@given(st.recursive(st.one_of(st.none(), st.booleans(), st.integers(), st.text()), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20))  # fmt: skip
def test_any_json_stays_json_and_holds_no_planted_secret(value: Any) -> None:
    """Also with the secret under every name, and as a name."""
    shown = json.dumps(REDACTION.value({"x": value, "y": [PLANTED, {PLANTED: value}]}))

    assert PLANTED not in shown


@pytest.mark.parametrize("text", ["a" * 60_000, "token" * 12_000, "a:" * 30_000, "-" * 60_000, '"\\' * 30_000])
def test_a_long_text_without_a_space_takes_no_minute(text: str) -> None:
    """No pattern may look at every pair of its characters."""
    began = time.process_time()

    REDACTION.text(text)

    assert time.process_time() - began < 2.0


def test_bytes_that_are_no_text_lose_what_is_planted() -> None:
    """Else hexadecimal digits would say it."""
    data = b"\xff\x00" + PLANTED.encode() + b"\x01"

    assert PLANTED.encode().hex() not in REDACTION.data(data).hex()
    assert decoded(data).startswith("hex:")
    assert decoded(b"na\xc3\xafve\n") == "naïve\n"
    assert decoded(b"bell\x07").startswith("hex:")


def test_what_deserializers_make_is_shown_by_its_fields() -> None:
    """Dataclasses, objects, sets, bytes; so names can tell secrets."""

    @dataclass
    class Order:
        customer: str
        password: str
        tags: frozenset[str]
        raw: bytes

    class Plain:
        def __init__(self) -> None:
            self.token = "hunter2"
            self.order = Order("ann", "hunter2", frozenset(["new"]), b"\xff")

    shown = REDACTION.value(plain(Plain()))

    assert shown == {
        "token": HIDDEN,
        "order": {"customer": "ann", "password": HIDDEN, "tags": ["new"], "raw": "hex:ff"},
    }
