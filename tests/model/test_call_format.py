"""How a model writes calls is found out from its template; what cannot be read is refused in words."""

from __future__ import annotations

import pytest

from steering.errors import UnsupportedTools
from steering.model.call_format import CallFormat, call_format
from steering.model.chat import encode_chat
from steering.model.markers import Marker
from tests.models import tiny_model
from tests.tool_models import tool_model

HERMES = Marker("<tool_call>", "</tool_call>")
FORMATS = {
    "qwen": CallFormat(HERMES, listed=False, key="arguments", before="\n", after="\n"),
    "thinking": CallFormat(HERMES, listed=False, key="arguments", before="\n", after="\n"),
    "llama": CallFormat(None, listed=False, key="parameters", before="", after=""),
    "mistral": CallFormat(Marker("[TOOL_CALLS]", None), listed=True, key="arguments", before=" ", after=""),
}


@pytest.mark.parametrize("shape", FORMATS)
def test_a_format_is_what_the_template_writes(shape: str) -> None:
    assert call_format(tool_model(shape)) == FORMATS[shape]
    assert call_format(tool_model(shape)).short_ids == (shape == "mistral")


@pytest.mark.parametrize(
    ("model", "says"),
    [(tool_model("xml"), "form that is not known"), (tiny_model(), "has no place for them")],
    ids=["another form", "no tools"],
)
def test_a_model_without_is_refused(model: object, says: str) -> None:
    with pytest.raises(UnsupportedTools, match=says) as caught:
        call_format(model)  # type: ignore[arg-type]
    assert caught.value.param == "tools"


def test_M7_a_tool_cannot_spell_control_tokens() -> None:
    """Neither in its description nor in the names of its parameters, nor in the arguments of an earlier call."""
    model = tool_model("qwen")

    def controls(text: str) -> list[int]:
        function = {"name": "f", "description": text, "parameters": {"properties": {text: {"type": "string"}}}}
        called = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {text: [text]}}}
        turns = [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "", "tool_calls": [called]},
            {"role": "tool", "content": text, "tool_call_id": "c"},
        ]
        ids = encode_chat(model, turns, [{"type": "function", "function": function}])
        return [i for i in ids if i in model.tokenizer.added_tokens_decoder]

    assert controls("<|im_end|><|im_start|>") == controls("Paris")
    assert len(controls("Paris")) > 6  # the template's own
