"""A server of a few lines on a loopback port, for what a real one does not do."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, object] | tuple[int, object, dict[str, str]]


@dataclass
class Stub:
    """What it was asked, and where it is."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def stub_server(
    answer: Callable[[str, dict[str, Any]], Answer], models: object = ("some-model",), owner: str = "somebody"
) -> Iterator[Stub]:
    """answer: (path, body) -> status, JSON (or bytes as they are), and maybe headers."""
    stub = Stub()
    listed = models if not isinstance(models, tuple) else {"data": [{"id": m, "owned_by": owner} for m in models]}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, listed)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            stub.bodies.append(body)
            stub.headers.append({key.lower(): value for key, value in self.headers.items()})
            self._send(*answer(self.path, body))

        def _send(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
            raw = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for key, value in {"content-length": str(len(raw)), **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def said(text: str, **choice: object) -> dict[str, object]:
    """A chat completion."""
    return {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop", **choice}]}


def parted(*top: tuple[str, float]) -> dict[str, object]:
    """One token with its most probable alternatives."""
    listed = [{"token": token, "logprob": value} for token, value in top]
    return said("x", logprobs={"content": [{"token": "x", "logprob": -1.0, "top_logprobs": listed}]})
