"""What Schemathesis is taught of the server under test, so that what it sends as valid is; loaded into its own process.

Only what it makes as valid data is touched (`map_case`), never what it makes as invalid, and no check. Taught are names
that exist, lengths at which answers are quick, and rules that no schema can say: between equal values, earlier and
later items of a list, headers, or text in a string.
"""

from __future__ import annotations

import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import schemathesis
from schemathesis.generation.meta import TestPhase

Json = dict[str, Any]

MODEL = os.environ["UNSWAY_FUZZ_MODEL"]
KEY = os.environ["UNSWAY_FUZZ_KEY"]
PACK = Path(os.environ["UNSWAY_FUZZ_PACK"])
"""A pack in one file. Its own name is what it must be uploaded as."""
VOCABULARY, LAYERS, GROUPS, NEURONS = 384, 4, 2, 128
"""Of the model, or fewer."""
LENGTH, ANSWER = 200, 4
"""Characters of a text and tokens of an answer: the context is short, and so is time."""
PARIS = {"type": "object", "properties": {"city": {"const": "Paris"}}}
MAX_JOBS = 8
_ENDED = ("completed", "failed", "cancelled")
_JOB_ID = re.compile("job_[0-9a-f]{24}")
_TRACED = ("create_chat_completion", "create_completion", "create_response")
QUESTION = {"question": "What is the capital of France?", "correct": "Paris", "incorrect": "Lyon"}


@schemathesis.hook
def before_load_schema(context: Any, raw_schema: Json) -> None:
    """Examples name the bundled model; another one is served."""
    taught = json.loads(json.dumps(raw_schema).replace("unsway-organism", MODEL))
    raw_schema.clear()
    raw_schema.update(taught)


@schemathesis.hook
def map_case(context: Any, case: Any) -> Any:
    if case.meta is not None and case.meta.generation.mode.is_negative:
        return case
    name = context.operation.definition.raw["operationId"]
    if isinstance(case.body, dict) and name in _FITS:
        body = _whole(case.body)
        _FITS[name](body)
        if case.meta is not None and case.meta.phase.name == TestPhase.STATEFUL and name in _TRACED:
            body.update(stream=False, steering="candid")  # so that there is a trace, and the id to find it by
        case.body = body
    if name == "upload_profile":
        case.body, case.path_parameters = PACK.read_bytes(), {"name": PACK.stem}
    _fit_headers(case, name)
    return case


@schemathesis.hook
def before_add_examples(context: Any, examples: list[Any]) -> None:
    """Which `map_case` does not see."""
    examples[:] = [map_case(context, example) for example in examples]


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Json) -> None:
    """DELETE of a job that has not ended cancels it, and leaves it to be looked at; of one that has, it forgets it.

    To the tool it always means the latter: so the job is cancelled before. So is one whose events are asked for, which
    end with the job. And there is room for another one.
    """
    name = case.operation.definition.raw["operationId"]
    url = f"{str(case.operation.base_url).rstrip('/')}/v1/steering/jobs"
    if name == "create_job":
        _make_room(url)
    if name in ("delete_job", "stream_job_events") and _JOB_ID.fullmatch(
        str((case.path_parameters or {}).get("job_id"))
    ):
        _cancel(f"{url}/{case.path_parameters['job_id']}")


def _make_room(url: str) -> None:
    """All but the latest go."""
    jobs = (_call("GET", url) or {"data": []})["data"]
    for job in jobs[MAX_JOBS:]:
        _cancel(f"{url}/{job['id']}")
        _call("DELETE", f"{url}/{job['id']}")


def _cancel(url: str) -> None:
    job = _call("GET", url)
    if job is not None and job["state"] not in _ENDED:
        _call("DELETE", url)
    while job is not None and job["state"] not in _ENDED:
        time.sleep(0.05)
        job = _call("GET", url)


def _call(method: str, url: str) -> Json | None:
    """None where there is nothing."""
    request = urllib.request.Request(url, method=method, headers={"Authorization": f"Bearer {KEY}"})  # noqa: S310 - of the server under test
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310
            told: Json = json.load(reply)
            return told
    except urllib.error.HTTPError:
        return None


def _fit_headers(case: Any, name: str) -> None:
    headers = case.headers
    if not headers:
        return
    if name == "upload_profile" and "If-Match" in headers and "If-None-Match" in headers:
        del headers["If-None-Match"]  # not both
    if str(headers.get("If-Match", "*"))[0] not in '*"W':
        del headers["If-Match"]  # Schemathesis 4.32.5 takes over a number from an invalid case into a valid one
    if (steering := headers.get("X-Steering-Profile")) is None:
        return
    head, *parts = (part.strip() for part in str(steering).split(";"))
    once = {part.partition("=")[0]: part for part in parts}  # each key once
    if isinstance(case.body, dict):
        case.body.pop("steering", None)  # they may not name different profiles, nor
        case.body.pop("n", None)  # several answers beside mode compare
    headers["X-Steering-Profile"] = ";".join((head, *once.values()))


def _whole(value: Any) -> Any:
    """A copy. To JSON Schema 1.0 is an integer; this server is strict."""
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _text(value: Any) -> Any:
    return value[:LENGTH] or "Hello" if isinstance(value, str) else value


def _fit_generation(body: Json) -> None:
    body["model"] = MODEL
    if isinstance(body.get("steering"), str | dict):
        body["steering"] = _steering(body["steering"])
    if isinstance(body.get("steering"), dict) and body["steering"].get("mode") == "compare":
        body.pop("n", None)
    if (body.get("n") or 1) > 2:
        body["n"] = 2
    if body.get("stop_token_ids"):
        body["stop_token_ids"] = [token_id % VOCABULARY for token_id in body["stop_token_ids"]]
    if body.get("logit_bias"):
        body["logit_bias"] = {str(int(key) % VOCABULARY): value for key, value in body["logit_bias"].items()}


def _steering(value: str | Json) -> str | Json:
    """A string that looks like JSON is some. Strengths suit every profile, layers and units the model."""
    if isinstance(value, str):
        return '{"profile": "candid"}' if value.strip()[:1] in ('"', "{") else value
    if value.get("strength") is not None:
        value["strength"] = 0 if value["strength"] < 1e-6 else min(value["strength"], 1)
    for correction in value.get("corrections") or ():
        is_heads = correction["site"].startswith("attn_z")
        correction["site"] = f"attn_z.{LAYERS - 1}" if is_heads else f"mlp_act.{LAYERS - 1}"
        key, most = ("groups", GROUPS) if is_heads else ("neurons", NEURONS)
        correction.update(groups=None, neurons=None)
        correction[key] = [len(value["corrections"]) % most]
        if 0 < abs(correction["scale"]) < 1e-6:
            correction["scale"] = 0
    if value.get("corrections"):
        value["corrections"] = value["corrections"][:1]  # no unit twice
        value["gate"] = None  # without a profile there is no drift
    return value


def _messages(given: list[Json]) -> list[Json]:
    """Calls that are told of were made before; the last turn is one that can be answered."""
    messages, called = [], []
    for message in given[:6]:
        role, content = message["role"], message.get("content")
        if isinstance(content, list):
            content = [{**part, "text": _text(part["text"])} for part in content[:2]]
        message = {**message, "content": _text(content)}
        if isinstance(message.get("reasoning_content"), str):
            message["reasoning_content"] = message["reasoning_content"][:LENGTH]
        calls = [_call_of(call) for call in (message.get("tool_calls") or ())[:2]]
        if role == "assistant" and calls:
            message["tool_calls"] = calls
            called += [call["id"] for call in calls]
        if role == "tool" and not called:
            continue
        if role == "tool":
            message["tool_call_id"] = called[-1]
        messages.append(message)
    return [*messages, {"role": "user", "content": "Hello"}]


def _call_of(call: Json) -> Json:
    return {**call, "function": {**call["function"], "arguments": "{}"}}


def _fit_chat(body: Json) -> None:
    _fit_generation(body)
    body["messages"] = _messages(body["messages"])
    body.pop("max_completion_tokens", None)  # equal to the other, if both are given
    body["max_tokens"] = min(body.get("max_tokens") or ANSWER, ANSWER)
    if (body.get("response_format") or {}).get("type") == "json_schema":
        body["response_format"]["json_schema"]["schema"] = PARIS
    if body.get("tools") and body.get("parallel_tool_calls") is False:
        body.pop("stop_token_ids", None)  # which nothing that constrains the answer goes with
    _fit_tools(body, [tool["function"] for tool in body.get("tools") or ()])
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        choice["function"]["name"] = body["tools"][0]["function"]["name"]


def _fit_tools(body: Json, functions: list[Json]) -> None:
    """No name twice; schemas of arguments are schemas."""
    if body.get("tools"):
        body["tools"] = body["tools"][:2]
    for i, function in enumerate(functions):
        function["name"] = f"{function['name'][:60]}_{i}"
        if function.get("parameters") is not None:
            function["parameters"] = PARIS
        if isinstance(function.get("description"), str):
            function["description"] = function["description"][:LENGTH]


def _fit_completion(body: Json) -> None:
    _fit_generation(body)
    body.pop("best_of", None)  # equal to n
    prompt = body["prompt"]
    if isinstance(prompt, str):
        prompt = _text(prompt)
    elif isinstance(prompt[0], int):
        prompt = [token_id % VOCABULARY for token_id in prompt[:LENGTH]]
    elif isinstance(prompt[0], str):
        prompt = [_text(text) for text in prompt[:2]]
    else:
        prompt = [[token_id % VOCABULARY for token_id in ids[:LENGTH]] for ids in prompt[:2]]
    body["prompt"] = prompt
    if body.get("max_tokens") is None or body["max_tokens"] > ANSWER:
        body["max_tokens"] = ANSWER


def _fit_response(body: Json) -> None:
    _fit_generation(body)
    if isinstance(body.get("steering"), dict) and body["steering"].get("mode") == "compare":
        body["steering"]["mode"] = "observe"  # for chats alone
    body["max_output_tokens"] = ANSWER
    if isinstance(body.get("instructions"), str):
        body["instructions"] = _text(body["instructions"])
    body["input"] = _text(body["input"]) if isinstance(body["input"], str) else _items(body["input"])
    form = (body.get("text") or {}).get("format") or {}
    if form.get("type") == "json_schema":
        form["schema"] = PARIS
    _fit_tools(body, body.get("tools") or [])
    if isinstance(body.get("tool_choice"), dict):
        if body.get("tools"):
            body["tool_choice"]["name"] = body["tools"][0]["name"]
        else:
            del body["tool_choice"]


def _items(given: list[Json]) -> list[Json]:
    """As `_messages`; a call and reasoning are followed by something."""
    items, called = [], []
    for item in given[:6]:
        kind = item.get("type") or "message"
        for key in ("content", "output", "summary"):
            if isinstance(item.get(key), list):
                item[key] = [{**part, "text": _text(part["text"])} for part in item[key][:2]]
            elif isinstance(item.get(key), str):
                item[key] = _text(item[key])
        if kind == "function_call":
            item["arguments"] = "{}"
            called.append(item["call_id"])
        if kind == "function_call_output" and not called:
            continue
        if kind == "function_call_output":
            item["call_id"] = called[-1]
        items.append(item)
    return [*items, {"role": "user", "content": "Hello"}]


def _fit_reading(body: Json) -> None:
    if body.get("model") is not None:
        body["model"] = MODEL
    if body.get("messages") is not None:
        body["messages"] = _messages(body["messages"])
    if body.get("candidates"):
        body["candidates"] = ["Paris", "Lyon"]  # that begin tokens of their own, and not with each other


def _fit_lens(body: Json) -> None:
    _fit_reading(body)
    if body.get("text") is not None:
        body["text"] = _text(body["text"])
        body.pop("candidates", None)  # which may melt into a text's last token
    if body.get("layers"):
        body["layers"] = sorted({layer % (LAYERS + 1) for layer in body["layers"]})


def _fit_verify(body: Json) -> None:
    _fit_reading(body)
    if body.get("answer") is not None:
        body["answer"] = "The answer is Lyon." if body.get("candidates") else _text(body["answer"])
    else:
        body["max_tokens"] = ANSWER


def _fit_job(body: Json) -> None:
    """Questions make sense together, and goals are of measures that the suites have; another model than the bundled one
    brings no questions."""
    if body["kind"] == "calibrate":
        body["questions"] = [{**QUESTION, "question": f"{QUESTION['question']} ({i})"} for i in range(24)]
        body.pop("test", None)
    for goals in ("fail_under", "fail_over"):
        body.pop(goals, None)
    if body.get("limit") is not None:
        body["limit"] = 1


_FITS: dict[str, Callable[[Json], None]] = {
    "create_chat_completion": _fit_chat,
    "create_completion": _fit_completion,
    "create_response": _fit_response,
    "read_lens": _fit_lens,
    "verify_answer": _fit_verify,
    "create_job": _fit_job,
}
