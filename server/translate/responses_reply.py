"""The reply to a request of the Responses API: events, and what they come to.

There is one way: a whole reply is what the last event of the stream would carry.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from server.errors import ErrorReply
from server.schemas.replies import TokenLogprob
from server.schemas.response_replies import Output, ResponseEvent, ResponseReply, ResponseUsage
from server.translate.call import Call
from server.translate.logprobs import token_logprob
from server.translate.receipt import reason, receipt, usage
from server.translate.response_items import ItemWriter, open_item
from steering.engine.request import Finish, TokenEvent
from steering.model.answer_parser import AnswerParser, Part
from steering.model.loading import LanguageModel

Status = Literal["in_progress", "completed", "incomplete", "failed"]


class ResponsesReply:
    """One response: items one after the other, each opened, told in pieces, and closed."""

    def __init__(self, call: Call, model: LanguageModel) -> None:
        self.call, self.model = call, model
        self._wants_logprobs = call.requests[0].sampling.logprobs is not None
        self._parser = AnswerParser(call.form)
        self._sequence = 0
        """Number of the next event."""
        self._output: list[Output] = []
        self._item: ItemWriter | None = None
        """That is open."""
        self._waiting: list[TokenLogprob] = []
        """Of tokens whose text is not told yet."""
        self._reasoning_tokens = 0
        self._num_waiting = 0
        self._finish: Finish | None = None

    def whole(self, events: Sequence[TokenEvent]) -> ResponseReply:
        told = [event for piece in events for event in self.chunks(piece)]
        told += self.closing()
        return told[-1]["response"]

    def chunks(self, event: TokenEvent) -> Iterator[ResponseEvent]:
        if self._sequence == 0:
            yield self._event("response.created", response=self._response("in_progress"))
            yield self._event("response.in_progress", response=self._response("in_progress"))
        if event.token is not None:
            self._num_waiting += 1
            if self._wants_logprobs:
                plan = self.call.choices[0].request.plan
                self._waiting.append(token_logprob(event.token, plan, self.model))
        parts = self._parser.push(event.text) + (self._parser.flush() if event.finish else [])
        for i, part in enumerate(parts):
            yield from self._tell(part, last=i == len(parts) - 1)
        if self._parser.is_between and self._item is not None and self._num_waiting:  # its end, and space after that
            self._item.take_rest(self._waiting)
            self._reasoning_tokens += self._num_waiting
            self._waiting, self._num_waiting = [], 0
        self._finish = event.finish or self._finish

    def _tell(self, part: Part, *, last: bool) -> Iterator[ResponseEvent]:
        """last: of the parts that came with a token, which goes to it."""
        if self._item is None or not self._item.takes(part):
            yield from self._close("completed")
            self._item = open_item(part, len(self._output), self.call.form.calls)
            yield from map(self._numbered, self._item.opening())
        entries, count = (self._waiting, self._num_waiting) if last else ([], 0)
        if last:
            self._waiting, self._num_waiting = [], 0
        self._reasoning_tokens += count if part.kind == "reasoning" else 0
        yield from map(self._numbered, self._item.pieces(part, entries))

    def closing(self) -> Iterator[ResponseEvent]:
        finish = self._finish
        if finish is None:
            raise AssertionError("the events end with a finish")
        ended: Status = "completed" if reason(finish) == "stop" else "incomplete"
        if self._item is None and not self._output:  # an answer without a word is an empty message
            yield from self._tell(Part("content", ""), last=True)
        if self._item is not None:
            self._item.take_rest(self._waiting)
        whole = ended == "completed" and not self._parser.is_cut
        yield from self._close("completed" if whole else "incomplete", finish)
        yield self._event(f"response.{ended}", response=self._response(ended, finish))

    def failing(self, error: ErrorReply) -> Iterator[ResponseEvent]:
        """The response has failed; and, for whoever does not look at that, an error that the SDKs raise."""
        failed = self._response("failed")
        failed["error"] = {"code": "server_error", "message": error["error"]["message"]}
        if self._item is not None:
            failed["output"] = [*self._output, self._item.item("incomplete")]
        yield self._event("response.failed", response=failed)
        told = error["error"]
        yield self._event("error", message=told["message"], code=told["code"], param=told["param"], error=told)

    def _close(
        self, status: Literal["completed", "incomplete"], finish: Finish | None = None
    ) -> Iterator[ResponseEvent]:
        """finish: of the answer, if the item is its last."""
        if self._item is None:
            return
        writer, self._item = self._item, None
        item = writer.item(status)
        if finish is not None and (steering := receipt(self.call, 0, finish, self.model)):
            item["steering"] = steering
        self._output.append(item)
        yield from map(self._numbered, writer.closing(item))

    def _event(self, kind: str, **fields: Any) -> ResponseEvent:
        event: Any = {"type": kind, **fields}
        return self._numbered(event)

    def _numbered(self, event: ResponseEvent) -> ResponseEvent:
        event["sequence_number"] = self._sequence
        self._sequence += 1
        return event

    def _response(self, status: Status, finish: Finish | None = None) -> ResponseReply:
        response: Any = {
            "id": self.call.id,
            "object": "response",
            "created_at": self.call.created,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "model": self.call.model,
            "system_fingerprint": self.call.system_fingerprint,
            "output": list(self._output),
            "usage": None if finish is None else self._usage(finish),
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "previous_response_id": None,
            "store": False,
            "truncation": "disabled",
            **self.call.told,
        }
        if self.call.service_tier is not None:
            response["service_tier"] = self.call.service_tier
        if finish is not None and (steering := receipt(self.call, 0, finish, self.model)):
            response["steering"] = steering
        reply: ResponseReply = response
        return reply

    def _usage(self, finish: Finish) -> ResponseUsage:
        counted = usage(self.call, [finish])
        return {
            "input_tokens": counted["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": counted["completion_tokens"],
            "output_tokens_details": {
                "reasoning_tokens": self._reasoning_tokens,
                "steered_tokens": counted["completion_tokens_details"]["steered_tokens"],
            },
            "total_tokens": counted["total_tokens"],
        }
