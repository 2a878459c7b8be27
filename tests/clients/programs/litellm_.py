"""LiteLLM's SDK."""

from __future__ import annotations

from typing import Any

import httpx
import litellm
from cells import ASKED, CODES, ECHO, FORMAT, HEADER, MODEL, TOOL, TRACED, WAYS, addresses, raised, run

AT = addresses()


def chat(at: str = AT["live"], **more: Any) -> Any:
    asked = {"model": MODEL, "messages": ASKED, "temperature": 0} | more
    return litellm.completion(api_base=at, api_key="none", **asked | {"model": f"openai/{asked['model']}"})


def text(**more: Any) -> str:
    return chat(**more).choices[0].message.content


def streamed(**more: Any) -> list[Any]:
    return list(chat(stream=True, **more))


def joined(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def entries(choices: list[Any]) -> list[Any]:
    return [entry.steering for choice in choices if choice.logprobs for entry in choice.logprobs.content]


def whole() -> dict[str, Any]:
    choice = chat(steering=TRACED).choices[0]
    return {
        "text": choice.message.content,
        "receipt": choice.provider_specific_fields["steering"],
        "trace": entries([choice]),
    }


def stream_of_it() -> dict[str, Any]:
    """The receipt is lost with the last chunk, which LiteLLM writes anew: it is kept under the id."""
    chunks = streamed(steering=TRACED)
    kept = httpx.get(f"{AT['live']}/steering/traces/{chunks[0].id}", trust_env=False).json()
    return {
        "text": joined(chunks),
        "receipt": kept["choices"][0]["steering"],
        "in_chunks": any(getattr(chunk.choices[0], "steering", None) for chunk in chunks),
        "trace": entries([chunk.choices[0] for chunk in chunks]),
    }


def through_proxies() -> dict[str, str]:
    echo = {"model": "tiny", "messages": [{"role": "user", "content": ECHO}], "seed": 1}
    return {way: joined(streamed(at=f"{AT['proxy']}/{way}", **echo)) for way in WAYS}


def faults() -> dict[str, Any]:
    return {code: raised(chat, AT["faults"], model=code) for code in CODES}


def tools() -> list[list[str]]:
    """[name, arguments] of a call that is demanded: whole, and streamed."""
    asked: Any = {"at": AT["tools"], "model": "tiny", "tools": [TOOL], "tool_choice": "required", "seed": 1}
    asked["parallel_tool_calls"] = False
    replies = [chat(**asked), litellm.stream_chunk_builder(streamed(**asked))]
    calls = [reply.choices[0].message.tool_calls[0].function for reply in replies]
    return [[call.name, call.arguments] for call in calls]


run(
    chat=text,
    stream=lambda: joined(streamed()),
    by_body=whole,
    by_body_streamed=stream_of_it,
    per_call=lambda: text(extra_body={"steering": True}),
    by_header=lambda: text(extra_headers=HEADER),
    by_model_id=lambda: text(model=f"{MODEL}+candid"),
    off_by_model_id=lambda: text(model=f"{MODEL}+none"),
    json_schema=lambda: text(response_format=FORMAT),
    bad_steering=lambda: raised(text, steering={"strenght": 1}),
    through_proxies=through_proxies,
    faults=faults,
    tools=tools,
    cut_off=lambda: raised(streamed, at=AT["echo"], model="tiny", seed=13),
)
