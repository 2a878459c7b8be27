"""llama-index-llms-openai-like."""

from __future__ import annotations

import json
from typing import Any

from cells import CODES, ECHO, FORMAT, HEADER, MODEL, QUESTION, TOOL, TRACED, WAYS, addresses, raised, run
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

AT = addresses()


def chat(at: str = AT["live"], body: dict[str, Any] | None = None, **more: Any) -> OpenAILike:
    options = {"model": MODEL, "api_base": at, "api_key": "none", "temperature": 0, "is_chat_model": True} | more
    always = {"extra_body": body} if body else {}  # what stands here wins over what a call says
    return OpenAILike(additional_kwargs=always, context_window=512, **options)


def said(text: str = QUESTION) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=text)]


def text(llm: OpenAILike, **more: Any) -> str:
    return llm.chat(said(), **more).message.content


def streamed(llm: OpenAILike, asked: str = QUESTION) -> list[Any]:
    return list(llm.stream_chat(said(asked)))


def entries(choices: list[Any]) -> list[Any]:
    return [entry.steering for choice in choices if choice.logprobs for entry in choice.logprobs.content]


def whole() -> dict[str, Any]:
    reply = chat(body={"steering": TRACED}).chat(said())
    choice = reply.raw.choices[0]
    return {"text": reply.message.content, "receipt": choice.steering, "trace": entries([choice])}


def stream_of_it() -> dict[str, Any]:
    replies = streamed(chat(body={"steering": TRACED}))
    choices = [reply.raw.choices[0] for reply in replies]
    return {"text": replies[-1].message.content, "receipt": choices[-1].steering, "trace": entries(choices)}


def through_proxies() -> dict[str, str]:
    found = {}
    for way in WAYS:
        llm = chat(f"{AT['proxy']}/{way}", {"seed": 1}, model="tiny")
        found[way] = streamed(llm, ECHO)[-1].message.content
    return found


def faults(at: str = AT["faults"], **more: Any) -> dict[str, Any]:
    return {code: raised(text, chat(at, model=code, **more)) for code in CODES}


def tools() -> list[list[str]]:
    """[name, arguments] of a call that is demanded: whole, and streamed."""
    llm = chat(AT["tools"], {"seed": 1}, model="tiny", is_function_calling_model=True)
    asked: Any = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False}
    replies = [llm.chat(said(), **asked), list(llm.stream_chat(said(), **asked))[-1]]
    calls = [llm.get_tool_calls_from_response(reply)[0] for reply in replies]
    return [[call.tool_name, json.dumps(call.tool_kwargs)] for call in calls]


run(
    chat=lambda: text(chat()),
    stream=lambda: streamed(chat())[-1].message.content,
    by_body=whole,
    by_body_streamed=stream_of_it,
    per_call=lambda: text(chat(), extra_body={"steering": True}),
    per_call_is_overruled=lambda: text(chat(body={"steering": True}), extra_body={"steering": False}),
    by_header=lambda: text(chat(default_headers=HEADER)),
    by_model_id=lambda: text(chat(model=f"{MODEL}+candid")),
    off_by_model_id=lambda: text(chat(model=f"{MODEL}+none")),
    json_schema=lambda: text(chat(), response_format=FORMAT),
    bad_steering=lambda: raised(text, chat(body={"steering": {"strenght": 1}})),
    through_proxies=through_proxies,
    faults=faults,
    tools=tools,
    faults_without_retries=lambda: faults(AT["faults"].replace("llamaindex", "llamaindex-0"), max_retries=0),
    cut_off=lambda: raised(streamed, chat(AT["echo"], {"seed": 13}, model="tiny")),
)
