"""Hashed n-grams: vectors without a model, the same on every machine. For tests, controls and first trials."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt64

from llm_rec.artifacts import fingerprint
from llm_rec.codec import Plain, to_plain
from llm_rec.encoders.tokens import TokenRows, one_batch

_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that powers of it never vanish modulo 2^64


@dataclass(frozen=True, kw_only=True, slots=True)
class HashingEncoderConfig:
    """Words and word pairs up to `word_ngrams`, character n-grams of each length in `char_ngrams` (may be empty).

    `weighting` of a feature that occurs c times in a text: count c, binary 1, log 1 + ln c (no document frequencies, so
    a vector never depends on the other texts).
    """

    dim: int = 512
    word_ngrams: int = 2
    char_ngrams: tuple[int, ...] = (3, 4)
    weighting: Literal["count", "binary", "log"] = "log"
    lowercase: bool = True
    normalize: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim must be at least 1, got {self.dim}")
        if not 0 <= self.word_ngrams <= 3:
            raise ValueError(f"word_ngrams must be 0 to 3, got {self.word_ngrams}")
        if any(n < 1 for n in self.char_ngrams):
            raise ValueError(f"char_ngrams must be positive lengths, got {self.char_ngrams}")
        if not self.word_ngrams and not self.char_ngrams:
            raise ValueError("word_ngrams 0 with no char_ngrams leaves no features; set one of them")


class HashingEncoder:
    """Signed feature hashing (Weinberger et al., arXiv 0902.2206): x_i = sum_{f: h(f) = i} s(f) w(f).

    The sign s(f) = +-1 comes from another bit of the feature's hash and makes inner products unbiased. Words are runs
    of letters and digits (every character beyond ASCII counts as a letter: our choice). Prefer `SentenceEncoder`
    whenever a model is at hand: texts without a common n-gram are orthogonal here.
    """

    def __init__(self, config: HashingEncoderConfig) -> None:
        self.config = config

    @property
    def dim(self) -> int:
        return self.config.dim

    @property
    def tokens_per_batch(self) -> int:
        return 65_536

    def fingerprint(self) -> str:
        return fingerprint("hashing-1", to_plain(self.config))  # type: ignore[arg-type]

    def environment(self) -> Mapping[str, Plain]:
        """Empty: additions run in a fixed order on one thread."""
        return {}

    def tokenize(self, texts: Sequence[str]) -> TokenRows:
        """The 64-bit hash of every feature of every text, by whole arrays over all characters at once."""
        chars, owner = _characters([text.lower() for text in texts] if self.config.lowercase else texts)
        families = [*self._words(chars, owner), *self._windows(chars, owner)]
        hashes = np.concatenate([h for h, _ in families])
        owners = np.concatenate([o for _, o in families])
        order = np.argsort(owners, kind="stable")
        offsets = np.searchsorted(owners[order], np.arange(len(texts) + 1)).astype(np.int64)
        return TokenRows(values=hashes[order].view(np.int64), offsets=offsets)

    def encode_tokens(
        self, tokens: TokenRows, batches: Iterable[Int64[np.ndarray, "batch"]]
    ) -> Float32[np.ndarray, "texts dim"]:
        vectors = np.zeros((len(tokens), self.dim), dtype=np.float32)
        for batch in batches:
            vectors[batch] = self._vectors(tokens, batch)
        return vectors

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts dim"]:
        tokens = self.tokenize(texts)
        return self.encode_tokens(tokens, one_batch(tokens))

    def _vectors(self, tokens: TokenRows, batch: Int64[np.ndarray, "batch"]) -> Float32[np.ndarray, "batch dim"]:
        lengths = tokens.lengths[batch]
        text = np.repeat(np.arange(len(batch)), lengths)
        within = np.arange(len(text)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        feature = tokens.values[np.repeat(tokens.offsets[batch], lengths) + within].view(np.uint64)
        order = np.lexsort((feature, text))
        text, feature = text[order], feature[order]
        new = np.ones(len(text), dtype=bool)
        new[1:] = (text[1:] != text[:-1]) | (feature[1:] != feature[:-1])
        starts = np.flatnonzero(new)
        counts = np.diff(np.append(starts, len(text))).astype(np.float64)
        text, feature = text[starts], feature[starts]
        sign = 1.0 - 2.0 * (feature & np.uint64(1)).astype(np.float64)
        slot = ((feature >> np.uint64(1)) % np.uint64(self.dim)).astype(np.int64)
        size = len(batch) * self.dim
        sums = np.bincount(text * self.dim + slot, weights=sign * self._weights(counts), minlength=size)
        vectors: np.ndarray = sums.reshape(len(batch), self.dim)
        if self.config.normalize:
            norms = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
            vectors = vectors / np.where(norms > 0, norms, 1.0)
        return vectors.astype(np.float32)

    def _weights(self, counts: np.ndarray) -> np.ndarray:
        if self.config.weighting == "count":
            return counts
        return np.ones_like(counts) if self.config.weighting == "binary" else 1.0 + np.log(counts)

    def _words(self, chars: np.ndarray, owner: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Hashes and owners of words, word pairs, ...: a word's hash is a polynomial over its own characters."""
        if not self.config.word_ngrams:
            return []
        letter = _is_letter(chars)
        edge = letter.copy()
        edge[1:] &= ~letter[:-1] | (owner[1:] != owner[:-1])
        starts = np.flatnonzero(edge)
        word = np.cumsum(edge)[letter] - 1  # which word each letter belongs to
        place = np.flatnonzero(letter) - starts[word]
        terms = (chars[letter] + np.uint64(1)) * _powers(int(place.max(initial=0)) + 1)[place]
        word_starts = np.flatnonzero(np.diff(word, prepend=-1))
        hashes = np.add.reduceat(terms, word_starts) if len(terms) else terms
        owners = owner[starts]
        families = []
        chained = hashes
        for n in range(1, self.config.word_ngrams + 1):
            if n > 1:
                chained = _mix(chained[:-1]) * _BASE + hashes[n - 1 :]
            same = owners[: len(chained)] == owners[n - 1 :]
            families.append((self._feature(chained[same], n), owners[: len(chained)][same]))
        return families

    def _windows(self, chars: np.ndarray, owner: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Hashes and owners of every run of n characters that stays inside one text."""
        families = []
        for n in self.config.char_ngrams:
            count = max(0, len(chars) - n + 1)
            powers = _powers(n)
            hashes = np.zeros(count, dtype=np.uint64)
            for k in range(n):
                hashes += (chars[k : k + count] + np.uint64(1)) * powers[k]
            inside = owner[:count] == owner[len(owner) - count :]
            families.append((self._feature(hashes[inside], 1000 + n), owner[:count][inside]))
        return families

    def _feature(self, hashes: UInt64[np.ndarray, "features"], family: int) -> UInt64[np.ndarray, "features"]:
        salt = _mix(np.array([(self.config.seed * 1_000_003 + family) % 2**64], dtype=np.uint64))
        return _mix(hashes ^ salt)


def _characters(texts: Sequence[str]) -> tuple[UInt64[np.ndarray, "chars"], Int64[np.ndarray, "chars"]]:
    """Code points of all texts in a row, and the text that each belongs to."""
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    raw = "".join(texts).encode("utf-32-le", errors="surrogatepass")
    chars = np.frombuffer(raw, dtype="<u4").astype(np.uint64)
    return chars, np.repeat(np.arange(len(texts), dtype=np.int64), lengths)


def _is_letter(chars: UInt64[np.ndarray, "chars"]) -> Bool[np.ndarray, "chars"]:
    ascii_letters = np.array([chr(c).isalnum() for c in range(128)])
    letters: np.ndarray = (chars >= 128) | ascii_letters[np.minimum(chars, 127).astype(np.int64)]
    return letters


def _powers(count: int) -> UInt64[np.ndarray, "powers"]:
    powers: np.ndarray = np.cumprod(np.full(count, _BASE, dtype=np.uint64), dtype=np.uint64)
    return powers


def _mix(hashes: UInt64[np.ndarray, "features"]) -> UInt64[np.ndarray, "features"]:
    """Finaliser of SplitMix64: every input bit moves every output bit."""
    mixed = hashes + _BASE
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    finished: np.ndarray = mixed ^ (mixed >> np.uint64(31))
    return finished
