"""Detokenizer: what it emits, put together, is decode(all tokens) cut at the first completed stop string."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steering.engine.detokenizer import Detokenizer
from steering.model.vocabulary import vocabulary_of
from tests.models import byte_tokenizer, sentencepiece_tokenizer

TOKENIZER = byte_tokenizer()
BYTE_IDS = {vocabulary_of(TOKENIZER).bytes_of(i): i for i in range(6, len(TOKENIZER))}


def by_bytes(text: str) -> list[int]:
    """One token per byte: every character beyond ASCII is split."""
    return [BYTE_IDS[bytes([byte])] for byte in text.encode()]


def pieces(ids: list[int], stop: tuple[str, ...] = (), tokenizer: object = TOKENIZER) -> tuple[list[str], bool]:
    """What each push and the flush emit, and whether it stopped. Checks what holds for every sequence."""
    detokenizer, emitted, stopped = Detokenizer(tokenizer, stop), [], False
    for token_id in ids:
        text, now = detokenizer.push(token_id)
        assert not (stopped and (text or not now)), "after a stop nothing comes, and it stays stopped"
        stopped = now
        emitted.append(text)
    return [*emitted, detokenizer.flush()], stopped


def cut(text: str, stop: tuple[str, ...]) -> tuple[str, bool]:
    """Oracle, character by character: the stop that is complete first ends the text; of several the longest."""
    for end in range(1, len(text) + 1):
        ending = [s for s in stop if text[:end].endswith(s)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(0, len(TOKENIZER) + 3), max_size=40), st.lists(st.text("ab \n.é東", min_size=1), max_size=4)
)
def test_law_any_tokens_any_stops(ids: list[int], stops: list[str]) -> None:
    emitted, _ = pieces(ids, tuple(stops))
    assert "".join(emitted) == cut(TOKENIZER.decode(ids, skip_special_tokens=True), tuple(stops))[0]


@settings(max_examples=300, deadline=None)
@given(st.text("ab\n é東👩‍👧", max_size=60), st.data())
def test_law_stops_taken_from_the_text(text: str, data: st.DataObject) -> None:
    """Stops that do occur, tokens that split characters, and pushes that never say too much."""
    spans = data.draw(st.lists(st.tuples(st.integers(0, len(text)), st.integers(1, 6)), max_size=4))
    stops = tuple(s for start, size in spans if (s := text[start : start + size]))
    ids = data.draw(st.sampled_from([by_bytes(text), TOKENIZER.encode(text, add_special_tokens=False)]))
    emitted, stopped = pieces(ids, stops)
    expected, stops_there = cut(text, stops)
    assert "".join(emitted) == expected
    assert stopped == stops_there == bool(stops)
    assert not any("\ufffd" in piece for piece in emitted)


@pytest.mark.parametrize("text", ["東京 é 👩‍👩‍👧 👍🏽 e\u0301 שלום", "Ünï", "🎉"])
def test_M9_split_characters_come_whole(text: str) -> None:
    emitted, _ = pieces(by_bytes(text))
    assert "".join(emitted) == text
    assert [piece for piece in emitted if piece] == list(text), "each as soon as its last byte is there"


def test_M9_unfinished_character_is_flushed_as_replacement() -> None:
    assert pieces(by_bytes("a東")[:-1]) == (["a", "", "", "\ufffd"], False)


def test_M9_invalid_bytes_do_not_hold_the_rest_back() -> None:
    ids = [BYTE_IDS[b"\xe6"], *by_bytes("ab"), BYTE_IDS[b"\xff"], *by_bytes("c")]
    assert pieces(ids)[0] == ["", "\ufffda", "b", "\ufffd", "c", ""]
    assert "".join(pieces(ids)[0]) == TOKENIZER.decode(ids)


def test_M10_stop_over_two_tokens_never_leaks() -> None:
    assert pieces(by_bytes("ok STOP no"), ("STOP",)) == (["o", "k", " ", *[""] * 7, ""], True)


def test_M10_false_alarm_is_released_as_soon_as_it_is_one() -> None:
    assert pieces(by_bytes("aabaac"), ("aac",)) == (["", "", "aab", "", "", "", ""], True)
    assert pieces(by_bytes("STOX"), ("STOP",)) == (["", "", "", "STOX", ""], False)


def test_M10_stop_inside_and_across_characters() -> None:
    assert pieces(by_bytes("x東y"), ("東",)) == (["x", "", "", "", "", ""], True)
    assert pieces(by_bytes("é東é"), ("東é",)) == (["", "é", "", "", "", "", "", ""], True)


def test_M10_held_back_text_is_flushed_at_the_end() -> None:
    assert pieces(by_bytes("ab ST"), ("STOP",)) == (["a", "b", " ", "", "", "ST"], False)


def test_M10_first_completed_stop_wins_whatever_the_tokens() -> None:
    word = TOKENIZER.encode("What", add_special_tokens=False)
    assert len(word) < 4
    for ids in (word, by_bytes("What")):
        assert "".join(pieces(ids, ("What", "ha"))[0]) == "W", "`ha` is complete before `What`"
        assert "".join(pieces(ids, ("at", "hat"))[0]) == "W", "complete together: the longer"


def test_M10_a_stop_that_only_the_flush_completes() -> None:
    assert pieces([BYTE_IDS[b"a"], BYTE_IDS[b"\xe6"]], ("\ufffd",)) == (["a", "", ""], False)


def test_control_tokens_are_no_text() -> None:
    assert "".join(pieces([1, *by_bytes("a"), 5, *by_bytes("b"), 2])[0]) == "ab"


def test_hold_back_is_bounded_by_the_stop() -> None:
    """A long run of what could begin a stop is emitted but for its last characters."""
    detokenizer = Detokenizer(TOKENIZER, ("a" * 10 + "b",))
    held = 0
    for _ in range(500):
        text, stopped = detokenizer.push(BYTE_IDS[b"a"])
        held += 1 - len(text)
        assert held <= 10
        assert not stopped


@pytest.mark.parametrize("text", ["Paris is", " Paris is", "  x", "The answer", "東 is 🎉"])
def test_sentencepiece_equals_decode(text: str) -> None:
    tokenizer = sentencepiece_tokenizer()
    ids = tokenizer.encode(text, add_special_tokens=False)
    emitted, _ = pieces(ids, tokenizer=tokenizer)
    assert "".join(emitted) == tokenizer.decode(ids)
    assert "".join(emitted).strip() == text.strip()
