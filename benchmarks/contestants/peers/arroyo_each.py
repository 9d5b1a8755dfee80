"""Arroyo: `RunTask` for each message, and commits. BENCHMARK_FORM=multiprocessing: `RunTaskWithMultiprocessing`, two processes."""

import os
from collections.abc import Mapping
from typing import Any

from arroyo.backends.kafka import KafkaConsumer
from arroyo.backends.kafka.configuration import build_kafka_consumer_configuration
from arroyo.backends.kafka.consumer import KafkaPayload
from arroyo.commit import ONCE_PER_SECOND
from arroyo.processing import StreamProcessor
from arroyo.processing.strategies import CommitOffsets, ProcessingStrategy, ProcessingStrategyFactory, RunTask
from arroyo.types import Commit, Message, Partition, Topic
from tally import Tally

MULTIPROCESSING = os.environ.get("BENCHMARK_FORM") == "multiprocessing"
tally = Tally(children=MULTIPROCESSING)


def touch(message: Message[KafkaPayload]) -> KafkaPayload:
    return message.payload


def count(message: Message[KafkaPayload]) -> KafkaPayload:
    tally.one()
    return message.payload


class Factory(ProcessingStrategyFactory[KafkaPayload]):
    def __init__(self) -> None:
        self._pool: Any = None
        if MULTIPROCESSING:
            from arroyo.processing.strategies.run_task_with_multiprocessing import MultiprocessingPool

            self._pool = MultiprocessingPool(num_processes=2)

    def create_with_partitions(
        self, commit: Commit, partitions: Mapping[Partition, int]
    ) -> ProcessingStrategy[KafkaPayload]:
        end = RunTask(count, CommitOffsets(commit))
        if not MULTIPROCESSING:
            return end
        from arroyo.processing.strategies import RunTaskWithMultiprocessing

        return RunTaskWithMultiprocessing(
            touch,
            end,
            max_batch_size=500,
            max_batch_time=0.1,
            pool=self._pool,
            output_block_size=4 << 20,
            input_block_size=4 << 20,
        )

    def shutdown(self) -> None:
        if self._pool is not None:
            self._pool.close()


def main() -> None:
    consumer = KafkaConsumer(
        build_kafka_consumer_configuration(
            {"log_level": 3},
            bootstrap_servers=[os.environ["BENCHMARK_BOOTSTRAP"]],
            auto_offset_reset="earliest",
            group_id=os.environ["BENCHMARK_GROUP"],
        )
    )
    StreamProcessor(consumer, Topic(os.environ["BENCHMARK_TOPIC"]), Factory(), ONCE_PER_SECOND).run()


if __name__ == "__main__":
    main()
