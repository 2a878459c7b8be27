"""LangChain's ChatOpenAI, which drops receipts, with the receipt in `response_metadata["steering"]`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_openai import ChatOpenAI


class ChatUnsway(ChatOpenAI):
    """As ChatOpenAI; whole replies and streams keep the receipt, the trace is in `response_metadata["logprobs"]`."""

    def _create_chat_result(self, response: Any, generation_info: dict[str, Any] | None = None) -> ChatResult:
        result = super()._create_chat_result(response, generation_info)
        told = response if isinstance(response, dict) else response.to_dict(warnings=False)
        for generation, choice in zip(result.generations, told["choices"], strict=True):
            generation.message.response_metadata |= _receipt([choice])
        return result

    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], default_chunk_class: type, base_generation_info: dict[str, Any] | None
    ) -> ChatGenerationChunk | None:
        generation = super()._convert_chunk_to_generation_chunk(chunk, default_chunk_class, base_generation_info)
        if generation is not None:
            generation.message.response_metadata |= _receipt(chunk.get("choices") or [])
        return generation


def _receipt(choices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    told = choices[0].get("steering") if choices else None
    return {} if told is None else {"steering": told}
