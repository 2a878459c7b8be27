"""Prefix cache: keys and values of beginnings that were computed before, in blocks, least recently used out first.

A block is found by a chained hash over all token ids up to its end and over the digest of the plan in force there, so
that what one plan steered is never taken for another's; the ids themselves are compared on top.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from torch import Tensor

BLOCK = 16
"""Positions of a block."""

Tensors = tuple[Tensor, ...]
"""Keys and values of a block, [2, BLOCK, G, K] per layer."""


@dataclass(frozen=True)
class CacheStats:
    """Counted since the start, but for `nbytes`."""

    queries: int = 0
    """Tokens that were looked for."""
    hits: int = 0
    """Tokens of those that were found, and not computed again."""
    evictions: int = 0
    """Blocks given up for others or for rows."""
    nbytes: int = 0
    """Held now."""


@dataclass(frozen=True, eq=False)
class _Block:
    ids: tuple[int, ...]
    tensors: Tensors


def chain(digest: str, ids: Sequence[int], known: Sequence[bytes] = ()) -> tuple[bytes, ...]:
    """Hash of each whole block of `ids`: sha256 over its parent's hash (the digest's for the first) and its ids.

    known: hashes of the first blocks, if they were computed before.
    """
    hashes = list(known)
    for start in range(len(hashes) * BLOCK, len(ids) - BLOCK + 1, BLOCK):
        parent = hashes[-1] if hashes else hashlib.sha256(digest.encode()).digest()
        hashes.append(hashlib.sha256(parent + array("q", ids[start : start + BLOCK]).tobytes()).digest())
    return tuple(hashes)


class PrefixCache:
    """Blocks by hash. Knows nothing of slots: who asks copies."""

    def __init__(self, limit: int, block_bytes: int) -> None:
        """limit: most bytes to hold; 0 switches it off. block_bytes: of one block, all layers together."""
        self.limit, self._block_bytes = limit, block_bytes
        self._blocks: OrderedDict[bytes, _Block] = OrderedDict()
        """Least recently used first; of one beginning the last block first, so that no block outlives its parent."""
        self._queries = self._hits = self._evictions = 0

    @property
    def nbytes(self) -> int:
        return len(self._blocks) * self._block_bytes

    @property
    def stats(self) -> CacheStats:
        return CacheStats(self._queries, self._hits, self._evictions, self.nbytes)

    def find(self, hashes: Sequence[bytes], ids: Sequence[int]) -> list[Tensors]:
        """The blocks that `ids` begins with, as far as they are held."""
        found = self._held(hashes, ids)
        self._touch(found)
        self._queries += len(hashes) * BLOCK
        self._hits += len(found) * BLOCK
        return [self._blocks[key].tensors for key in found]

    def add(
        self, hashes: Sequence[bytes], ids: Sequence[int], read: Callable[[int], Tensors | None], room: int
    ) -> None:
        """Holds the blocks of `ids`, as many as there is room for once what others use least is given up.

        read(i): block i, or None if it must not be kept, and with it those after; room: bytes that the budget leaves.
        """
        held, spared = self._held(hashes, ids), set(hashes)
        self._touch(held)
        for i in range(len(held), len(hashes)):
            if not self._make_room(room + self.nbytes, spared) or (tensors := read(i)) is None:
                break
            room -= self._block_bytes
            self._blocks[hashes[i]] = _Block(tuple(ids[i * BLOCK : (i + 1) * BLOCK]), tensors)
            held.append(hashes[i])
        self._touch(held)

    def evict(self, nbytes: int) -> None:
        """Gives up at least so many bytes, as far as there are any."""
        least = self.nbytes - nbytes
        while self._blocks and self.nbytes > least:
            self._blocks.popitem(last=False)
            self._evictions += 1

    def clear(self) -> None:
        self.evict(self.nbytes)

    def _make_room(self, limit: int, spared: set[bytes]) -> bool:
        """For one block more within `limit` bytes and the cache's own limit."""
        while self.nbytes + self._block_bytes > min(limit, self.limit):
            if not self._blocks or next(iter(self._blocks)) in spared:
                return False
            self.evict(1)
        return True

    def _held(self, hashes: Sequence[bytes], ids: Sequence[int]) -> list[bytes]:
        def is_held(i: int) -> bool:
            block = self._blocks.get(hashes[i])
            return block is not None and block.ids == tuple(ids[i * BLOCK : (i + 1) * BLOCK])

        return [hashes[i] for i in takewhile(is_held, range(len(hashes)))]

    def _touch(self, hashes: Sequence[bytes]) -> None:
        for key in reversed(hashes):
            self._blocks.move_to_end(key)
