"""A proxy that breaks all connections off in the middle of a stream, as a server does that is killed."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

READ = 0.5
"""Seconds in which a browser takes what has come: a connection that is reset takes along what nobody has read."""


@contextmanager
def cutting(port: int, frames: int) -> Iterator[str]:
    """The address of a server in front of another one; after so many events of a stream it is gone."""
    proxy = _Proxy(port, frames)
    threading.Thread(target=proxy.accept, daemon=True).start()
    yield f"http://127.0.0.1:{proxy.listener.getsockname()[1]}"
    proxy.end()


class _Proxy:
    def __init__(self, port: int, frames: int) -> None:
        self.port, self.frames = port, frames
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.open = [self.listener]

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                upstream = socket.create_connection(("127.0.0.1", self.port))
                self.open += [client, upstream]
                threading.Thread(target=self.ask, args=(client, upstream), daemon=True).start()
                threading.Thread(target=self.answer, args=(upstream, client), daemon=True).start()

    def ask(self, client: socket.socket, upstream: socket.socket) -> None:
        with suppress(OSError):
            while part := client.recv(65536):
                upstream.sendall(part)

    def answer(self, upstream: socket.socket, client: socket.socket) -> None:
        seen, streams = 0, False
        with suppress(OSError):
            while part := upstream.recv(256):
                client.sendall(part)
                streams = streams or b"text/event-stream" in part
                seen += part.count(b"data: ") if streams else 0
                if seen >= self.frames:
                    time.sleep(READ)
                    self.end()

    def end(self) -> None:
        for one in self.open:
            with suppress(OSError):  # threads wait for them: closing alone would wake nobody
                one.shutdown(socket.SHUT_RDWR)
            one.close()
