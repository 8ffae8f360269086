"""Which items share their text with an earlier item, exactly, with 16 bytes an item while it is found out."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int64, UInt64

_CHUNK = 8_192
HashTexts = Callable[[Sequence[str]], np.ndarray]


class Duplicates:
    """The first item with each text. Positions are zero-based (item row - 1).

    Kept: one 64-bit hash an item, plus 16 bytes for each hash that occurs twice or more (so at most 16 bytes an item).
    Hashes only propose: two items are duplicates when their texts are equal, so a collision costs one more encoding and
    never a wrong vector.
    """

    def __init__(self, texts: Sequence[str], hash_texts: HashTexts | None = None) -> None:
        self.texts = texts
        self._hashes = (hash_texts or siphash)(texts)
        self._repeated = _repeated(self._hashes)
        self._first = np.full(len(self._repeated), len(texts), dtype=np.int64)
        for start in range(0, len(texts), _CHUNK):
            slot, known = self._lookup(start, min(start + _CHUNK, len(texts)))
            np.minimum.at(self._first, slot[known], start + np.flatnonzero(known))

    def sources(self, start: int, stop: int) -> Int64[np.ndarray, "rows"]:
        """For each position in [start, stop) the first position with the same text (itself, if it is the first)."""
        slot, known = self._lookup(start, stop)
        sources = np.arange(start, stop, dtype=np.int64)
        sources[known] = self._first[slot[known]]
        own = np.arange(start, stop, dtype=np.int64)
        candidates = np.flatnonzero(sources != own)
        pairs = zip((candidates + start).tolist(), sources[candidates].tolist(), strict=True)
        equal = np.fromiter((self.texts[a] == self.texts[b] for a, b in pairs), dtype=bool, count=len(candidates))
        collided = candidates[~equal]
        sources[collided] = own[collided]
        return sources

    def _lookup(self, start: int, stop: int) -> tuple[Int64[np.ndarray, "rows"], Bool[np.ndarray, "rows"]]:
        hashes = self._hashes[start:stop]
        if not len(self._repeated):
            return np.zeros(len(hashes), dtype=np.int64), np.zeros(len(hashes), dtype=bool)
        slot = np.minimum(np.searchsorted(self._repeated, hashes), len(self._repeated) - 1)
        return slot, self._repeated[slot] == hashes


def siphash(texts: Sequence[str]) -> UInt64[np.ndarray, "texts"]:
    """64-bit SipHash of each text."""
    hashes = np.empty(len(texts), dtype=np.uint64)
    for start in range(0, len(texts), _CHUNK):
        part = np.array(texts[start : start + _CHUNK], dtype=object)
        hashes[start : start + len(part)] = pd.util.hash_array(part, categorize=False)
    return hashes


def _repeated(hashes: UInt64[np.ndarray, "texts"]) -> UInt64[np.ndarray, "repeated"]:
    """The hashes that occur more than once, sorted."""
    ordered = np.sort(hashes)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    first = np.ones(len(again), dtype=bool)
    first[1:] = again[1:] != again[:-1]
    repeated: np.ndarray = again[first]
    return repeated
