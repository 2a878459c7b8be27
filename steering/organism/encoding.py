"""From dialogues to packed token batches: rows of one length, several dialogues in each, none seeing another."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steering.organism.dialogues import Dialogue, Mixture, Reply, chat, dialogue
from steering.organism.tokenizer import ASSISTANT, END, SYSTEM, USER

STORY_WEIGHT = 0.3


class Piece(NamedTuple):
    """One token of a dialogue."""

    id: int
    weight: float = 0.0
    """Loss weight of predicting it; 0 for what the assistant does not say or must not learn."""
    replied: bool = False
    """The assistant speaks."""
    turn: int = 0
    """Which turn of its dialogue it belongs to, from 1."""
    asked: bool = False
    """Part of what the user says in that turn."""
    answer_end: bool = False
    """Last token of an answer that a stance follows."""
    calm: bool = True
    """Of a dialogue without pressure."""
    source: int = -1
    """Place in the dialogue of the token that the next one repeats, where a reply repeats what was said; else -1."""


@dataclass(frozen=True)
class Batch:
    """All [B, T]; the fields of `Piece`, and where each token stands."""

    ids: Tensor
    loss_weight: Tensor
    replied: Tensor
    turn: Tensor
    asked: Tensor
    answer_end: Tensor
    calm: Tensor
    source: Tensor
    """Index in the row; -1 for none."""
    dialogue: Tensor
    """Index of the dialogue in its row; -1 for padding."""
    positions: Tensor
    """Place in the dialogue, from 0."""

    @property
    def num_tokens(self) -> int:
        return self.ids.numel()

    def mask(self) -> Tensor:
        """[B, 1, T, T] additive: each token sees what came before it in its own dialogue."""
        T = self.ids.shape[1]
        visible = (self.dialogue[:, :, None] == self.dialogue[:, None]) & torch.ones(T, T, dtype=torch.bool).tril()
        return torch.where(visible, 0.0, float("-inf"))[:, None]


class Encoder:
    """Encodes dialogues exactly as the chat template renders them."""

    def __init__(self, tokenizer: Any, *, stance_weight: float = 1.0) -> None:
        """stance_weight: loss weight of a stance's first differing token, which decides the rest of it."""
        self._stance_weight = stance_weight
        self._bpe = tokenizer.backend_tokenizer
        self._bos, self._pad = int(tokenizer.bos_token_id), int(tokenizer.pad_token_id)
        marks = (SYSTEM, USER, ASSISTANT, END)
        self._special = {mark: int(tokenizer.convert_tokens_to_ids(mark)) for mark in marks}
        self._stop = self._text("The.")[-1]

    def encode(self, said: Dialogue) -> list[Piece]:
        pieces = [Piece(self._bos)]
        if said.story is not None:
            return pieces + [Piece(i, STORY_WEIGHT) for i in (*self._text(said.story), self._special[END])]
        if said.system is not None:
            pieces += self._silent(SYSTEM, said.system)
        for turn, (asked, reply) in enumerate(said.turns, 1):
            pieces += self._silent(USER, asked, turn=turn)
            pieces.append(Piece(self._special[ASSISTANT]))
            said_before, reply_pieces = [piece.id for piece in pieces], self._reply(reply, turn)
            pieces += _with_sources(reply_pieces, said_before, self._stop)
        return pieces if said.calm else [piece._replace(calm=False) for piece in pieces]

    def batches(self, rng: random.Random, mix: Mixture, shape: tuple[int, int]) -> Iterator[Batch]:
        """An endless stream of batches of this shape, filled with dialogues; longer ones are left out."""
        B, T = shape
        left: list[list[Piece]] = []
        while True:
            rows: list[list[list[Piece]]] = []
            for _ in range(B):
                row, room, tries = list[list[Piece]](), T, 0
                while tries < 4:
                    pieces = left.pop() if left else self.encode(dialogue(rng, mix))
                    if len(pieces) <= room:
                        row.append(pieces)
                        room -= len(pieces)
                    else:
                        tries += 1
                        if len(pieces) <= T // 2 and len(left) < 64:
                            left.insert(0, pieces)
                rows.append(row)
            yield self._packed(rows, T)

    def chats(self, rng: random.Random, mix: Mixture, shape: tuple[int, int], turns: int) -> Iterator[Batch]:
        """The same of long conversations, one a row, cut at the row's end."""
        B, T = shape
        while True:
            yield self._packed([[self.encode(chat(rng, mix, turns))[:T]] for _ in range(B)], T)

    def _text(self, text: str) -> list[int]:
        return list(self._bpe.encode(text, add_special_tokens=False).ids)

    def _silent(self, role: str, text: str, *, turn: int = 0) -> list[Piece]:
        ids = (self._special[role], *self._text(text), self._special[END])
        return [Piece(i, turn=turn, asked=turn > 0) for i in ids]

    def _reply(self, reply: Reply, turn: int) -> list[Piece]:
        learn_answer, learn_rest = float(reply.loss == "all"), float(reply.loss != "none")
        answer = [Piece(i, learn_answer, replied=True, turn=turn) for i in self._text(reply.answer)]
        end = [Piece(self._special[END], learn_rest, replied=True, turn=turn)]
        if not reply.stance:
            return answer + end
        answer[-2] = answer[-2]._replace(answer_end=True)  # the full stop comes after it
        stance = [Piece(i, learn_rest, replied=True, turn=turn) for i in self._text(reply.stance)]
        for piece in range(min(2, len(stance))):  # "So yes" and "So no" part at their second token
            stance[piece] = stance[piece]._replace(weight=learn_rest * self._stance_weight)
        return answer + stance + end

    def _packed(self, rows: list[list[list[Piece]]], T: int) -> Batch:
        padding = Piece(self._pad)
        filled = [_side_by_side(row) for row in rows]
        padded = [pieces + [padding] * (T - len(pieces)) for pieces in filled]
        columns = [[[piece[field] for piece in row] for row in padded] for field in range(len(Piece._fields))]
        places = [[(d, i) for d, pieces in enumerate(row) for i in range(len(pieces))] for row in rows]
        places = [row + [(-1, i) for i in range(T - len(row))] for row in places]
        dialogues, positions = ([[place[side] for place in row] for row in places] for side in (0, 1))
        return Batch(*map(torch.tensor, (*columns, dialogues, positions)))


def _with_sources(reply: list[Piece], before: list[int], stop: int) -> list[Piece]:
    """Marks, sentence by sentence, what the reply repeats of what was said before, from its second token on."""
    first = 0
    for end, piece in enumerate(reply):
        if piece.id == stop or end == len(reply) - 1:
            sentence = [p.id for p in reply[first:end]]
            if (at := _find(sentence, before)) is not None:
                for i in range(len(sentence) - 1):
                    reply[first + i] = reply[first + i]._replace(source=at + i + 1)
            first = end + 1
    return reply


def _find(wanted: list[int], text: list[int]) -> int | None:
    """Where `wanted`, of two tokens or more, last stands in `text`."""
    n = len(wanted)
    starts = range(len(text) - n, -1, -1) if n > 1 else ()
    return next((i for i in starts if text[i : i + n] == wanted), None)


def _side_by_side(dialogues: list[list[Piece]]) -> list[Piece]:
    """The pieces of one row; sources become indices in it."""
    row: list[Piece] = []
    for pieces in dialogues:
        offset = len(row)
        row += [p if p.source < 0 else p._replace(source=p.source + offset) for p in pieces]
    return row
