"""Produces ten orders, and one that is none: python examples/orders/produce.py [HOST:PORT]"""

import json
import sys

from confluent_kafka import Producer

servers = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9092"
producer = Producer({"bootstrap.servers": servers, "message.timeout.ms": 10_000})
for number in range(10):
    producer.produce("orders", json.dumps({"order": number, "amount": 9.5 * number}), key=f"customer-{number % 3}")
producer.produce("orders", "not an order", key="customer-0")
if left := producer.flush(15):
    sys.exit(f"{left} of 11 messages were not delivered to {servers}: is a broker there?")
print(f"11 messages produced to {servers}")
