"""The `response_format` field of a chat request, as OpenAI has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from server.schemas.strict import Strict

_KINDS = ("text", "json_object", "json_schema")


class TextFormat(Strict):
    """Any text: what no format at all means."""

    type: Literal["text"]


class JsonObjectFormat(Strict):
    """A JSON object, nested as deep as may be."""

    type: Literal["json_object"]


class JsonSchema(Strict):
    name: str = Field(min_length=1, max_length=64)
    """Taken and not used."""
    json_schema: dict[str, object] = Field(alias="schema")
    """What the answer must be, up to 64 KB. `$ref` within it may be recursive. What cannot be promised (`not`,
    `uniqueItems`, `oneOf`, look-around in a pattern, ...) is refused, never left out."""
    strict: bool | None = None
    """Taken and not used: the schema always holds."""
    description: str | None = Field(default=None, max_length=4096)
    """Taken and not used: no template has a place for it."""


class JsonSchemaFormat(Strict):
    """JSON that a schema describes; its properties come in the order of the schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


def _kind(value: object) -> str | None:
    kind = value.get("type") if isinstance(value, Mapping) else None
    return f"form:{kind}" if kind in _KINDS else None


ResponseFormat = Annotated[
    Annotated[TextFormat, Tag("form:text")]
    | Annotated[JsonObjectFormat, Tag("form:json_object")]
    | Annotated[JsonSchemaFormat, Tag("form:json_schema")],
    Discriminator(
        _kind,
        custom_error_type="invalid_value",
        custom_error_message='must be an object whose type is "text", "json_object" or "json_schema"',
    ),
]
