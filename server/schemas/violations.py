"""Validation: JSON -> request model, and what was wrong in the words and codes of OpenAI's API."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterator, Sequence
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import AliasChoices, BaseModel, Tag, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from server.errors import ApiError
from server.schemas.strict import TAG_PREFIX

MAX_SHOWN = 5
"""Violations spelled out in one reply."""

Path = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)

_TYPES: dict[str, str] = {
    "bool_type": "true or false",
    "int_type": "an integer",
    "float_type": "a number",
    "string_type": "a string",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
"""pydantic's error types for a value of the wrong JSON type -> what was wanted."""
_LENGTHS: dict[str, str] = {
    "string_too_long": "string_above_max_length",
    "string_too_short": "string_below_min_length",
    "too_long": "array_above_max_length",
    "too_short": "array_below_min_length",
}
_BOUNDS: dict[str, str] = {
    "less_than": "above_max_value",
    "less_than_equal": "above_max_value",
    "greater_than": "below_min_value",
    "greater_than_equal": "below_min_value",
}


def validate(model: type[Model], data: object, prefix: Path = (), *, ignorable: Collection[str] = ()) -> Model:
    """`data` as `model`; `ApiError` that names every wrong field (the first five) with its allowed range, unknown ones
    before those that are missing for it. ignorable: fields that were known, and taken out of `data`."""
    if not isinstance(data, dict):
        name = _dotted(prefix)
        raise ApiError("invalid_type", f"{name or 'The body'} must be an object ({_got(data)}).", name or None)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found = sorted(error.errors(include_url=False), key=lambda details: details["type"] != "extra_forbidden")
        violations = [_violation(model, details, prefix, ignorable) for details in found]
    if len(violations) == 1:
        raise violations[0]
    shown = " ".join(str(violation) for violation in violations[:MAX_SHOWN])
    more = f", first {MAX_SHOWN} shown" if len(violations) > MAX_SHOWN else ""
    raise ApiError(violations[0].code, f"{len(violations)} errors{more}: {shown}", violations[0].param)


def _violation(model: type[BaseModel], details: ErrorDetails, prefix: Path, ignorable: Collection[str]) -> ApiError:
    """One pydantic error in OpenAI's terms."""
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    path = tuple(part for part in details["loc"] if not str(part).startswith(TAG_PREFIX))
    owner, field = _declaration(model, details["loc"])
    name = _dotted(prefix + path) or "The body"
    if kind == "missing":
        code, sentence = "missing_required_parameter", "is required"
    elif kind == "extra_forbidden":
        known = [*_fields(owner), *(ignorable if owner is model else ())]
        code, sentence = "unknown_parameter", f"is not a known parameter{_suggestion(known, str(path[-1]))}"
    elif kind in _TYPES:
        code, sentence = "invalid_type", f"must be {_TYPES[kind]} ({_got(value)})"
    elif kind in _BOUNDS:
        number = "integer" if isinstance(value, int) and _bound_is_integer(context) else "decimal"
        code, sentence = f"{number}_{_BOUNDS[kind]}", f"must be {_range(field)} ({_got(value)})"
    elif kind in _LENGTHS:
        code, sentence = _LENGTHS[kind], f"must have {_length_range(details)} ({_got(value)})"
    elif kind == "literal_error":
        code = "invalid_value" if isinstance(value, str) else "invalid_type"
        sentence = f"must be one of {context['expected']} ({_got(value)})"
    elif kind == "finite_number":
        code, sentence = "non_finite_number", "must be a finite number"
    else:  # raised by a validator of ours: the type is the code, the message the sentence
        code, sentence = kind, details["msg"]
    return ApiError(code, f"{name} {sentence}.", name)


def _declaration(model: type[BaseModel], location: Path) -> tuple[type[BaseModel], FieldInfo | None]:
    """The innermost model on the way to `location`, and the field declared at its end."""
    at: Any = model
    field: FieldInfo | None = None
    for part in location:
        if not isinstance(part, str):
            continue
        if part.startswith(TAG_PREFIX):
            at = next(_tagged(at, part), at)
            continue
        model = next(models_in(at), model)
        field = _fields(model).get(part)
        at = None if field is None else field.annotation
    return model, field


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Those that a value of it may be, or hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def _tagged(annotation: Any, tag: str) -> Iterator[Any]:
    """The form of a union that this tag stands for."""
    if get_origin(annotation) is Annotated and Tag(tag) in get_args(annotation):
        yield get_args(annotation)[0]
    for part in get_args(annotation):
        yield from _tagged(part, tag)


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """By their names on the wire."""
    return {_wire_name(name, field): field for name, field in model.model_fields.items()}


def _wire_name(name: str, field: FieldInfo) -> str:
    alias = field.validation_alias
    first = alias.choices[0] if isinstance(alias, AliasChoices) else alias
    return first if isinstance(first, str) else name


def _range(field: FieldInfo | None) -> str:
    """What a number may be: `between 0 and 2`."""
    bounds = {
        kind: getattr(m, kind)
        for m in (field.metadata if field else ())
        for kind in ("ge", "gt", "le")
        if hasattr(m, kind)
    }
    match bounds:
        case {"ge": low, "le": high}:
            return f"between {low} and {high}"
        case {"gt": low, "le": high}:
            return f"above {low} and at most {high}"
        case {"ge": low}:
            return f"at least {low}"
    raise AssertionError(f"a bound without words: {bounds}")


def _bound_is_integer(context: dict[str, Any]) -> bool:
    return all(isinstance(bound, int) for bound in context.values())


def _length_range(details: ErrorDetails) -> str:
    unit = "characters" if details["type"].startswith("string") else "items"
    context = details["ctx"]
    if "max_length" in context:
        return f"at most {context['max_length']} {unit}"
    return f"at least {context['min_length']} {unit[:-1]}"


def _suggestion(known: Collection[str], name: str) -> str:
    swapped = [other for other in known if sorted(other) == sorted(name)]
    close = swapped or difflib.get_close_matches(name[:64], known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _got(value: object) -> str:
    """What came, bounded: never a whole input."""
    if isinstance(value, list | dict):
        return f"got {'an array' if isinstance(value, list) else 'an object'} of {len(value)}"
    if isinstance(value, str) and len(value) > 40:
        return f"got a string of {len(value)} characters"
    return f"got {json.dumps(value)}"


def _dotted(path: Sequence[str | int]) -> str:
    return ".".join(str(part) for part in path)
