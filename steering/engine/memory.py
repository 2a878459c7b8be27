"""Memory of keys and values: which sequence lives in which slot, in one budget with the prefix cache.

Rows live in pools by length class, so that a short row takes little and never looks over the span of a long one. A pool
grows and shrinks by doubling and halving, so that each move costs a constant per row; a row that outgrows its class is
copied to the next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import torch

from steering.engine.kv_size import KvSize
from steering.engine.prefix_cache import BLOCK, PrefixCache, Tensors, chain
from steering.engine.sequence import Sequence
from steering.model.attention import SlotKV

log = logging.getLogger(__name__)


def is_out_of_memory(error: Exception) -> bool:
    """PyTorch has a class of its own for that on devices, and on the CPU only a message."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


class Pool:
    """Slots of one length class. After `settle` its rows are dense: decode rows first, then those in their prompts."""

    def __init__(self, kv: SlotKV) -> None:
        self.kv = kv
        self.residents: list[Sequence | None] = []
        """By slot; None is a hole."""

    @property
    def decode_rows(self) -> list[Sequence]:
        """By slot, once settled."""
        return [s for s in self.residents if s is not None and s.num_to_prefill == 0]

    @property
    def is_full(self) -> bool:
        return None not in self.residents and len(self.residents) == self.kv.slots

    def put(self, sequence: Sequence) -> None:
        """In the first free slot."""
        if None not in self.residents:
            self.residents.append(None)
        sequence.slot = self.residents.index(None)
        self.residents[sequence.slot] = sequence

    def settle(self) -> None:
        """Closes holes and brings decode rows to the front, with no more moves than that takes."""
        rows = self.decode_rows
        others = [s for s in self.residents if s is not None and s.num_to_prefill]
        self._gather(rows, 0)
        self._gather(others, len(rows))
        del self.residents[len(rows) + len(others) :]

    def _gather(self, wanted: list[Sequence], start: int) -> None:
        """Brings these into the slots from `start` on."""
        slots = range(start, start + len(wanted))
        members = {id(s) for s in wanted}
        targets = [slot for slot in slots if id(self.residents[slot]) not in members]
        for sequence, target in zip((s for s in wanted if s.slot not in slots), targets, strict=True):
            self._move(sequence, target)

    def _move(self, sequence: Sequence, target: int) -> None:
        source, other = sequence.slot, self.residents[target]
        if other is None:
            self.kv.copy(source, self.kv, target, sequence.num_computed)
        else:
            self.kv.swap(source, target, max(sequence.num_computed, other.num_computed))
            other.slot = source
        self.residents[source], self.residents[target] = other, sequence
        sequence.slot = target


class KvMemory:
    """The pools and the prefix cache. What both take is never more than the budget, but for what `SlotKV.resize` has
    twice while it copies one layer."""

    def __init__(self, size: KvSize, make: Callable[[int, int], SlotKV], *, cache_limit: int) -> None:
        """make(slots, length): an empty pool; cache_limit: most bytes of the prefix cache, 0 for none."""
        self.size = size
        self.pools = tuple(Pool(make(size.fixed_slots, length)) for length in size.lengths)
        self.cache = PrefixCache(cache_limit, BLOCK * size.bytes_per_token)

    @property
    def nbytes(self) -> int:
        return sum(pool.kv.nbytes for pool in self.pools) + self.cache.nbytes

    def pool_of(self, sequence: Sequence) -> Pool:
        return self.pools[sequence.pool]

    def place(self, sequence: Sequence) -> bool:
        """Gives a slot that holds what the sequence has and its next token; False where no memory is left for it."""
        needed = min(len(sequence.token_ids) + 1, self.size.context)
        index = next(i for i, pool in enumerate(self.pools) if pool.kv.length >= needed)
        if not self._make_room(self.pools[index]):
            return False
        sequence.pool = index
        self.pools[index].put(sequence)
        return True

    def is_outgrown(self, sequence: Sequence) -> bool:
        """Whether the next position is beyond the slot."""
        return sequence.num_computed >= self.pool_of(sequence).kv.length

    def lengthen(self, sequence: Sequence) -> bool:
        """Moves the sequence to the next length class; False where no memory is left for it."""
        old, slot, index = self.pool_of(sequence), sequence.slot, sequence.pool + 1
        new = self.pools[index]
        if not self._make_room(new):
            return False
        new.put(sequence)
        sequence.pool = index
        old.kv.copy(slot, new.kv, sequence.slot, sequence.num_computed)
        old.residents[slot] = None
        return True

    def share(self, donor: Sequence, sequence: Sequence, length: int) -> None:
        """Copies the first positions of one slot to another."""
        self.pool_of(donor).kv.copy(donor.slot, self.pool_of(sequence).kv, sequence.slot, length)

    def hand_over(self, sequence: Sequence, heir: Sequence) -> None:
        """The heir takes the slot as it is."""
        heir.pool, heir.slot = sequence.pool, sequence.slot
        self.pool_of(heir).residents[heir.slot] = heir
        sequence.slot = -1

    def release(self, sequence: Sequence) -> None:
        """Frees the slot. Nobody moves before `settle`."""
        self.pool_of(sequence).residents[sequence.slot] = None
        sequence.slot = -1

    def wipe(self, sequence: Sequence) -> None:
        """Zeroes the slot: nothing in it can be used by anybody."""
        self.pool_of(sequence).kv.clear(sequence.slot)
        sequence.num_computed = 0

    def settle(self) -> None:
        """Makes all pools dense, and halves those that are three quarters empty."""
        for pool in self.pools:
            pool.settle()
            if not self.size.fixed_slots and pool.kv.slots > 1 and len(pool.residents) <= pool.kv.slots // 4:
                pool.kv.resize(pool.kv.slots // 2)

    def rest(self) -> None:
        """Nothing runs: of each pool at most one slot stays, for the next to come."""
        for pool in self.pools:
            pool.residents.clear()
            if not self.size.fixed_slots and pool.kv.slots > 1:
                pool.kv.resize(1)

    def restore(self, sequence: Sequence) -> None:
        """Copies what the prefix cache has of the sequence's beginning into its slot."""
        if not self._is_cacheable(sequence):
            return
        hashes, ids = self._hashes(sequence, sequence.num_to_prefill)
        kv = self.pool_of(sequence).kv
        for i, block in enumerate(self.cache.find(hashes, ids)):
            kv.write(sequence.slot, i * BLOCK, block)
            sequence.advance_prefill(BLOCK)

    def remember(self, sequence: Sequence) -> None:
        """Keeps the whole blocks of the sequence's beginning, as far as they are finite and depend on nothing but the
        token ids and the plan that steers prompts."""
        if not self._is_cacheable(sequence):
            return
        hashes, ids = self._hashes(sequence, sequence.num_computed)
        kv = self.pool_of(sequence).kv

        def read(i: int) -> Tensors | None:
            return kv.read(sequence.slot, i * BLOCK, (i + 1) * BLOCK)

        self.cache.add(hashes, ids, read, self.size.budget - self.nbytes)

    def _is_cacheable(self, sequence: Sequence) -> bool:
        """Scores of a prompt come from the pass that computes it."""
        return self.cache.limit > 0 and sequence.request.sampling.prompt_logprobs is None

    def _hashes(self, sequence: Sequence, length: int) -> tuple[tuple[bytes, ...], list[int]]:
        ids = sequence.token_ids[: min(length, sequence.num_like_prompt)]
        num_blocks = len(ids) // BLOCK
        if len(sequence.block_hashes) < num_blocks:
            sequence.block_hashes = chain(sequence.prompt_key[1], ids, sequence.block_hashes)
        return sequence.block_hashes[:num_blocks], ids

    def _make_room(self, pool: Pool) -> bool:
        """A free slot in the pool: twice as many as before if memory is free, else one more, for which other pools give
        up slots that nobody uses and the prefix cache its oldest blocks."""
        if not pool.is_full:
            return True
        slots, each = pool.kv.slots, pool.kv.length * self.size.bytes_per_token
        more = max(1, min(slots, self.size.rows - slots))
        if more * each > self._free:
            more = 1
        if more * each > self._free:
            self._trim(other for other in self.pools if other is not pool)
        if more * each > self._free:
            self.cache.evict(more * each - self._free)
        return more * each <= self._free and self._grow(pool, slots + more)

    @property
    def _free(self) -> int:
        return self.size.budget - self.nbytes

    @staticmethod
    def _trim(pools: Iterable[Pool]) -> None:
        for pool in pools:
            if len(pool.residents) < pool.kv.slots:
                pool.kv.resize(len(pool.residents))

    def _grow(self, pool: Pool, slots: int) -> bool:
        try:
            pool.kv.resize(slots)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            log.warning("no memory for %d more slots of keys and values", slots - pool.kv.slots)
            self.cache.clear()
            return False
        return True
