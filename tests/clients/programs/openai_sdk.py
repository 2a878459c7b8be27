"""The official package, 2.x and 3.x."""

from __future__ import annotations

from typing import Any

from cells import ASKED, CODES, ECHO, FORMAT, HEADER, MODEL, QUESTION, TOOL, TRACED, WAYS, addresses, raised, run
from openai import OpenAI

AT = addresses()
client = OpenAI(base_url=AT["live"], api_key="none")
chat = client.chat.completions


def text(**more: Any) -> str:
    reply = chat.create(**{"model": MODEL, "messages": ASKED, "temperature": 0} | more)
    return reply.choices[0].message.content


def streamed(at: OpenAI = client, **more: Any) -> list[Any]:
    asked = {"model": MODEL, "messages": ASKED, "temperature": 0, "stream": True} | more
    return list(at.chat.completions.create(**asked))


def joined(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def whole() -> dict[str, Any]:
    reply = chat.create(model=MODEL, messages=ASKED, temperature=0, extra_body={"steering": TRACED})
    choice = reply.choices[0]
    return {
        "text": choice.message.content,
        "receipt": choice.steering,
        "trace": [entry.steering for entry in choice.logprobs.content],
        "steered_tokens": reply.usage.completion_tokens_details.steered_tokens,
    }


def stream_of_it() -> dict[str, Any]:
    chunks = streamed(extra_body={"steering": TRACED})
    entries = [entry for chunk in chunks if chunk.choices[0].logprobs for entry in chunk.choices[0].logprobs.content]
    return {
        "text": joined(chunks),
        "receipt": chunks[-1].choices[0].steering,
        "trace": [entry.steering for entry in entries],
    }


def helper() -> dict[str, Any]:
    with chat.stream(model=MODEL, messages=ASKED, temperature=0, extra_body={"steering": TRACED}) as stream:
        choice = stream.get_final_completion().choices[0]
    return {"text": choice.message.content, "trace": [entry.steering for entry in choice.logprobs.content]}


def usage() -> list[list[bool]]:
    """[has choices, has usage] of each chunk's kind, without include_usage and with it."""
    asked = streamed(stream_options={"include_usage": True})
    return [[bool(chunk.choices), chunk.usage is not None] for chunk in (streamed()[-1], asked[-2], asked[-1])]


def through_proxies() -> dict[str, str]:
    found = {}
    for way in WAYS:
        at = OpenAI(base_url=f"{AT['proxy']}/{way}", api_key="none")
        found[way] = joined(streamed(at, model="tiny", messages=[{"role": "user", "content": ECHO}], seed=1))
    return found


def faults() -> dict[str, Any]:
    at = OpenAI(base_url=AT["faults"], api_key="none")
    return {code: raised(at.chat.completions.create, model=code, messages=ASKED) for code in CODES}


def tools() -> list[list[str]]:
    """[name, arguments] of a call that is demanded: whole, and as the accumulating helper puts it together."""
    at = OpenAI(base_url=AT["tools"], api_key="none").chat.completions
    asked: Any = {"model": "tiny", "messages": ASKED, "tools": [TOOL], "tool_choice": "required", "seed": 1}
    asked["parallel_tool_calls"] = False
    with at.stream(**asked) as stream:
        streamed = stream.get_final_completion()
    calls = [reply.choices[0].message.tool_calls[0].function for reply in (at.create(**asked), streamed)]
    return [[call.name, call.arguments] for call in calls]


def cut_off() -> dict[str, Any]:
    """An error after the first tokens."""
    at = OpenAI(base_url=AT["echo"], api_key="none", max_retries=0)
    return raised(streamed, at, model="tiny", seed=13)


run(
    chat=text,
    stream=lambda: joined(streamed()),
    by_body=whole,
    by_body_streamed=stream_of_it,
    by_body_helper=helper,
    by_header=lambda: text(extra_headers=HEADER),
    by_model_id=lambda: text(model=f"{MODEL}+candid"),
    off_by_model_id=lambda: text(model=f"{MODEL}+none"),
    json_schema=lambda: text(response_format=FORMAT, extra_body={"steering": True}),
    completion=lambda: (
        client.completions.create(model=MODEL, prompt=QUESTION, max_tokens=2, extra_body={"steering": TRACED})
        .choices[0]
        .steering
    ),
    usage=usage,
    bad_steering=lambda: raised(text, extra_body={"steering": {"strenght": 1}}),
    through_proxies=through_proxies,
    faults=faults,
    cut_off=cut_off,
    tools=tools,
)
