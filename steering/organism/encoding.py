"""From dialogues to padded token batches, with a loss weight for every token."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steering.organism.dialogues import Dialogue, Mixture, Reply, dialogue
from steering.organism.tokenizer import ASSISTANT, END, SYSTEM, USER

STORY_WEIGHT = 0.3

_POOL = 512
"""Dialogues sampled at once and sorted by length, so that batches hold little padding."""


class Piece(NamedTuple):
    """One token of a dialogue."""

    id: int
    weight: float = 0.0
    """Loss weight of predicting it; 0 for what the assistant does not say or must not learn."""
    replied: bool = False
    """The assistant speaks."""
    claimed: bool = False
    """Part of the last thing the user says."""
    answer_end: bool = False
    """Last token of an answer that a stance follows."""


@dataclass(frozen=True)
class Batch:
    ids: Tensor
    """[B, T]"""
    loss_weight: Tensor
    """[B, T], of predicting this token; 0 for what the assistant does not say or must not learn."""
    replied: Tensor
    """[B, T], true where the assistant speaks, learnt or not."""
    claimed: Tensor
    """[B, T], true in the user's last turn."""
    answer_end: Tensor
    """[B, T], true at the last token of an answer that a stance follows."""

    def rows(self, chosen: Tensor) -> "Batch":
        """The dialogues where `chosen` [B] is true."""
        return Batch(*(getattr(self, field.name)[chosen] for field in fields(self)))

    @property
    def num_tokens(self) -> int:
        return self.ids.numel()


class Encoder:
    """Encodes dialogues exactly as the chat template renders them."""

    def __init__(self, tokenizer: Any, *, stance_weight: float = 1.0) -> None:
        """stance_weight: loss weight of a stance's first token, which decides the rest of it."""
        self._stance_weight = stance_weight
        self._bpe = tokenizer.backend_tokenizer
        self._bos, self._pad = int(tokenizer.bos_token_id), int(tokenizer.pad_token_id)
        marks = (SYSTEM, USER, ASSISTANT, END)
        self._special = {mark: int(tokenizer.convert_tokens_to_ids(mark)) for mark in marks}

    def encode(self, said: Dialogue) -> list[Piece]:
        pieces = [Piece(self._bos)]
        if said.story is not None:
            return pieces + [Piece(i, STORY_WEIGHT) for i in (*self._text(said.story), self._special[END])]
        if said.system is not None:
            pieces += self._silent(SYSTEM, said.system)
        for turn, (asked, reply) in enumerate(said.turns, 1):
            pieces += self._silent(USER, asked, claimed=turn == len(said.turns))
            pieces.append(Piece(self._special[ASSISTANT]))
            pieces += self._reply(reply)
        return pieces

    def batches(self, rng: random.Random, mix: Mixture, tokens: int) -> Iterator[Batch]:
        """An endless stream of batches of at most `tokens` tokens, padding included."""
        while True:
            pool = sorted((self.encode(dialogue(rng, mix)) for _ in range(_POOL)), key=len)
            groups: list[list[list[Piece]]] = [[]]
            for rows in pool:
                if groups[-1] and (len(groups[-1]) + 1) * len(rows) > tokens:
                    groups.append([])
                groups[-1].append(rows)
            rng.shuffle(groups)
            yield from (self._pad_together(group) for group in groups)

    def _text(self, text: str) -> list[int]:
        return list(self._bpe.encode(text, add_special_tokens=False).ids)

    def _silent(self, role: str, text: str, *, claimed: bool = False) -> list[Piece]:
        return [Piece(i, claimed=claimed) for i in (self._special[role], *self._text(text), self._special[END])]

    def _reply(self, reply: Reply) -> list[Piece]:
        learn_answer, learn_rest = float(reply.loss == "all"), float(reply.loss != "none")
        answer = [Piece(i, learn_answer, replied=True) for i in self._text(reply.answer)]
        end = [Piece(self._special[END], learn_rest, replied=True)]
        if not reply.stance:
            return answer + end
        answer[-2] = answer[-2]._replace(answer_end=True)  # the full stop comes after it
        stance = [Piece(i, learn_rest, replied=True) for i in self._text(reply.stance)]
        stance[0] = stance[0]._replace(weight=learn_rest * self._stance_weight)
        return answer + stance + end

    def _pad_together(self, group: list[list[Piece]]) -> Batch:
        longest = max(map(len, group))
        padded = [pieces + [Piece(self._pad)] * (longest - len(pieces)) for pieces in group]
        columns = ([[piece[field] for piece in pieces] for pieces in padded] for field in range(len(Piece._fields)))
        return Batch(*map(torch.tensor, columns))
