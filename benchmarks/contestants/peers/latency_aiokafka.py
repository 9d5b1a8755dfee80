"""Notes how long messages were on their way to aiokafka's `async for`."""

import asyncio
import os

from aiokafka import AIOKafkaConsumer
from delays import Delays


async def main() -> None:
    consumer = AIOKafkaConsumer(
        os.environ["BENCHMARK_TOPIC"],
        bootstrap_servers=os.environ["BENCHMARK_BOOTSTRAP"],
        group_id=os.environ["BENCHMARK_GROUP"],
        auto_offset_reset="latest",
    )
    delays = Delays()
    async with consumer:
        async for message in consumer:
            delays.note(message.value)


asyncio.run(main())
