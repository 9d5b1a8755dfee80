"""A broker that asks who one is and what one may do. Knows nothing of a swarm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its re-exports are not marked as such
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from tests.support.kafka import Broker
from tests.support.ports import free_port

LOGIN: Final = {
    "security.protocol": "SASL_PLAINTEXT",
    "sasl.mechanism": "PLAIN",
    "sasl.username": "app",
    "sasl.password": "word",
}
"""`[kafka]` of who comes in through `SecuredBroker.secured`."""
READ, WRITE = AclOperation.READ, AclOperation.WRITE
TOPIC, GROUP = ResourceType.TOPIC, ResourceType.GROUP


class SecuredBroker(Broker):
    """Its user `app` may do what is granted, and comes in through `secured`; whoever uses `bootstrap` may do everything."""

    def __init__(self) -> None:
        plain, controller, sasl = free_port(), free_port(), free_port()
        at = "127.0.0.1"
        super().__init__(
            port=plain,
            config={
                "controller.quorum.voters": f"1@{at}:{controller}",
                "listeners": f"PLAINTEXT://{at}:{plain},CONTROLLER://{at}:{controller},SASL_PLAINTEXT://{at}:{sasl}",
                "listener.security.protocol.map": (
                    "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT"
                ),
                "sasl.enabled.mechanisms": "PLAIN",
                "listener.name.sasl_plaintext.plain.sasl.jaas.config": (
                    'org.apache.kafka.common.security.plain.PlainLoginModule required user_app="word";'
                ),
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:ANONYMOUS",
            },
        )
        self.secured = f"{at}:{sasl}"

    def grant(self, operation: Any, kind: Any, name: str) -> None:
        self._answered(lambda admin: admin.create_acls([AclBinding(*self._rule(operation, kind, name))]))

    def revoke(self, operation: Any, kind: Any, name: str) -> None:
        self._answered(lambda admin: admin.delete_acls([AclBindingFilter(*self._rule(operation, kind, name))]))

    def _rule(self, operation: Any, kind: Any, name: str) -> tuple[Any, ...]:
        return (kind, name, ResourcePatternType.LITERAL, "User:app", "*", operation, AclPermissionType.ALLOW)

    def _answered(self, request: Callable[[Any], dict[Any, Any]]) -> None:
        admin = AdminClient({"bootstrap.servers": self.bootstrap})  # held until the answers are there
        for answer in request(admin).values():
            answer.result(timeout=15)
