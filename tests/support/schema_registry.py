"""A schema registry on loopback, just large enough for a client: registers, and answers by id. Counts its requests; can refuse."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class SchemaRegistry:
    """`with SchemaRegistry() as registry:` serves at `registry.url`. Closed, and opened again, it keeps port and schemas."""

    def __init__(self) -> None:
        self.schemas: dict[int, dict[str, Any]] = {}
        self.guids: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        """Method, path, Authorization."""
        self.status = 200
        """What it answers to everything, where it is not 200."""
        self._port = 0
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def open(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), self._handler())
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.status != 200:
            return self.status, {"error_code": self.status * 100, "message": "not now"}
        if method == "POST":
            found = next((number for number, schema in self.schemas.items() if schema == body), None)
            number = found or len(self.schemas) + 1
            self.schemas[number] = body
            return 200, {"id": number, "version": 1, **body}
        name = path.partition("?")[0].rpartition("/")[2]
        schema = self.guids.get(name) if "/guids/" in path else self.schemas.get(int(name))
        if schema is None:
            return 404, {"error_code": 40403, "message": "Schema not found"}
        return 200, schema

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                registry.requests.append((self.command, self.path, self.headers["Authorization"]))
                length = int(self.headers["Content-Length"] or 0)
                body = json.loads(self.rfile.read(length)) if length else {}
                status, answer = registry._answer(self.command, self.path, body)
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = _serve  # the names that the server looks for

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        return Handler
