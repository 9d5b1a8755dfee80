"""aiokafka's best form for batches: `getmany`."""

import asyncio
import os

from aiokafka import AIOKafkaConsumer
from tally import Tally


async def main() -> None:
    consumer = AIOKafkaConsumer(
        os.environ["BENCHMARK_TOPIC"],
        bootstrap_servers=os.environ["BENCHMARK_BOOTSTRAP"],
        group_id=os.environ["BENCHMARK_GROUP"],
        auto_offset_reset="earliest",
    )
    tally = Tally()
    async with consumer:
        while True:
            found = await consumer.getmany(timeout_ms=100, max_records=500)
            for messages in found.values():
                for message in messages:
                    message.value  # noqa: B018
                tally.add(len(messages))


asyncio.run(main())
