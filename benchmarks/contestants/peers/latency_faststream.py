"""Notes how long messages were on their way to FastStream's subscriber, over confluent-kafka."""

import asyncio
import logging
import os

from delays import Delays
from faststream import FastStream
from faststream.confluent import KafkaBroker

broker = KafkaBroker(os.environ["BENCHMARK_BOOTSTRAP"], logger=logging.getLogger("silent"))
delays = Delays()


@broker.subscriber(os.environ["BENCHMARK_TOPIC"], group_id=os.environ["BENCHMARK_GROUP"], auto_offset_reset="latest")
async def note(message: bytes) -> None:
    delays.note(message)


logging.getLogger("silent").setLevel(logging.CRITICAL)
asyncio.run(FastStream(broker).run(log_level=logging.CRITICAL))
