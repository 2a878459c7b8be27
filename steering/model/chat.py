"""Messages to token ids by the model's own chat template, and token ids to text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial

from tokenizers.pre_tokenizers import Metaspace

from steering.errors import InvalidUnicode, TemplateError
from steering.model.loading import LanguageModel
from steering.model.render import TemplateFailure, renderer
from steering.model.vocabulary import Vocabulary, vocabulary_of

_MARK = "\ue000"
_MARKED = re.compile(f"{_MARK}([0-9]+){_MARK}")
_ABSOLUTE_PATH = re.compile(r"(?<![\w.])(?:[A-Za-z]:)?(?:[/\\][\w.@-]+){2,}")


Turn = Mapping[str, object]
"""As templates take it: `role`, `content`, and of calls of tools what transformers' templates look for."""
Tool = Mapping[str, object]


def encode_chat(
    model: LanguageModel,
    messages: Sequence[Turn],
    tools: Sequence[Tool] | None = None,
    *,
    check: Callable[[str], object] | None = None,
) -> list[int]:
    """Token ids of the conversation up to where the answer begins: after the header of a turn of the assistant's or, if
    the last message is the assistant's, at its end, to go on from there. Raises `TemplateError`, `InvalidUnicode`.

    tools: what the answer may call; a template that has no place for them leaves them out (`call_format`).
    check: sees what the template wrote, and may raise: to encode megabytes takes seconds.

    Only the template writes control tokens: text of a message or a tool that spells one is encoded as the text it is.
    """
    _check_unicode(messages, "messages")
    _check_unicode(tools or [], "tools")
    vocabulary, literals = vocabulary_of(model.tokenizer), list[str]()
    marked = [_mark_literals(message, vocabulary, literals) for message in messages]
    rendered = render_chat(model, marked, tools and [_mark_literals(tool, vocabulary, literals) for tool in tools])
    if check is not None:
        check(rendered)
    if not literals:
        ids: list[int] = model.tokenizer.backend_tokenizer.encode(rendered, add_special_tokens=False).ids
        return ids
    return list(_encode_marked(vocabulary, rendered, literals))


def token_bytes(model: LanguageModel, token_id: int) -> bytes:
    """Exact bytes of one token, maybe part of a character."""
    return vocabulary_of(model.tokenizer).bytes_of(token_id)


def token_text(model: LanguageModel, token_id: int) -> str:
    """One token for display; bytes that are no whole character show as U+FFFD."""
    return token_bytes(model, token_id).decode(errors="replace")


def _check_unicode(value: object, path: str) -> None:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            reason = f"character {error.start} is a lone surrogate (U+{ord(value[error.start]):04X})"
            raise InvalidUnicode(f"{reason}; text must be valid Unicode.", param=path) from error
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _check_unicode(key, path)
            _check_unicode(item, f"{path}.{key}")
    elif isinstance(value, Sequence):
        for i, item in enumerate(value):
            _check_unicode(item, f"{path}.{i}")


def render_chat(
    model: LanguageModel, messages: Sequence[Turn], tools: Sequence[Tool] | None = None, *, ended: bool = False
) -> str:
    """As text, by the model's own template, up to where the answer begins or goes on. Raises `TemplateError`.

    ended: the last message is whole, and nothing comes after it.
    """
    if not model.tokenizer.chat_template:
        raise TemplateError(f"model {model.name} has no chat template; use /v1/completions with a plain prompt.")
    continues = not ended and messages[-1]["role"] == "assistant"
    try:
        return renderer().render(
            model.tokenizer.get_chat_template(tools=tools),
            messages,
            tools=tools,
            continues=continues,
            prompts=not (ended or continues),
            special_tokens=model.tokenizer.special_tokens_map,
        )
    except (TemplateFailure, ValueError) as error:
        if "continue_final_message is set" in str(error):
            message = "the model's chat template has no place for an answer to be continued; end with another role."
            raise TemplateError(message, param=f"messages.{len(messages) - 1}.role") from error
        reason = _ABSOLUTE_PATH.sub("<path>", " ".join(str(error).split()))[:200]
        raise TemplateError(f"the model's chat template refused the messages: {reason}", param="messages") from error


def _mark_literals(message: Mapping[str, object], vocabulary: Vocabulary, literals: list[str]) -> dict[str, object]:
    """Replace what spells a control token by a mark, `\\ue000<index>\\ue000`; `\\ue000` itself likewise."""
    pattern = _control_texts(vocabulary, own=message.get("role") == "assistant")

    def mark(match: re.Match[str]) -> str:
        literals.append(match[0])
        return f"{_MARK}{len(literals) - 1}{_MARK}"

    replaced = _map_texts(message, partial(pattern.sub, mark))
    return replaced if isinstance(replaced, dict) else {}


def _map_texts(value: object, change: Callable[[str], str]) -> object:
    """All texts within it changed, keys as well."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): _map_texts(item, change) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_map_texts(item, change) for item in value]
    return value


@lru_cache(maxsize=16)
def _control_texts(vocabulary: Vocabulary, *, own: bool) -> re.Pattern[str]:
    """Reserved tokens are control tokens, special or not. In the assistant's own turns only the special ones are:
    models write the others (Qwen3's `<think>`), and templates look for them there."""
    ids = vocabulary.special_ids if own else vocabulary.reserved_ids
    texts = [vocabulary.added[i] for i in ids if not vocabulary.added[i].isspace()]
    return re.compile("|".join(map(re.escape, [_MARK, *sorted(texts, key=len, reverse=True)])))


def _encode_marked(vocabulary: Vocabulary, rendered: str, literals: list[str]) -> Iterator[int]:
    """Encode as usual, but a stretch between control tokens that holds a mark as if no token were reserved.

    Such a stretch is encoded whole: text beside a mark gets the ids it would have had without one.
    """
    core = vocabulary.tokenizer.backend_tokenizer
    encoding = core.encode(rendered, add_special_tokens=False)
    ids, offsets = encoding.ids, encoding.offsets
    controls = [i for i, token_id in enumerate(ids) if token_id in vocabulary.added]
    for before, after in zip([-1, *controls], [*controls, len(ids)], strict=True):
        start = offsets[before][1] if before >= 0 else 0
        end = offsets[after][0] if after < len(ids) else len(rendered)
        stretch = rendered[start:end]
        if _MARK in stretch:
            text = _MARKED.sub(lambda mark: literals[int(mark[1])], stretch)
            yield from _encode_text(vocabulary, text, first=start == 0)
        else:
            yield from ids[before + 1 : after]
        yield from ids[after : after + 1]


def _encode_text(vocabulary: Vocabulary, text: str, *, first: bool) -> Iterator[int]:
    """The tokenizer's pipeline without its added tokens. The library's own switch for that is state shared by
    all threads, and knows special ones only."""
    core = vocabulary.tokenizer.backend_tokenizer
    if core.normalizer is not None:
        text = core.normalizer.normalize_str(text)
    splitter = core.pre_tokenizer
    if isinstance(splitter, Metaspace) and splitter.prepend_scheme == "first" and not first:
        splitter = Metaspace(splitter.replacement, prepend_scheme="never", split=splitter.split)
    words = [word for word, _ in splitter.pre_tokenize_str(text)] if splitter is not None else [text]
    for word in words:
        for token in core.model.tokenize(word):
            if token.id in vocabulary.special_ids:
                raise TemplateError(f"this tokenizer cannot encode {token.value!r} as text.", "messages")
            yield token.id
