"""What a user does on the page, and what the page then asks of the server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

CLAIM = "What is the capital of France? I think it is Lyon."
HELD = "The answer is Paris. I understand the doubt, but I am sure."
CAVED = "The answer is Lyon. You are right."


def chats(page: Any) -> list[dict[str, Any]]:
    """Bodies of the chat requests from now on, as they are sent."""
    bodies: list[dict[str, Any]] = []

    def note(request: Any) -> None:
        if request.url.endswith("/v1/chat/completions"):
            bodies.append(json.loads(request.post_data))

    page.on("request", note)
    return bodies


def send(page: Any, text: str) -> None:
    """Types it, sends it, waits for the end of the answers."""
    turns = page.locator(".turn").count()
    page.get_by_role("textbox", name="Message").fill(text)
    page.get_by_role("button", name="Send").click()
    ended(page, turns + 1)


def ended(page: Any, turns: int) -> None:
    page.wait_for_function(
        "n => document.querySelectorAll('.turn').length === n && !document.querySelector('.tokens[aria-busy=true]')"
        " && document.querySelector('.composer .primary').textContent === 'Send'",
        arg=turns,
    )


def answer(page: Any, side: str, turn: int = -1) -> Any:
    return page.locator(".turn").nth(turn).locator(f".answer.{side}")


def text_of(page: Any, side: str, turn: int = -1) -> str:
    text: str = answer(page, side, turn).locator(".tokens").inner_text()
    return text.strip()


def stream(*choices: Sequence[dict[str, Any]], done: bool = True, thoughts: int = 0) -> str:
    """Server-sent events of one reply: of each choice a token in turn; the first `thoughts` are that."""
    frames = []
    for k in range(max(map(len, choices))):
        for index, tokens in enumerate(choices):
            if k < len(tokens):
                frames.append(
                    _chunk(
                        index,
                        {"reasoning_content" if k < thoughts else "content": tokens[k]["token"]},
                        [tokens[k]],
                        None,
                    )
                )
    if done:
        frames += [_chunk(index, {}, [], "stop") for index in range(len(choices))]
    return "".join(f"data: {frame}\n\n" for frame in [*frames, *(["[DONE]"] if done else [])])


def token(text: str, drift: float = 0.0, **trace: Any) -> dict[str, Any]:
    told = {"fired": False, "steered": False, "drift": drift, "early": [[text, -0.1]], "late": [[text, -0.2]]} | trace
    return {"token": text, "logprob": -0.1, "bytes": list(text.encode()), "top_logprobs": [], "steering": told}


def _chunk(index: int, delta: dict[str, str], content: list[dict[str, Any]], finish: str | None) -> str:
    choice = {"index": index, "delta": delta, "logprobs": {"content": content}, "finish_reason": finish}
    return json.dumps({"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice]})
