"""FastStream over aiokafka; BENCHMARK_FORM=batch: `batch=True`. Values are taken as bytes, nothing is decoded."""

import asyncio
import logging
import os

from faststream import FastStream
from faststream.kafka import KafkaBroker
from tally import Tally

broker = KafkaBroker(os.environ["BENCHMARK_BOOTSTRAP"], logger=logging.getLogger("silent"))
tally = Tally()
options = {"group_id": os.environ["BENCHMARK_GROUP"], "auto_offset_reset": "earliest"}


if os.environ["BENCHMARK_FORM"] == "batch":

    @broker.subscriber(os.environ["BENCHMARK_TOPIC"], batch=True, max_records=500, **options)
    async def many(messages: list[bytes]) -> None:
        tally.add(len(messages))

else:

    @broker.subscriber(os.environ["BENCHMARK_TOPIC"], **options)
    async def one(message: bytes) -> None:
        tally.one()


logging.getLogger("silent").setLevel(logging.CRITICAL)
asyncio.run(FastStream(broker).run(log_level=logging.CRITICAL))
