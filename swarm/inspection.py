"""What a worker tells of its own memory when `swarmctl memory` asks: one look at a time, in a thread of its own. Decides nothing.

The main thread hears the question and goes on reporting; the poller goes on polling. Only a process that cannot run Python at all (a handler that
holds the interpreter's lock, SIGSTOP) does not answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from swarm import heap
from swarm.errors import describe

if TYPE_CHECKING:
    from swarm.worker import Runtime

SHOWN: Final = 20
"""Types that are told of, unless asked for more."""
MOST: Final = 500
"""The same at most: an answer has to fit into one piece of the channel."""
LARGEST: Final = 160_000
"""Bytes of an answer: what the kernel lets through in one piece by default is 208 KiB."""
PATIENCE: Final = 5.0
"""Seconds in which the supervisor must have read what is there already."""


class Inspection:
    """One worker's looks into itself."""

    def __init__(self, runtime: Runtime, channel: socket.socket) -> None:
        self._runtime = runtime
        self._channel = channel
        self._thread: threading.Thread | None = None
        self._tracing = heap.Tracing()

    def begin(self, question: Mapping[str, Any]) -> None:
        """Look, and answer by the channel. The main thread; does not block. A second look has to wait for the first one's end."""
        if self._thread is not None and self._thread.is_alive():
            self._answer(question["ask"], {"error": "another look is under way in this worker: ask again in a moment"})
            return
        # Without a name in the scoreboard, whose table of threads would be full after some hundred of these.
        self._thread = threading.Thread(target=self._look, args=(question,), name="memory", daemon=True)
        self._thread.start()

    def _look(self, question: Mapping[str, Any]) -> None:
        try:
            result = self._facts(question)
        except BaseException as error:  # an unreadable file, an application's __sizeof__: whoever asked shall know
            result = {"error": describe(error)}
        self._answer(question["ask"], result)

    def _facts(self, question: Mapping[str, Any]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        scope = self._scope()
        if question.get("collect"):
            result["collected"] = heap.collect()
        if question.get("trace") == "on":
            self._tracing.start()
        elif question.get("trace") == "off":
            self._tracing.stop()
        result |= heap.allocators()
        result["collector"] = heap.collector()
        result["queues"] = self._queues()
        result["traced"] = self._tracing.own
        if question.get("dump"):
            result["dump"] = self._dump(question["dump"], result, scope)
        if question.get("types"):
            most = min(int(question.get("most") or SHOWN), MOST)
            result["survey"] = heap.survey(scope).facts(most)
            result["trace"] = self._tracing.facts()
        return result

    def _dump(self, path: str, facts: Mapping[str, Any], scope: heap.Scope) -> dict[str, Any]:
        about = {"worker": self._runtime.index, "pid": os.getpid(), **facts}
        try:
            return heap.dump(path, about, scope, self._tracing)
        except OSError as error:
            return {"path": path, "error": error.strerror or str(error)}

    def _scope(self) -> heap.Scope:
        """The application's packages, by its handlers, and the consumers of the partitions that this worker has."""
        plans = [plan for group in self._runtime.groups for plan in group.plans]
        modules = (str(getattr(plan.handler, "__module__", "") or "") for plan in plans)
        roots = {}
        for group in self._runtime.groups:
            for lane in list(group.lanes.values()):
                if lane.consumer is not None:
                    roots[f"{type(lane.consumer).__qualname__} of {lane.topic}/{lane.partition}"] = lane.consumer
        return heap.Scope(frozenset(module.partition(".")[0] for module in modules if module), roots)

    def _queues(self) -> dict[str, Any]:
        """Messages and bytes that wait: in the lanes, and before them in librdkafka, as it said last (`age` seconds ago)."""
        now = self._runtime.clock()
        messages = size = 0
        clients = []
        for group in self._runtime.groups:
            with group.lock:
                chunks = [
                    list(chunk)
                    for lane in group.lanes.values()
                    for chunk in (*lane.chunks, lane.batch, lane.again)
                    if chunk
                ]
            messages += sum(map(len, chunks))
            size += sum(len(message) for chunk in chunks for message in chunk)
            said = group.queued
            clients.append(
                {
                    "group": group.name,
                    "messages": said.messages if said is not None else None,
                    "bytes": said.bytes if said is not None else None,
                    "age": round(now - said.at, 1) if said is not None else None,
                }
            )
        return {"lanes": {"messages": messages, "bytes": size}, "clients": clients}

    def _answer(self, number: int, result: dict[str, Any]) -> None:
        data = json.dumps({"answer": number, "result": result}).encode()
        while len(data) > LARGEST and "survey" in result:
            types = result["survey"]["types"]
            del types[len(types) // 2 :]
            data = json.dumps({"answer": number, "result": result}).encode()
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                self._channel.send(data)
                return
            except BlockingIOError:
                time.sleep(0.05)
            except OSError:
                break  # the supervisor is gone, or the piece is too large for this kernel
        with contextlib.suppress(OSError):
            self._channel.send(json.dumps({"answer": number, "result": {"error": "the answer is too large"}}).encode())
