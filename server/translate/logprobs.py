"""Log-probabilities of tokens as chats and responses tell them."""

from __future__ import annotations

from server.schemas.replies import TokenLogprob, TopLogprob
from server.translate.receipt import finite, trace
from steering.engine.request import Token
from steering.model.chat import token_bytes
from steering.model.loading import LanguageModel
from steering.plan import Plan


def token_logprob(token: Token, plan: Plan, model: LanguageModel) -> TokenLogprob:
    """With what the lens saw, if the plan traces tokens."""
    drawn = _top_logprob(token.id, token.logprob, model)
    entry: TokenLogprob = {
        "token": drawn["token"],
        "logprob": drawn["logprob"],
        "bytes": drawn["bytes"],
        "top_logprobs": [_top_logprob(token_id, value, model) for token_id, value in token.top_logprobs],
    }
    if traced := trace(token, plan, model):
        entry["steering"] = traced
    return entry


def _top_logprob(token_id: int, logprob: float | None, model: LanguageModel) -> TopLogprob:
    raw = token_bytes(model, token_id)
    return {"token": raw.decode(errors="replace"), "logprob": finite(logprob), "bytes": list(raw)}
