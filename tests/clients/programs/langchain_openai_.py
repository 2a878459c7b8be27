"""langchain-openai."""

from __future__ import annotations

import json
from typing import Any

import httpx
from cells import ASKED, CODES, ECHO, FORMAT, HEADER, MODEL, QUESTION, TOOL, TRACED, WAYS, addresses, raised, run
from langchain_openai import ChatOpenAI

from unsway_client.langchain import ChatUnsway

AT = addresses()


def chat(at: str = AT["live"], of: type[ChatOpenAI] = ChatOpenAI, **more: Any) -> ChatOpenAI:
    options = {"model": MODEL, "base_url": at, "api_key": "none", "temperature": 0} | more
    return of(**options)


def text(llm: Any) -> str:
    return llm.invoke(QUESTION).content


def streamed(llm: Any, said: str = QUESTION) -> Any:
    """All chunks, added up as LangChain adds them."""
    first, *others = llm.stream(said)
    for other in others:
        first += other
    return first


def found(message: Any) -> dict[str, Any]:
    told = message.response_metadata
    return {
        "text": message.content,
        "receipt": told.get("steering"),
        "trace": [entry["steering"] for entry in told["logprobs"]["content"]],
    }


def kept_by_id() -> dict[str, Any]:
    """The receipt, of ChatOpenAI, by the id of a whole reply."""
    reply = chat(extra_body={"steering": TRACED}).invoke(QUESTION)
    kept = httpx.get(f"{AT['live']}/steering/traces/{reply.response_metadata['id']}", trust_env=False).json()
    return kept["choices"][0]["steering"]


def through_proxies() -> dict[str, str]:
    return {way: streamed(chat(f"{AT['proxy']}/{way}", model="tiny", seed=1), ECHO).content for way in WAYS}


def faults() -> dict[str, Any]:
    return {code: raised(chat(AT["faults"], model=code).invoke, ASKED) for code in CODES}


def tools() -> list[list[str]]:
    """[name, arguments] of a call that is demanded: whole, and streamed."""
    llm = chat(AT["tools"], model="tiny", seed=1).bind_tools([TOOL], tool_choice="required", parallel_tool_calls=False)
    calls = [reply.tool_calls[0] for reply in (llm.invoke(QUESTION), streamed(llm))]
    return [[call["name"], json.dumps(call["args"])] for call in calls]


steered, ours = chat(extra_body={"steering": TRACED}), chat(of=ChatUnsway, extra_body={"steering": TRACED})
run(
    chat=lambda: text(chat()),
    stream=lambda: streamed(chat()).content,
    by_body=lambda: found(ours.invoke(QUESTION)),
    by_body_streamed=lambda: found(streamed(ours)),
    plain_class=lambda: [found(steered.invoke(QUESTION)), found(streamed(steered))],
    per_call=lambda: chat().invoke(QUESTION, extra_body={"steering": True}).content,
    kept_by_id=kept_by_id,
    by_header=lambda: text(chat(default_headers=HEADER)),
    by_model_id=lambda: text(chat(model=f"{MODEL}+candid")),
    off_by_model_id=lambda: text(chat(model=f"{MODEL}+none")),
    json_schema=lambda: text(chat().bind(response_format=FORMAT)),
    bad_steering=lambda: raised(text, chat(extra_body={"steering": {"strenght": 1}})),
    through_proxies=through_proxies,
    faults=faults,
    tools=tools,
    cut_off=lambda: raised(streamed, chat(AT["echo"], model="tiny", seed=13)),
)
