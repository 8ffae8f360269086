"""How much codes say about labels: mutual information in nats (discriminability of Mixture-of-Codes, arXiv 2410.09560).

The plug-in estimate counts (code, label) pairs. With many codes it rises towards I(label; item) from sparsity alone, so
it never stands alone here: beside it are the Miller-Madow correction, what the codes gain on rows that were not counted
(held out), what each further book adds, and what random codes of the same sizes give. The paper names the measure but
no estimator; these are our choice.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64

from semantic_ids.keys import prefix_groups

_CELLS_AT_ONCE = 1 << 22  # resampled counts held at a time
_STRENGTHS = 2.0 ** np.arange(-2, 31)  # pseudo-rows of the prior that leave-one-out chooses from


@dataclass(frozen=True, eq=False)
class Cells:
    """Non-empty cells of a contingency table, sorted by code."""

    codes: Int64[np.ndarray, "cells"]  # numbered from 0
    labels: Int64[np.ndarray, "cells"]  # numbered from 0
    counts: Int64[np.ndarray, "cells"]

    @classmethod
    def of(
        cls, codes: Int64[np.ndarray, "rows"], labels: Int[np.ndarray, "rows"] | Bool[np.ndarray, "rows"]
    ) -> "Cells":
        """Count the pairs of any integers. Raises `ValueError` without rows."""
        if not len(codes) or len(codes) != len(labels):
            raise ValueError(f"information needs rows, each with code and label; got {len(codes)} and {len(labels)}")
        values, classes = np.unique(labels, return_inverse=True)
        numbers = np.unique(codes, return_inverse=True)[1]
        pairs, counts = np.unique(numbers * len(values) + classes, return_counts=True)
        return cls(codes=pairs // len(values), labels=pairs % len(values), counts=counts.astype(np.int64))


@dataclass(frozen=True, kw_only=True, slots=True)
class Information:
    """I(label; code): as counted, corrected for the number of cells, and the bounds of a bootstrap interval."""

    plug_in: float
    corrected: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class BookInformation:
    """The first `books` books together, and what the last of them adds to those before."""

    books: int
    in_sample: Information
    held_out: float
    novelty: float  # I(label; last book | books before), plug-in
    novelty_corrected: float
    novelty_held_out: float
    control: float  # held out, of the same codes dealt to random items


@dataclass(frozen=True, kw_only=True, slots=True)
class Discriminability:
    """Curve over books between its bounds: 0 <= I(label; code) <= I(label; item) <= H(label), in sample."""

    label_entropy: float
    item: Information
    item_held_out: float
    curve: tuple[BookInformation, ...]


def mutual_information(cells: Cells) -> float:
    """Plug-in I = H(code) + H(label) - H(code, label).

    >>> cells = Cells.of(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]))
    >>> round(mutual_information(cells), 4)  # one bit is log 2
    0.6931
    """
    return float(_information(cells, cells.counts[None].astype(np.float64))[0])


def miller_madow(cells: Cells) -> float:
    """Plug-in I plus (m_code + m_label - m_cells - 1) / (2 n), m the numbers of non-empty bins (Miller, 1955): each
    entropy corrected by (m - 1) / (2 n). Negative values mean less than chance would show.
    """
    seen_codes, seen_labels = (int(column.max()) + 1 for column in (cells.codes, cells.labels))
    correction = (seen_codes + seen_labels - len(cells.counts) - 1) / (2 * int(cells.counts.sum()))
    return mutual_information(cells) + correction


def bootstrap_interval(cells: Cells, *, samples: int = 200, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Interval for I from resampled rows (drawn as counts of cells), reflected about the estimate: a resample of a
    sparse table overstates I by about as much again as the table did, and reflection takes that out. Not below 0.
    """
    if samples < 1 or not 0 < level < 1:
        raise ValueError(f"a bootstrap needs samples >= 1 and a level between 0 and 1, got {samples} and {level}")
    rng = np.random.default_rng(seed)
    total = int(cells.counts.sum())
    shares = cells.counts / total
    at_once = max(1, _CELLS_AT_ONCE // len(shares))
    parts = [
        _information(cells, rng.multinomial(total, shares, size=min(at_once, samples - first)).astype(np.float64))
        for first in range(0, samples, at_once)
    ]
    tail = (1 - level) / 2
    quantiles = np.quantile(np.concatenate(parts), [1 - tail, tail])
    low, high = np.maximum(0.0, 2 * mutual_information(cells) - quantiles)
    return float(low), float(high)


def held_out_information(
    train_codes: Int64[np.ndarray, "train"],
    train_labels: Int[np.ndarray, "train"] | Bool[np.ndarray, "train"],
    test_codes: Int64[np.ndarray, "test"],
    test_labels: Int[np.ndarray, "test"] | Bool[np.ndarray, "test"],
    *,
    strength: float | None = None,
) -> float:
    """Log loss on test rows of the train share of label 1, minus that of its shares per code:

        p(1 | code) = (n_code,1 + strength * share) / (n_code + strength)

    Negative when the codes mislead. A code not seen in training predicts the overall share. `strength` None: the one of
    33 powers of two with the least leave-one-out log loss in training, so that codes without signal gain about 0.
    Labels are 0 or 1. Raises `ValueError` when training rows hold one class.
    """
    train, test = train_labels.astype(bool), test_labels.astype(bool)
    share = float(train.mean()) if len(train) else 0.0
    if not 0 < share < 1 or not len(test):
        raise ValueError(
            f"held-out information needs train rows of both labels and test rows; got a share of {share} and "
            f"{len(test)} test rows"
        )
    known, numbers = np.unique(train_codes, return_inverse=True)
    total = np.bincount(numbers).astype(np.float64)
    ones = np.bincount(numbers, weights=train)
    if strength is None:
        strength = _leave_one_out_strength(ones, total, share)
    place = np.searchsorted(known, test_codes).clip(max=len(known) - 1)
    seen = known[place] == test_codes
    p = np.where(seen, (ones[place] + strength * share) / (total[place] + strength), share)
    return float((np.log(np.where(test, p, 1 - p)) - np.log(np.where(test, share, 1 - share))).mean())


def discriminability(
    codes: Int[np.ndarray, "items books"],
    train_items: Int64[np.ndarray, "train"],
    train_labels: Int[np.ndarray, "train"] | Bool[np.ndarray, "train"],
    test_items: Int64[np.ndarray, "test"],
    test_labels: Int[np.ndarray, "test"] | Bool[np.ndarray, "test"],
    *,
    samples: int = 200,
    seed: int = 0,
) -> Discriminability:
    """Information of the first 1, 2, ..., books of `codes` about labels; `items` are rows of `codes`.

    Tuples are grouped exactly, so any number of books fits. The control deals the same tuples to random items: what it
    gains is memory of items, not meaning of codes.
    """
    item_cells = Cells.of(train_items, train_labels)
    shuffled = np.random.default_rng(seed).permutation(len(codes))
    records: list[BookInformation] = []
    before = (0.0, 0.0, 0.0)
    for books, keys in _prefixes(codes):
        cells = Cells.of(keys[train_items], train_labels)
        dealt = keys[shuffled]
        now = _summary(cells, samples, seed)
        held_out, control = (
            held_out_information(by_item[train_items], train_labels, by_item[test_items], test_labels)
            for by_item in (keys, dealt)
        )
        records.append(
            BookInformation(
                books=books,
                in_sample=now,
                held_out=held_out,
                novelty=now.plug_in - before[0],
                novelty_corrected=now.corrected - before[1],
                novelty_held_out=held_out - before[2],
                control=control,
            )
        )
        before = (now.plug_in, now.corrected, held_out)
    own = Cells.of(np.zeros(len(train_items), dtype=np.int64), train_labels)
    return Discriminability(
        label_entropy=float(_entropy_terms(own.counts[None].astype(np.float64))[0]),
        item=_summary(item_cells, samples, seed),
        item_held_out=held_out_information(train_items, train_labels, test_items, test_labels),
        curve=tuple(records),
    )


def _prefixes(codes: Int[np.ndarray, "items books"]) -> Iterator[tuple[int, Int64[np.ndarray, "items"]]]:
    """The number of the tuple of the first 1, 2, ... books of every item."""
    sizes = tuple(int(size) for size in codes.max(axis=0) + 1)
    for books in range(1, codes.shape[1] + 1):
        yield books, prefix_groups(codes[:, :books], sizes[:books])


def _summary(cells: Cells, samples: int, seed: int) -> Information:
    low, high = bootstrap_interval(cells, samples=samples, seed=seed)
    return Information(plug_in=mutual_information(cells), corrected=miller_madow(cells), low=low, high=high)


def _information(cells: Cells, counts: Float64[np.ndarray, "samples cells"]) -> Float64[np.ndarray, "samples"]:
    starts = np.flatnonzero(np.r_[True, cells.codes[1:] != cells.codes[:-1]])
    by_code = np.add.reduceat(counts, starts, axis=1)
    by_label = counts @ np.eye(int(cells.labels.max()) + 1)[cells.labels]
    information: np.ndarray = _entropy_terms(by_code) + _entropy_terms(by_label) - _entropy_terms(counts)
    return information.clip(min=0.0)


def _entropy_terms(counts: Float64[np.ndarray, "samples bins"]) -> Float64[np.ndarray, "samples"]:
    """H of each row of counts: log n - sum(n_i log n_i) / n."""
    total = counts.sum(axis=1)
    logs = np.log(np.where(counts > 0, counts, 1.0))
    entropy: np.ndarray = np.log(total) - (counts * logs).sum(axis=1) / total
    return entropy


def _leave_one_out_strength(
    ones: Float64[np.ndarray, "codes"], total: Float64[np.ndarray, "codes"], share: float
) -> float:
    """The prior strength with the least log loss when every train row is predicted by the others of its code."""
    zeros, loss = total - ones, np.zeros(len(_STRENGTHS))
    for i, strength in enumerate(_STRENGTHS):
        below = total - 1 + strength
        for number, prior in ((ones, share), (zeros, 1 - share)):
            hit = number > 0
            loss[i] -= (number[hit] * np.log((number[hit] - 1 + strength * prior) / below[hit])).sum()
    return float(_STRENGTHS[loss.argmin()])
