"""What a person can do about an error of Kafka's, in a sentence. Pure: a code and names in, words out."""

from __future__ import annotations

from typing import Final

from confluent_kafka import KafkaError

_CONSUMING: Final = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "Grant this user Read on the topic{topic}; it is consumed again by itself.",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "Grant this user Read on the group {group}; it goes on by itself.",
    KafkaError._AUTHENTICATION: "Mend sasl.mechanism, sasl.username and sasl.password in [kafka].",
    KafkaError._SSL: "Mend security.protocol and the ssl.* properties in [kafka].",
    KafkaError.OFFSET_METADATA_TOO_LARGE: "Commit a shorter text: the brokers' offset.metadata.max.bytes is 4096 by default.",
}

_PRODUCING: Final = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "Grant this user Write on the topic {topic}.",
    # What an idempotent producer is told that may write to no topic at all (KIP-679).
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "Grant this user Write on the topic {topic}.",
    KafkaError.UNKNOWN_TOPIC_OR_PART: "Create the topic {topic}.",
    KafkaError._UNKNOWN_TOPIC: "Create the topic {topic}.",
    KafkaError.MSG_SIZE_TOO_LARGE: (
        "Raise max.message.bytes of the topic {topic}, and message.max.bytes in [kafka] where it is set."
    ),
    KafkaError.INVALID_RECORD: "The topic {topic} takes no such record; a compacted one takes none without a key.",
}


def for_consuming(code: int, group: str, topic: str) -> str:
    """What mends an error that a consumer of `group` met (at `topic`); empty where there is nothing to do but wait."""
    return _CONSUMING.get(code, "").format(topic=f" {topic}" if topic else "", group=group)


def for_producing(code: int, topic: str) -> str:
    """What mends the refusal of a message for `topic`; empty where there is nothing to do but wait."""
    return _PRODUCING.get(code, "").format(topic=topic)
