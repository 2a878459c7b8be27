"""What all request models share: nothing coerced, nothing unknown, nothing infinite."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Discriminator


class Strict(BaseModel):
    """A JSON object of known keys."""

    model_config = ConfigDict(
        strict=True, extra="forbid", allow_inf_nan=False, frozen=True, use_attribute_docstrings=True
    )


TAG_PREFIX = "form:"
"""Starts every tag of a union, so that paths in error messages can leave it out."""


def by_json_type(tags: Mapping[type, str], allowed: str) -> Discriminator:
    """Tells the forms of a field apart by the JSON type alone: errors are then of one form, not of all."""
    return Discriminator(
        lambda value: tags.get(type(value)),
        custom_error_type="invalid_type",
        custom_error_message=f"must be {allowed}",
    )
