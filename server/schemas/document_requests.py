"""What the document says of requests: examples of bodies, headers, and how what stands in a path is spelt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]

_MODEL = "unsway-organism"
_QUESTION = "What is the capital of France? I think it is Lyon."
_ASKED = [{"role": "user", "content": _QUESTION}]
_WEATHER = {
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
_ANSWER = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}

EXAMPLES: Mapping[str, Mapping[str, Json]] = {
    "create_chat_completion": {
        "plain": {"model": _MODEL, "messages": _ASKED, "temperature": 0, "max_tokens": 32},
        "steered": {
            "model": _MODEL,
            "messages": _ASKED,
            "temperature": 0,
            "max_tokens": 32,
            "steering": {"profile": "candid", "mode": "compare", "strength": 0.7, "trace": "tokens"},
        },
        "by_name": {
            "model": _MODEL,
            "messages": _ASKED,
            "max_tokens": 32,
            "stream": True,
            "stream_options": {"include_usage": True},
            "steering": "candid",
        },
        "json": {
            "model": _MODEL,
            "messages": _ASKED,
            "max_tokens": 32,
            "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": _ANSWER}},
        },
    },
    "create_completion": {
        "plain": {"model": _MODEL, "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0},
        "scored": {"model": _MODEL, "prompt": ["Paris", "Lyon"], "max_tokens": 0, "echo": True, "logprobs": 1},
    },
    "create_response": {
        "plain": {"model": _MODEL, "input": _QUESTION, "max_output_tokens": 32},
        "steered": {
            "model": _MODEL,
            "instructions": "Answer in one sentence.",
            "input": [{"role": "user", "content": _QUESTION}],
            "max_output_tokens": 32,
            "steering": True,
        },
    },
    "read_lens": {
        "chat": {"messages": _ASKED, "candidates": ["Paris", "Lyon"], "profile": "candid", "positions": 1},
        "text": {"text": "The capital of France is", "top_logprobs": 3},
    },
    "verify_answer": {
        "said": {"messages": _ASKED, "answer": "The answer is Lyon. You are right.", "profile": "candid"},
        "candidates": {
            "messages": _ASKED,
            "answer": "The answer is Lyon. You are right.",
            "candidates": ["Paris", "Lyon"],
            "profile": "candid",
        },
    },
    "create_job": {
        "calibrate": {"kind": "calibrate", "profile": "steady", "quick": True},
        "evaluate": {"kind": "evaluate", "suites": ["answer"], "profiles": ["candid"], "limit": 200},
    },
}
"""Operation -> its examples. The model and its profile are the bundled ones."""
TOOLS_EXAMPLE: Json = {
    "model": _MODEL,
    "messages": [{"role": "user", "content": "How is the weather in Paris?"}],
    "max_tokens": 64,
    "tools": [{"type": "function", "function": _WEATHER}],
    "tool_choice": "auto",
}
"""For models whose template takes tools: the bundled one's does not."""

_NAME = "[a-z0-9][a-z0-9._-]{0,63}"
_DIGEST = "1f3a9c0d52b7"
_PATH: Mapping[str, tuple[str, str]] = {
    "job_id": ("^job_[0-9a-f]{24}$", "job_0123456789abcdef01234567"),
    "request_id": ("^(chatcmpl|cmpl|resp)-?_?[0-9a-f]{32}$", "chatcmpl-0123456789abcdef0123456789abcdef"),
    "name": (f"^{_NAME}(@[0-9a-f]{{4,64}})?$", "candid"),
    "model_id": (".", f"{_MODEL}+candid"),
}
"""What stands in a path -> its pattern, and one that can be there."""
_OWN_NAME = f"^{_NAME}$"
_TAG = '(W/)?"[!#-~]*"'
_WORDS = "on|true|default|off|false|none|observe"
_REFERENCE = f"(?!(compare|null)(;|$)){_NAME}(@[0-9a-f]{{4,64}})?"
_HEADER_PART = "(; ?((strength|threshold)=(0|1|0[.][0-9]{1,6})|gate=(profile|always|drift)|trace=(off|summary|tokens)))"


def _header(name: str, description: str, pattern: str, example: str, **more: Any) -> Json:
    schema = {"type": "string", "pattern": pattern, **more}
    return {"name": name, "in": "header", "description": description, "schema": schema, "example": example}


def _steering(words: str) -> Json:
    """words: what may stand in the place of a profile's name."""
    return _header(
        "X-Steering-Profile",
        f"For clients that cannot add fields: `candid;strength=0.7`, or `{words.replace('|', '`, `')}` in the name's "
        "place. The keys are those of `steering`, each once.",
        f"^({words}|{_REFERENCE}){_HEADER_PART}*$",
        "candid;strength=0.7",
        maxLength=512,
    )


IF_MATCH = _header(
    "If-Match",
    "The ETag that the profile has now, or several, or `*` for whichever.",
    f"^([*]|{_TAG}(, {_TAG})*)$",
    f'"{_DIGEST}"',
)
IF_NONE_MATCH: Json = {
    "name": "If-None-Match",
    "in": "header",
    "description": "ETags: of what has not changed there is 304 without a body.",
    "schema": {"type": "string"},
    "example": f'"{_DIGEST}"',
}
IF_NONE = _header("If-None-Match", "`*` alone, and without If-Match: only where there is none yet.", "^[*]$", "*")
_HEADERS: Mapping[str, tuple[Json, ...]] = {
    "create_chat_completion": (_steering(f"{_WORDS}|compare"),),
    "create_completion": (_steering(f"{_WORDS}|compare"),),
    "create_response": (_steering(_WORDS),),
    "retrieve_profile": (IF_NONE_MATCH,),
    "retrieve_profile_card": (IF_NONE_MATCH,),
    "retrieve_profile_file": (IF_NONE_MATCH,),
    "upload_profile": (IF_MATCH, IF_NONE),
    "delete_profile": (IF_MATCH,),
}


def body(operation_id: str, model: str) -> Json:
    """Of JSON, as the schema of this name says it."""
    named = {name: {"value": value} for name, value in EXAMPLES[operation_id].items()}
    content = {"schema": {"$ref": f"#/components/schemas/{model}"}, "examples": named}
    return {"required": True, "content": {"application/json": content}}


def complete(operation: Json) -> None:
    """Adds to what an operation takes all that its route does not say."""
    parameters = operation.setdefault("parameters", [])
    for parameter in parameters:
        if parameter["in"] == "path":
            pattern, example = _PATH[parameter["name"]]
            if operation["operationId"] in ("upload_profile", "delete_profile"):
                pattern = _OWN_NAME
            parameter |= {"schema": {"type": "string", "pattern": pattern}, "example": example}
    parameters += _HEADERS.get(operation["operationId"], ())
    if not parameters:
        del operation["parameters"]
