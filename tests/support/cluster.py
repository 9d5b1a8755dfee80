"""Three brokers on this machine, each behind a proxy of its own: for what one node alone cannot show. Knows nothing of the swarm."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping
from typing import Self

from tests.support.kafka import Broker, Kafka
from tests.support.ports import free_port
from tests.support.proxy import Proxy

NODES = 3

_CONFIG = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "share.coordinator.state.topic.replication.factor": "3",
    "share.coordinator.state.topic.min.isr": "2",
    # A broker that has gone is given up after this: measured, 2 s without acknowledgements instead of 10.8 s.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "300",
    # The same for a follower that does not follow: until it is out, the leader waits for it with each write.
    "replica.lag.time.max.ms": "3000",
}


class Cluster(Kafka):
    """Three combined nodes; what is written is on two of them before it counts. Start it in the main thread.

    `with Cluster() as cluster:` starts it (some 10 s on two cores) and removes its data at the end. Clients that use
    `bootstrap` go through `proxies`; the test's own, through `direct`, and the brokers themselves do not.
    """

    replicas = NODES

    def __init__(self, config: Mapping[str, str] | None = None) -> None:
        super().__init__()
        controllers = {node: free_port() for node in range(1, NODES + 1)}
        ports = [free_port() for _ in controllers]
        self.proxies = [Proxy(port) for port in ports]
        self.brokers = [
            Broker(
                port=port,
                config={**_CONFIG, **(config or {})},
                advertised=proxy.port,
                node=node,
                controllers=controllers,
            )
            for node, port, proxy in zip(controllers, ports, self.proxies, strict=True)
        ]

    @property
    def bootstrap(self) -> str:
        return ",".join(broker.bootstrap for broker in self.brokers)

    @property
    def direct(self) -> str:
        return ",".join(broker.direct for broker in self.brokers)

    def leader(self, topic: str, partition: int = 0) -> Broker:
        """The broker that leads it now."""
        return self.brokers[self._topics()[topic].partitions[partition].leader - 1]

    def coordinator(self, group: str) -> Broker:
        """The broker that coordinates this consumer group now."""
        return self._leader_for("__consumer_offsets", group)

    def transaction_coordinator(self, transactional_id: str) -> Broker:
        """The broker that coordinates this producer's transactions now."""
        return self._leader_for("__transaction_state", transactional_id)

    def _leader_for(self, topic: str, key: str) -> Broker:
        hashed = 0
        for character in key:  # as Java does it
            hashed = (31 * hashed + ord(character)) & 0xFFFFFFFF
        return self.leader(topic, (hashed & 0x7FFFFFFF) % len(self._topics()[topic].partitions))

    def start(self) -> None:
        """Returns once every partition answers."""
        for broker in self.brokers:
            broker.begin()
        for broker in self.brokers:
            broker.until_started()
        self.until_partitions_answer()

    def heal(self) -> None:
        """Every broker runs and every network passes; returns once every partition has a leader that answers."""
        for proxy in self.proxies:
            proxy.heal()
        for broker in self.brokers:
            if broker.is_running:
                os.kill(broker.pid, signal.SIGCONT)
            else:
                broker.begin()
        for broker in self.brokers:
            broker.until_started()
        self.until_partitions_answer()

    def close(self) -> None:
        """Kills it, for nothing of it is needed any more: leaving in good order takes turns, and seconds."""
        for broker in self.brokers:
            with contextlib.suppress(AssertionError):
                broker.kill()
            broker.close()
        for proxy in self.proxies:
            proxy.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
