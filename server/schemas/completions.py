"""OpenAI's older completion request, for plain texts and for scoring them; with one more field: `steering`."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Discriminator, Field, Tag
from pydantic.json_schema import SkipJsonSchema

from server.schemas.generation import STREAMED, Generation, TokenId
from server.schemas.rules import TRUE, of, only_with

IGNORED_IN_COMPLETIONS = frozenset({"user"})
"""OpenAI's fields that do not change what this server answers: taken, and named in `x-ignored-params`."""
MAX_PROMPTS = 64

_FORMS = {str: "form:texts", int: "form:ids", list: "form:id_lists"}


def _form(value: object) -> str | None:
    """Tells the forms apart by the first item alone: errors are then of one form, not of all."""
    if isinstance(value, list):
        return _FORMS.get(type(value[0])) if value else None
    return "form:text" if isinstance(value, str) else None


TokenIds = Annotated[list[TokenId], Field(json_schema_extra={"minItems": 1})]
Prompt = Annotated[
    Annotated[str, Tag("form:text")]
    | Annotated[list[str], Field(max_length=MAX_PROMPTS, json_schema_extra={"minItems": 1}), Tag("form:texts")]
    | Annotated[TokenIds, Tag("form:ids")]
    | Annotated[list[TokenIds], Field(max_length=MAX_PROMPTS, json_schema_extra={"minItems": 1}), Tag("form:id_lists")],
    Discriminator(
        _form,
        custom_error_type="invalid_type",
        custom_error_message="must be a string, an array of strings, an array of token ids or an array of such arrays, "
        "none of them empty",
    ),
]


class CompletionRequest(Generation):
    """`POST /v1/completions`. null means absent, for every field but `model` and `prompt`."""

    model_config = ConfigDict(
        json_schema_extra={
            "dependentSchemas": {
                **STREAMED,
                **only_with("max_tokens", of(echo=TRUE), unless={"not": {"const": 0}}),
            }
        }
    )

    prompt: Prompt
    """Text is encoded as the model's tokenizer encodes it by default (control tokens it spells are such tokens, and
    one that begins every text is added if the tokenizer adds it); token ids are taken as they are."""
    max_tokens: int | None = Field(default=None, ge=0, le=2**31 - 1)
    """16 if not given, or what the context has room for; 0, with `echo`, only scores the prompt."""
    echo: bool | None = None
    """The prompt comes before the answer, with `logprobs` also its tokens' log-probabilities."""
    logprobs: int | None = Field(default=None, ge=0, le=20)
    """Log-probabilities of each token and of so many most probable ones."""
    best_of: int | None = Field(default=None, ge=1, le=16)
    """Only the value of `n` is served."""
    suffix: SkipJsonSchema[str | None] = None
