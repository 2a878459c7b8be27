"""Plain text to token ids, for models with and without a chat template."""

from __future__ import annotations

from steering.errors import InvalidUnicode
from steering.model.loading import LanguageModel


def encode_text(model: LanguageModel, text: str) -> tuple[list[int], list[int]]:
    """(token ids, the character each begins at), as the model's tokenizer encodes a text by default.

    That is `tokenizer(text)` in transformers: with the special tokens that it adds (Llama's begin of text; none for
    Qwen), none added or taken away here; control tokens that the text spells are those tokens. Raises `InvalidUnicode`.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidUnicode(f"character {error.start} is a lone surrogate; text must be valid Unicode.") from error
    encoding = model.tokenizer.backend_tokenizer.encode(text)
    starts, reached, last = list[int](), 0, 0
    for start, end in encoding.offsets:
        last = max(last, min(start, reached))  # some tokenizers leave a token's space out of its offsets
        starts.append(last)
        reached = max(reached, end)
    return encoding.ids, starts
