"""A bare loop that notes when it had messages of which partition: a line for each in BENCHMARK_RESULT. Commits what it had.

Leaves its group on SIGTERM: a member that is killed holds up the next one until its session has run out.
"""

import json
import os
import signal
import time

from confluent_kafka import Consumer, KafkaException

journal = os.open(os.environ["BENCHMARK_RESULT"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def main() -> None:
    properties = json.loads(os.environ["BENCHMARK_PROPERTIES"]) | {"enable.partition.eof": False}
    consumer = Consumer(properties | {"enable.auto.commit": False, "enable.auto.offset.store": True})
    consumer.subscribe([os.environ["BENCHMARK_TOPIC"]])
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    while not stop:
        for message in consumer.consume(500, 0.1):
            if message.error() is not None:
                raise KafkaException(message.error())
            os.write(journal, f"{time.monotonic()} {message.partition()} {os.getpid()}\n".encode())
            consumer.commit(asynchronous=True)
    consumer.close()


main()
