"""Items of a response as they are written: a message, a call, what was thought. Each has its own events."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from server.schemas.replies import TokenLogprob
from server.schemas.response_replies import ItemStatus, Output, OutputText, ReasoningText, ResponseEvent
from server.translate.tools import new_call_id
from steering.model.answer_parser import Kind, Part
from steering.model.call_format import CallFormat


class ItemWriter:
    """One item: its events but for their numbers."""

    kinds: tuple[Kind, ...]
    """Of the parts that go on with it."""

    def __init__(self, prefix: str, output_index: int) -> None:
        self.id = f"{prefix}_{uuid.uuid4().hex}"
        self.output_index = output_index
        self.text = ""
        self.logprobs: list[TokenLogprob] = []

    def takes(self, part: Part) -> bool:
        """Whether a part goes on with it."""
        return part.kind in self.kinds

    def opening(self) -> Iterator[ResponseEvent]:
        yield self._event("output_item.added", item=self.item("in_progress"))

    def pieces(self, part: Part, logprobs: Sequence[TokenLogprob]) -> Iterator[ResponseEvent]:
        raise NotImplementedError

    def take_rest(self, logprobs: Sequence[TokenLogprob]) -> None:
        """Of tokens that came after its text: marks, and the end."""
        self.logprobs += logprobs

    def closing(self, item: Output) -> Iterator[ResponseEvent]:
        yield self._event("output_item.done", item=item)

    def item(self, status: ItemStatus) -> Output:
        raise NotImplementedError

    def _event(self, kind: str, **fields: Any) -> ResponseEvent:
        event: ResponseEvent = {"type": f"response.{kind}", "sequence_number": 0, "output_index": self.output_index}
        return {**event, **fields}  # type: ignore[typeddict-item]  # by kind

    def _inner(self, kind: str, **fields: Any) -> ResponseEvent:
        """Of what the item holds."""
        return self._event(kind, item_id=self.id, **fields)


class MessageWriter(ItemWriter):
    kinds = ("content",)

    def opening(self) -> Iterator[ResponseEvent]:
        yield from super().opening()
        yield self._inner("content_part.added", content_index=0, part=self._part())

    def pieces(self, part: Part, logprobs: Sequence[TokenLogprob]) -> Iterator[ResponseEvent]:
        self.text += part.text
        self.logprobs += logprobs
        if part.text:
            yield self._inner("output_text.delta", content_index=0, delta=part.text, logprobs=list(logprobs))

    def closing(self, item: Output) -> Iterator[ResponseEvent]:
        yield self._inner("output_text.done", content_index=0, text=self.text, logprobs=list(self.logprobs))
        yield self._inner("content_part.done", content_index=0, part=self._part())
        yield from super().closing(item)

    def item(self, status: ItemStatus) -> Output:
        content = [] if status == "in_progress" else [self._part()]
        return {"id": self.id, "type": "message", "role": "assistant", "status": status, "content": content}

    def _part(self) -> OutputText:
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": list(self.logprobs)}


class ReasoningWriter(ItemWriter):
    kinds = ("reasoning",)

    def opening(self) -> Iterator[ResponseEvent]:
        yield from super().opening()
        yield self._inner("content_part.added", content_index=0, part=self._part())

    def pieces(self, part: Part, logprobs: Sequence[TokenLogprob]) -> Iterator[ResponseEvent]:
        self.text += part.text
        self.logprobs += logprobs
        yield self._inner("reasoning_text.delta", content_index=0, delta=part.text)

    def closing(self, item: Output) -> Iterator[ResponseEvent]:
        yield self._inner("reasoning_text.done", content_index=0, text=self.text)
        yield self._inner("content_part.done", content_index=0, part=self._part())
        yield from super().closing(item)

    def item(self, status: ItemStatus) -> Output:
        content = [] if status == "in_progress" else [self._part()]
        return _with_logprobs(
            {"id": self.id, "type": "reasoning", "status": status, "summary": [], "content": content}, self.logprobs
        )

    def _part(self) -> ReasoningText:
        return {"type": "reasoning_text", "text": self.text}


class CallWriter(ItemWriter):
    kinds = ("arguments",)

    def __init__(self, name: str, output_index: int, form: CallFormat | None) -> None:
        super().__init__("fc", output_index)
        self.name, self.call_id = name, new_call_id(form)

    def pieces(self, part: Part, logprobs: Sequence[TokenLogprob]) -> Iterator[ResponseEvent]:
        self.logprobs += logprobs
        if part.kind == "arguments":
            self.text += part.text
            yield self._inner("function_call_arguments.delta", delta=part.text)

    def closing(self, item: Output) -> Iterator[ResponseEvent]:
        yield self._inner("function_call_arguments.done", name=self.name, arguments=self.text)
        yield from super().closing(item)

    def item(self, status: ItemStatus) -> Output:
        return _with_logprobs(
            {
                "id": self.id,
                "type": "function_call",
                "call_id": self.call_id,
                "name": self.name,
                "arguments": self.text,
                "status": status,
            },
            self.logprobs,
        )


def open_item(part: Part, output_index: int, form: CallFormat | None) -> ItemWriter:
    """For a part that goes on with none."""
    if part.kind == "call":
        return CallWriter(part.text, output_index, form)
    if part.kind == "reasoning":
        return ReasoningWriter("rs", output_index)
    return MessageWriter("msg", output_index)


def _with_logprobs(item: Any, logprobs: Sequence[TokenLogprob]) -> Output:
    if logprobs:
        item["logprobs"] = list(logprobs)
    told: Output = item
    return told
