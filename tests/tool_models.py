"""Tiny random models whose chat templates take tools, in the shapes that Qwen, Llama and Mistral ship."""

from __future__ import annotations

import copy
from functools import cache

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from steering.model.loading import LanguageModel, wrap
from tests.family_tokenizers import qwen, tekken
from tests.models import byte_tokenizer, tiny_hf

QWEN_TOOLS = """{%- if tools %}{{- '<|im_start|>system\nTools:' }}{%- for tool in tools %}{{- '\n' + tool | tojson }}
{%- endfor %}{{- '<|im_end|>\n' }}{%- endif %}
{%- for message in messages %}{%- if message.role == 'tool' %}
{{- '<|im_start|>user\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' }}
{%- else %}{{- '<|im_start|>' + message.role + '\n' }}
{%- if message.reasoning_content %}{{- '<think>\n' + message.reasoning_content + '\n</think>\n\n' }}{%- endif %}
{{- message.content }}
{%- for call in message.tool_calls %}{{- '' if loop.first and not message.content else '\n' }}
{{- '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' + call.function.arguments | tojson }}
{{- '}\n</tool_call>' }}{%- endfor %}
{{- '<|im_end|>\n' }}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""
QWEN_THINKING = QWEN_TOOLS.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant\n<think>\n'")
LLAMA_TOOLS = """{{- bos_token }}{%- if tools %}{{- '<|system|>Tools (<|python_tag|>):' }}
{%- for tool in tools %}{{- '\n' + tool.function | tojson }}{%- endfor %}{{- '<|end|>' }}{%- endif %}
{%- for message in messages %}{%- if message.tool_calls %}
{%- if message.tool_calls | length != 1 %}{{- raise_exception('This model only supports single tool-calls at once!') }}
{%- endif %}{%- set call = message.tool_calls[0].function %}
{{- '<|assistant|>{"name": "' + call.name + '", "parameters": ' + call.arguments | tojson + '}<|end|>' }}
{%- else %}{{- '<|' + ('user' if message.role == 'tool' else message.role) + '|>' + message.content + '<|end|>' }}
{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"""
MISTRAL_TOOLS = """{{- bos_token }}{%- if tools %}{{- '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}
{%- endif %}{%- for message in messages %}{%- if message.role == 'user' %}{{- '[INST] ' + message.content + '[/INST]' }}
{%- elif message.role == 'tool' %}
{{- '[TOOL_RESULTS] {"content": ' + message.content | tojson + ', "call_id": "' + message.tool_call_id + '"}' }}
{{- '[/TOOL_RESULTS]' }}
{%- elif message.tool_calls %}{{- '[TOOL_CALLS] [' }}{%- for call in message.tool_calls %}
{%- if call.id | length != 9 %}{{- raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}
{%- endif %}{{- (call.function | tojson)[:-1] + ', "id": "' + call.id + '"}' + ('' if loop.last else ', ') }}
{%- endfor %}{{- ']' + eos_token }}
{%- else %}{{- ' ' + message.content + eos_token }}{%- endif %}{%- endfor %}"""
XML_TOOLS = QWEN_TOOLS.replace(
    """{"name": "' + call.function.name + '", "arguments": ' + call.function.arguments | tojson }}
{{- '}""",
    """<function=' + call.function.name + '>' }}
{{- '""",
)

TEMPLATES = {
    "qwen": QWEN_TOOLS,
    "thinking": QWEN_THINKING,
    "llama": LLAMA_TOOLS,
    "mistral": MISTRAL_TOOLS,
    "xml": XML_TOOLS,
}


@cache
def tool_model(shape: str) -> LanguageModel:
    """Vocabulary 512, context 4096. `xml` writes calls in a form that is not known here."""
    family = {"llama": "llama", "mistral": "mistral"}.get(shape, "qwen3")
    fields = {"sliding_window": None} if family == "mistral" else {}
    hf = tiny_hf(family, vocab_size=512, max_position_embeddings=4096, **fields)
    return wrap(hf, tool_tokenizer(shape), f"tiny-{shape}")


def tool_tokenizer(shape: str) -> PreTrainedTokenizerFast:
    base = {"llama": byte_tokenizer, "mistral": tekken}.get(shape, qwen)
    tokenizer = copy.deepcopy(base())
    tokenizer.chat_template = TEMPLATES[shape]
    if shape == "llama":
        tokenizer.add_tokens([AddedToken("<|python_tag|>", special=True)], special_tokens=True)
    elif shape == "mistral":
        names = ("TOOL_CALLS", "AVAILABLE_TOOLS", "/AVAILABLE_TOOLS", "TOOL_RESULTS", "/TOOL_RESULTS")
        tokenizer.add_tokens([AddedToken(f"[{name}]", special=True) for name in names], special_tokens=True)
    else:
        tokenizer.add_tokens(["<tool_call>", "</tool_call>", "<think>", "</think>"])
    return tokenizer
