"""aiokafka's form for one message after the other: `async for`."""

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
        async for message in consumer:
            message.value  # noqa: B018
            tally.one()


asyncio.run(main())
