"""The one engine thread, and the event loop's side of it.

The thread owns the engine: it loads it, and alone calls add, abort and step. The two sides share an inbox of messages
and, the other way, one `call_soon_threadsafe` a step.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Literal

from server.errors import ApiError, EngineDead, ServerShutdown
from server.serving import Served
from steering.engine.engine import Engine
from steering.engine.request import Finish, Receipt, Request, TokenEvent
from steering.errors import EngineFailure, QueueFull, SteeringError

logger = logging.getLogger(__name__)

Events = AsyncGenerator[TokenEvent, None]
State = Literal["loading", "ready", "failed", "dead", "stopped"]
"""failed: loading raised; dead: a step or the thread's own loop raised."""


@dataclass(eq=False)
class _Call:
    """Requests that were submitted together, and where their events go."""

    key: str
    unfinished: dict[str, int]
    """Request id -> its answers that have not ended."""
    events: asyncio.Queue[TokenEvent] = field(default_factory=asyncio.Queue)
    begun: bool = False
    """An event came."""


@dataclass(frozen=True)
class _Abort:
    request_id: str


class _Stop:
    """Ends the thread."""


class AsyncEngine:
    """Submit requests from an event loop; every answer ends in exactly one event with `finish` set, or in an error."""

    def __init__(
        self,
        load: Callable[[], Served],
        *,
        capacity: int,
        on_change: Callable[[AsyncEngine], None] | None = None,
    ) -> None:
        """load runs in the engine thread; capacity: most requests open at once, running and waiting together;
        on_change runs on the loop after each change of `state`."""
        self._load, self._capacity, self._on_change = load, capacity, on_change
        self._inbox: SimpleQueue[Request | _Abort | _Stop] = SimpleQueue()
        self._open: dict[str, _Call] = {}
        """Request id -> its call; oldest first."""
        self._loop: asyncio.AbstractEventLoop
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._served: Served | None = None
        self.state: State = "loading"
        self.failure: BaseException | None = None
        """Why the state is failed or dead."""

    # The event loop's side.

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def require_ready(self) -> Served:
        """What is served; raises the 503 of the moment unless that is ready."""
        if self.state == "ready" and self._served is not None:
            return self._served
        match self.state:
            case "loading":
                raise ApiError("model_loading", "The model is still loading.")
            case "stopped":
                raise ApiError("draining", "The server is shutting down.")
            case _:
                raise ApiError("engine_dead", "The engine has stopped by an error; the server must be restarted.")

    @property
    def num_open(self) -> int:
        return len(self._open)

    async def submit(self, requests: Sequence[Request]) -> Events:
        """The events of all answers of one call, as they come; raises the error that ended one of them, and with it the
        call. Closing it early aborts what has not ended.

        The 503 of a server that is not ready is raised before anything is queued. So is `QueueFull`; but also by a call
        that waits, where another caller with fewer requests open needs its place.
        """
        self.require_ready()
        call = _Call(requests[0].key, {request.id: len(request.choices) for request in requests})
        self._make_room(call)
        self._open |= dict.fromkeys(call.unfinished, call)
        for request in requests:
            self._inbox.put(request)
        try:
            while any(call.unfinished.values()):
                event = await call.events.get()
                if event.finish is not None:
                    call.unfinished[event.request_id] -= 1
                    if event.finish.error is not None:
                        raise event.finish.error
                yield event
        finally:
            self._close(call)

    def _make_room(self, call: _Call) -> None:
        """Where all places are taken, whoever holds most gives up its last call that has not begun, as long as it
        still holds no fewer than the newcomer then; so a flood takes the places that others leave, and no more."""
        missing = len(self._open) + len(call.unfinished) - self._capacity
        held, giving = Counter(other.key for other in self._open.values()), list[_Call]()
        while missing > 0:
            greatest = max(held, key=lambda key: held[key], default=call.key)
            calls = (c for c in reversed(self._open.values()) if c.key == greatest and not (c.begun or c in giving))
            last = next(calls, None)
            if last is None or held[greatest] - len(last.unfinished) < held[call.key] + len(call.unfinished):
                raise self._full()
            giving.append(last)
            held[greatest] -= len(last.unfinished)
            missing -= len(last.unfinished)
        for other in giving:
            other.events.put_nowait(_refusal(next(iter(other.unfinished)), self._full()))
            self._close(other)

    def _full(self) -> QueueFull:
        return QueueFull(f"{self._capacity} requests are already running or waiting; try again later.")

    def _close(self, call: _Call) -> None:
        """Nothing of it is delivered any more; what has not ended is aborted."""
        for request_id, count in call.unfinished.items():
            if self._open.pop(request_id, None) and count:
                self._inbox.put(_Abort(request_id))

    def stop(self) -> None:
        """Every open answer ends with `ServerShutdown` now; the thread ends after its step."""
        if self.state in ("loading", "ready"):
            self._change("stopped")
            self._end_all(ServerShutdown("The server is shutting down; the answer is not complete."))
        self._inbox.put(_Stop())

    async def join(self, timeout: float) -> None:
        """Waits for the thread, and closes what was served; one that is still loading is left behind (a daemon)."""
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join, timeout)
        if self._served is not None:
            self._served.close()

    def _deliver(self, events: Sequence[TokenEvent]) -> None:
        for event in events:
            if call := self._open.get(event.request_id):
                call.begun = True
                call.events.put_nowait(event)

    def _end_all(self, error: SteeringError) -> None:
        self._deliver([_refusal(request_id, error) for request_id in self._open])

    def _change(self, state: State) -> None:
        self.state = state
        if self._on_change is not None:
            self._on_change(self)

    def _ready(self, served: Served) -> None:
        if self.state == "loading":
            self._served = served
            self._change("ready")

    def _ended(self, error: BaseException) -> None:
        if self.state == "stopped":
            return
        self.failure = error
        self._change("failed" if self.state == "loading" else "dead")
        self._end_all(EngineDead("The engine has stopped by an error; the answer is not complete."))

    # The engine thread's side.

    def _run(self) -> None:
        try:
            served = self._load()
            self._tell(self._ready, served)
            try:
                self._work(served.engine)
            finally:
                served.engine.close()
        except BaseException as error:  # a dead thread must be seen by everybody who waits for it
            if not isinstance(error, (SteeringError, ValueError, OSError)):
                logger.exception("the engine thread ended")
            self._tell(self._ended, error)

    def _work(self, engine: Engine) -> None:
        while True:
            for message in self._messages(wait=not engine.has_work):
                if isinstance(message, _Stop):
                    return
                self._take(engine, message)
            if engine.has_work:
                self._tell(self._deliver, engine.step())

    def _messages(self, *, wait: bool) -> Iterator[Request | _Abort | _Stop]:
        if wait:
            yield self._inbox.get()
        with suppress(Empty):
            while True:
                yield self._inbox.get_nowait()

    def _take(self, engine: Engine, message: Request | _Abort) -> None:
        """What is wrong with one request ends that request alone."""
        if isinstance(message, _Abort):
            engine.abort(message.request_id)
            return
        try:
            engine.add(message)
        except SteeringError as error:
            self._tell(self._deliver, [_refusal(message.id, error)])
        except Exception as error:
            logger.exception("a request could not be added")
            failure = EngineFailure(f"the request could not be run ({type(error).__name__}); the log says more.")
            self._tell(self._deliver, [_refusal(message.id, failure)])

    def _tell(self, callback: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(callback, *arguments)


def _refusal(request_id: str, error: SteeringError) -> TokenEvent:
    """The terminal event of a request that the engine did not end itself."""
    nothing = Receipt(applied=False, tokens=0, steered_tokens=0, fired_tokens=0)
    return TokenEvent(request_id, finish=Finish("error", 0, 0, nothing, error))
