"""Messages to token ids by the model's own chat template, and token ids to text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from tokenizers.pre_tokenizers import Metaspace

from steering.errors import InvalidUnicode, TemplateError
from steering.model.loading import LanguageModel
from steering.model.vocabulary import Vocabulary, vocabulary_of

_MARK = "\ue000"
_MARKED = re.compile(f"{_MARK}([0-9]+){_MARK}")
_ABSOLUTE_PATH = re.compile(r"(?<![\w.])(?:[A-Za-z]:)?(?:[/\\][\w.@-]+){2,}")


def encode_chat(model: LanguageModel, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Token ids of the conversation up to where the answer begins: after the header of a turn of the assistant's or, if
    the last message is the assistant's, at its end, to go on from there. Raises `TemplateError`, `InvalidUnicode`.

    Only the template writes control tokens: text of a message that spells one is encoded as the text it is.
    """
    _check_unicode(messages)
    vocabulary, literals = vocabulary_of(model.tokenizer), list[str]()
    rendered = _render(model, [_mark_literals(message, vocabulary, literals) for message in messages])
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


def _check_unicode(messages: Sequence[Mapping[str, str]]) -> None:
    for i, message in enumerate(messages):
        for key, text in message.items():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                reason = f"character {error.start} is a lone surrogate (U+{ord(text[error.start]):04X})"
                raise InvalidUnicode(f"{reason}; text must be valid Unicode.", param=f"messages.{i}.{key}") from error


def _render(model: LanguageModel, messages: Sequence[Turn], tools: Sequence[Tool] | None) -> str:
    if not model.tokenizer.chat_template:
        raise TemplateError(f"model {model.name} has no chat template; use /v1/completions with a plain prompt.")
    continues = messages[-1]["role"] == "assistant"
    try:
        return renderer().render(
            model.tokenizer.get_chat_template(tools=tools),
            messages,
            tools=tools,
            continues=continues,
            special_tokens=model.tokenizer.special_tokens_map,
        )
    except (TemplateFailure, ValueError) as error:
        if "continue_final_message is set" in str(error):
            message = "the model's chat template has no place for an answer to be continued; end with another role."
            raise TemplateError(message, param=f"messages.{len(messages) - 1}.role") from error
        reason = _ABSOLUTE_PATH.sub("<path>", " ".join(str(error).split()))[:200]
        raise TemplateError(f"the model's chat template refused the messages: {reason}", param="messages") from error


def _mark_literals(message: Mapping[str, str], vocabulary: Vocabulary, literals: list[str]) -> dict[str, str]:
    """Replace what spells a control token by a mark, `\\ue000<index>\\ue000`; `\\ue000` itself likewise."""
    pattern = _control_texts(vocabulary, own=message.get("role") == "assistant")

    def mark(match: re.Match[str]) -> str:
        literals.append(match[0])
        return f"{_MARK}{len(literals) - 1}{_MARK}"

    return {key: pattern.sub(mark, text) for key, text in message.items()}


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
