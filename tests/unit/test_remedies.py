"""Errors that a person has to mend name what is concerned and how; the others are left as they are."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from swarm import headers, remedies
from swarm.folding import Folder

FORBIDDEN = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED, "Fetch from broker 1 failed: Topic authorization failed")
AWAY = KafkaError(KafkaError._TRANSPORT, "Connect to 127.0.0.1:1 failed")


def test_a_forbidden_topic_is_named_and_one_does_not_hide_another() -> None:
    """Repetitions of an error are folded by its code; what has to be granted for each topic is said of each."""
    folder = Folder()

    said = [folder.say("shop", FORBIDDEN, 0.0, topic) for topic in ("orders", "clicks", "orders")]

    texts = [event.error if event is not None else None for event in said]
    assert texts[2] is None
    for topic, text in zip(("orders", "clicks"), texts, strict=False):
        assert text is not None
        assert text.startswith(f"{topic}: Fetch from broker 1 failed")
        assert text.endswith(f"Grant this user Read on the topic {topic}; it is consumed again by itself.")


def test_an_error_that_nobody_can_mend_is_left_as_it_is_and_folded_over_topics() -> None:
    """A broker that is away is one error."""
    folder = Folder()

    said = [folder.say("shop", AWAY, 0.0, topic) for topic in ("orders", "clicks")]

    assert said[0] is not None
    assert said[0].error == AWAY.str()
    assert said[1] is None


@pytest.mark.parametrize(
    "code", [KafkaError._TIMED_OUT, KafkaError.REBALANCE_IN_PROGRESS, KafkaError.UNKNOWN_MEMBER_ID]
)
def test_there_is_no_remedy_where_waiting_is_all_there_is(code: int) -> None:
    """Better no advice than a wrong one."""
    assert remedies.for_consuming(code, "shop", "orders") == ""
    assert remedies.for_producing(code, "orders") == ""


@pytest.mark.parametrize(
    "harmful", [[("a\udcff", b"x")], {"a\udcff": b"x"}, [(b"a", b"x")], {b"a": b"x"}, [("good", b"x"), (5, b"x")]]
)
def test_a_header_name_that_would_end_the_process_or_be_garbled_is_refused(harmful: object) -> None:
    """With confluent-kafka 2.16.1 a lone surrogate is a segmentation fault, and bytes are written as the text of their repr."""
    with pytest.raises((UnicodeEncodeError, TypeError)):
        headers.check(harmful)  # type: ignore[arg-type]


@pytest.mark.parametrize("fine", [None, [], {}, [("größe", b"\xff"), ("", None), ("größe", "x")], {"a": None}])
def test_header_names_that_are_text_pass(fine: object) -> None:
    """Whatever their values are."""
    headers.check(fine)  # type: ignore[arg-type]
