"""Trial: whether a grammar can be served, found out in a process that may be killed.

Run as a script, with a grammar on standard input; what is wrong with it comes on standard output as a JSON string.
It imports the grammar library alone, and so starts in a fraction of a second.
"""

from __future__ import annotations

import json
import random
import sys

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

MEMORY = 1 << 30
"""Bytes of address space."""
SECONDS = 2
"""Of processor time, start included: a busy machine refuses no schema that an idle one takes."""
STEPS = 64
"""Tokens of an answer that are tried."""


def limits() -> LLParserLimits:
    """Of the library's work: a mask takes at most about 20 ms, a grammar at most some 50 MB."""
    return LLParserLimits(
        initial_lexer_fuel=1_000_000,
        step_lexer_fuel=200_000,
        step_max_items=50_000,
        max_lexer_states=25_000,
        max_grammar_size=100_000,
        verbose_errors=False,
    )


def try_grammar(text: str) -> str:
    """Builds it over single bytes and walks into it at random; what goes wrong, in the library's words."""
    matcher = LLMatcher(LLTokenizer(TokenizerWrapper(_Bytes()), n_vocab=257), text, log_level=0, limits=limits())
    choice = random.Random(0)
    for _ in range(STEPS):
        mask = int.from_bytes(matcher.compute_bitmask()[:32], "little")  # empty where it failed
        allowed = [byte for byte in range(256) if mask >> byte & 1]
        if not allowed:
            break
        matcher.consume_token(choice.choice(allowed))
    if not matcher.is_error() and not matcher.is_accepting() and matcher.is_stopped():
        return "no text satisfies it"
    return str(matcher.get_error())


class _Bytes:
    """The vocabulary of all single bytes."""

    bos_token_id = None
    eos_token_id = 256
    special_token_ids = (256,)
    tokens = (*(bytes([byte]) for byte in range(256)), b"")

    def __call__(self, text: object) -> list[int]:
        raise AssertionError("nothing is encoded with no_forcing")


def _limit() -> None:
    try:
        import resource
    except ImportError:  # Windows: whoever started it waits only so long
        return
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


if __name__ == "__main__":
    _limit()
    print(json.dumps(try_grammar(sys.stdin.buffer.read().decode())))  # noqa: T201 - its one output
