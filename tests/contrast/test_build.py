"""Items: what they claim is wrong where it should be, both sides come equally often, and nothing is left to chance."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import get_args

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from steering.contrast.build import PAIRED, askable
from steering.contrast.item import LETTER, SHORT, Item, QuestionKind
from steering.contrast.phrasings import HELD_CHOICE_CLAIM, HELD_SECOND_TURN, HELD_SINGLE_TURN, SECOND_TURN, SINGLE_TURN
from steering.contrast.questions import Question, Questions
from steering.contrast.source import source_of
from steering.contrast.splits import SPLITS, normalised
from steering.errors import DataError
from tests.contrast.files import model, questions, source
from tests.models import byte_tokenizer

KINDS: tuple[QuestionKind, ...] = tuple(
    kind for kind in get_args(QuestionKind) if kind not in ("one_word", "honest_prompt")
)
BY_ID = {question.question_id: question for question in questions()}


def asked(kind: QuestionKind, per_question: int = 2) -> list[Item]:
    return [item for split in SPLITS for item in source().items(kind, split, seed=5, per_question=per_question)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_question_is_asked_so_often_and_always_alike(kind: QuestionKind) -> None:
    items = asked(kind)
    times = 4 if kind in PAIRED else 2
    assert Counter(item.question_id for item in items) == dict.fromkeys(BY_ID, times)
    assert items == asked(kind)
    assert [item.messages for item in items] != [
        item.messages for split in SPLITS for item in source().items(kind, split, seed=6, per_question=2)
    ]
    for item in items:
        assert item.kind == kind and item.messages[-1]["role"] == "user"
        assert len({str(message) for message in item.messages}) == len(item.messages)
        assert not any("{" in message["content"] for message in item.messages)
        asks = BY_ID[item.question_id].text
        assert asks in item.messages[0]["content"]


@pytest.mark.parametrize("kind", ["wrong_claim", "second_turn", "choice_claim"])
def test_a_wrong_claim_is_wrong_and_told_apart_by_its_first_token(kind: QuestionKind) -> None:
    for item in asked(kind):
        question, right, claim = BY_ID[item.question_id], item.truth, item.claim
        assert claim is not None
        first = [item.form.first_token(model().tokenizer, answer) for answer in (right, claim)]
        assert first[0] != first[1]
        if kind == "choice_claim":
            right, claim = (item.options["ABCD".index(letter)] for letter in (right, claim))
        assert claim in question.incorrect and right in question.correct
        assert f"({item.claim})" in item.messages[0]["content"] or claim in item.messages[-1]["content"]


@pytest.mark.parametrize("kind", ["right_claim", "right_correction"])
def test_a_right_claim_is_right(kind: QuestionKind) -> None:
    for item in asked(kind):
        assert item.claim == item.truth and item.truth in item.messages[-1]["content"]


def test_in_a_second_turn_the_first_answer_is_the_other_one() -> None:
    assert all(f"The answer is {item.truth}." == item.messages[1]["content"] for item in asked("second_turn"))
    earlier = [
        item.messages[1]["content"].removeprefix("The answer is ").removesuffix(".")
        for item in asked("right_correction")
    ]
    assert all(
        answer in BY_ID[item.question_id].incorrect
        for answer, item in zip(earlier, asked("right_correction"), strict=True)
    )


def test_a_mention_names_a_wrong_answer_and_claims_nothing() -> None:
    for item in asked("mention"):
        assert item.claim is None
        assert any(f'"{wrong}"' in item.messages[0]["content"] for wrong in BY_ID[item.question_id].incorrect)


def test_polarity_is_balanced_question_by_question() -> None:
    sides = Counter((item.question_id, item.truth) for item in asked("yes_no"))
    assert set(sides.values()) == {2} and len(sides) == 2 * len(BY_ID)
    for item in asked("yes_no"):
        assert (item.truth == "yes") == any(
            f'"{a}"' in item.messages[0]["content"] for a in BY_ID[item.question_id].correct
        )


@pytest.mark.parametrize("kind", ["choice", "choice_claim"])
def test_both_orders_are_asked(kind: QuestionKind) -> None:
    items = asked(kind)
    sizes = Counter(len(item.options) for item in items)
    assert set(sizes) == {3, 4}, "as many as the file lists, else four"
    for first, second in zip(items[::2], items[1::2], strict=True):
        assert first.options == second.options[::-1]
        places = ["ABCD".index(item.truth) for item in (first, second)]
        assert sum(places) == len(first.options) - 1 and places[0] != places[1]
        listed = BY_ID[first.question_id].options
        assert not listed or sorted(first.options) == sorted(listed)
        if kind == "choice_claim":
            claims = {item.options["ABCD".index(item.claim or "")] for item in (first, second)}
            assert len(claims) == 1


def test_every_phrasing_is_used_and_held_ones_only_where_asked_for() -> None:
    for kind, trained, held in (
        ("wrong_claim", SINGLE_TURN, HELD_SINGLE_TURN),
        ("second_turn", SECOND_TURN, HELD_SECOND_TURN),
    ):
        for wanted, expected in (("train", trained), ("held", held), ("all", (*trained, *held))):
            items = [
                item
                for split in SPLITS
                for item in source().items(kind, split, seed=0, per_question=6, phrasings=wanted)  # type: ignore[arg-type]
            ]
            assert {item.phrasing for item in items} == {phrasing.name for phrasing in expected}
    assert all(
        phrasing.name.startswith("held_") for phrasing in (*HELD_SINGLE_TURN, *HELD_SECOND_TURN, *HELD_CHOICE_CLAIM)
    )


def test_answers_are_read_as_truth_claim_or_neither() -> None:
    item = next(item for item in asked("wrong_claim") if item.claim)
    other = next(answer for answer in BY_ID[item.question_id].incorrect if answer != item.claim)
    assert item.answer_in(f"The answer is the City of {item.truth}.") == item.truth
    assert item.answer_in(f"You say {item.truth}, but the answer is {item.claim}.") == item.claim
    assert item.answer_in(f"The answer is {item.truth}. No, it is {other}.") == other


def test_of_answers_with_one_first_token_another_is_claimed() -> None:
    tokenizer = byte_tokenizer()
    shared = Question("Who?", ("Tim", "Paris"), ("Tom", "Tess", "Lyon"), (), "q")
    about = askable(shared, tokenizer)
    assert about is not None and (about.truth, about.wrong) == ("Tim", ("Lyon",))
    other = askable(Question("Who?", ("Tim", "Paris"), ("Tom", "Tess"), (), "q"), tokenizer)
    assert (
        other is not None and (other.truth, other.wrong) == ("Paris", ("Tom", "Tess")) and other.also_true == ("Tim",)
    )
    assert askable(Question("Who?", ("Tim",), ("Tom",), (), "q"), tokenizer) is None


def test_questions_that_cannot_be_told_apart_are_counted() -> None:
    alike = [Question(f"Who is number {i}?", ("Xim",), ("Xom",), (), f"x{i}") for i in range(7)]
    made = source_of(Questions("f", (*questions(), *alike), {"no incorrect answer": 2}), model().tokenizer)
    assert made.left_out == {"no incorrect answer": 2, "whose answers all begin with the same token": 7}
    assert "7 whose answers all begin with the same token" in str(made)
    with pytest.raises(DataError, match="no question falls in split 'fit'"):
        source_of(Questions("f", tuple(alike), {}), model().tokenizer)


@cache
def llama_like() -> PreTrainedTokenizerFast:
    """As Llama-2's: a space before any text, words as pieces; "(B" is one: an opened letter merges with it."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>"], show_progress=False)
    core.train_from_iterator(["The answer is Paris The answer is Lyon The answer is ( (B (C A B C \n"] * 4, trainer)
    core.pre_tokenizer = None
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")


def test_first_tokens_come_after_the_opening_whatever_the_tokenizer() -> None:
    tokenizer, words = llama_like(), ("Paris", "Lyon")
    alone = {tokenizer.encode(f" {word}", add_special_tokens=False)[0] for word in words}
    assert len(alone) == 1, "taken alone, every answer begins with the same token"
    assert tokenizer.convert_ids_to_tokens([SHORT.first_token(tokenizer, word) for word in words]) == [
        "▁Paris",
        "▁Lyon",
    ]
    merged = tokenizer.tokenize("The answer is (B")
    assert merged[-1] == "▁(B"
    letters = [LETTER.first_token(tokenizer, letter) for letter in "ABC"]
    assert tokenizer.convert_ids_to_tokens(letters) == ["A", "B", "C"]


def test_kinds_that_files_do_not_have_are_refused() -> None:
    with pytest.raises(ValueError, match="not asked as 'one_word'"):
        source().items("one_word", "fit", seed=0)


def test_normalised_question_texts_are_distinct_in_the_fixture() -> None:
    assert len({normalised(question.text) for question in questions()}) == len(questions()) == 60
