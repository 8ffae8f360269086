"""Similarity encoding: how near a user and an item are in a frozen space, as a field (arXiv 2403.00793).

    w = cos(v_user, v_item),    q = round((w + 1) / 2 (N - 1)),    field = digits of q in several bases

Vectors of a language model live in another space than tables of ids, and cosine is another measure than their inner
product; the paper's way over this gap is to learn from the similarity alone, beside the raw ids. Its own vectors are
those of a graph network; ours are texts of items (`llm_rec.store.EmbeddingStore`), and of a user the mean of what the
user has done, unless vectors are given. The quantiser is our choice.

**No row sees itself.** The history of a user are train positives alone. A train row, and the negatives beside it, has
the user's vector without its own event: with it, every train positive would be near its user for no reason that a test
row has. One event is left out, not the item: where the user has it in another train event that one counts, as it does
for a test row. A user or an item without a vector, and a user whose one event is left out, have no similarity, which is
a bucket of its own. Given user vectors are taken as they are: they must not be made of the rows that they are to score.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from ctr_models.integers import CosineScale, Integers, NumeralsConfig
from llm_rec.ctr.sampled_rows import RowChunk
from llm_rec.data.columns import FittedColumn
from llm_rec.data.interactions import Interactions
from llm_rec.data.log_spec import ColumnSpec, Part
from llm_rec.data.splits import Split
from llm_rec.errors import DataError

_ROWS = 1 << 14  # rows whose vectors are held at a time
_TINY = 1e-12  # a squared length below this share of its terms is what rounding leaves of 0


@dataclass(frozen=True, kw_only=True, slots=True)
class SimilarityConfig:
    """The field `name`: cosine to one of `levels` integers, read in `bases` (`ctr_models.integers.NumeralsConfig`).

    A server gives the cosine itself, as a raw column of the same name: see `SimilaritySource.cosines`.
    """

    name: str = "similarity"
    levels: int = 1024
    bases: tuple[int, ...] = (2, 3)
    combine: Literal["sum", "concat"] = "sum"

    def __post_init__(self) -> None:
        NumeralsConfig(levels=self.levels, bases=self.bases)

    @property
    def column(self) -> FittedColumn:
        """The field with its encoder; nothing is fitted."""
        config = NumeralsConfig(scale="cosine", levels=self.levels, bases=self.bases, combine=self.combine)
        encoder = Integers.of(config, CosineScale(self.levels))
        return FittedColumn(ColumnSpec(name=self.name, encoder=config), encoder)


@dataclass(frozen=True, eq=False)
class SimilaritySource:
    """Vectors of users (sums of their history's items; any length serves a cosine) and of items, row 0 padding.

    `from_history` says whether user vectors hold events, which train rows then leave out.
    """

    users: Float64[np.ndarray, "users width"]
    items: Float32[np.ndarray, "items_plus_one width"]
    from_history: bool

    @classmethod
    def of_history(
        cls,
        users: Int64[np.ndarray, "events"],
        items: Int64[np.ndarray, "events"],
        vectors: Float32[np.ndarray, "items_plus_one width"],
        num_users: int,
    ) -> "SimilaritySource":
        """Users as the sums of the vectors of their train positives, given as pairs (user from 0, item row)."""
        sums = np.zeros((num_users, vectors.shape[1]))
        for chunk in _chunks(len(users)):
            np.add.at(sums, users[chunk], vectors[items[chunk]].astype(np.float64))
        return cls(sums, vectors, from_history=True)

    @classmethod
    def given(
        cls, users: Float32[np.ndarray, "users user_width"], vectors: Float32[np.ndarray, "items_plus_one width"]
    ) -> "SimilaritySource":
        """Users with vectors of their own. `DataError` when the two spaces have not one width."""
        if users.shape[1] != vectors.shape[1]:
            raise DataError(
                f"user vectors have {users.shape[1]} numbers and item vectors {vectors.shape[1]}; use one space"
            )
        return cls(users.astype(np.float64), vectors, from_history=False)

    def cosines(
        self,
        users: Int64[np.ndarray, "rows"],
        items: Int64[np.ndarray, "rows"],
        left_out: Int64[np.ndarray, "rows"] | None = None,
    ) -> Float64[np.ndarray, "rows"]:
        """The similarity of every row, NaN where there is none. Item row 0 and user -1 have no vector.

        `left_out` names for each row the item of one event that its user's history is taken without, 0 for none;
        nothing is left out of vectors that were given.
        """
        found = np.full(len(users), np.nan)
        for chunk in _chunks(len(users)):
            known = users[chunk] >= 0
            mine = np.where(known[:, None], self.users[users[chunk]], 0.0)
            scale = np.square(mine).sum(1)
            if left_out is not None and self.from_history:
                own = self.items[left_out[chunk]].astype(np.float64)
                mine = mine - np.where((left_out[chunk] > 0)[:, None], own, 0.0)
                scale += np.square(own).sum(1)
            theirs = np.where((items[chunk] > 0)[:, None], self.items[items[chunk]].astype(np.float64), 0.0)
            lengths = np.square(mine).sum(1)
            product = np.sqrt(np.where(lengths > _TINY * scale, lengths, 0.0) * np.square(theirs).sum(1))
            real = product > 0
            found[chunk] = np.where(real, (mine * theirs).sum(1) / np.where(real, product, 1.0), np.nan)
        return found


@dataclass(frozen=True, eq=False)
class RowSimilarity:
    """The field over sampled rows of an interaction log, which neither user nor item has alone."""

    column: FittedColumn
    source: SimilaritySource

    def of(self, part: Part, chunk: RowChunk, log: Interactions) -> Int64[np.ndarray, "rows"]:
        """Ids of the rows; those of training are taken without the event that they are or stand beside."""
        own = log.items[chunk.events].astype(np.int64) if part == "train" else None
        cosines = self.source.cosines(chunk.users, chunk.items, own)
        return self.column.encoder.transform(cosines)


def row_similarity(
    split: Split,
    config: SimilarityConfig | None,
    embeddings: Float32[np.ndarray, "items_plus_one width"] | None,
    users: Float32[np.ndarray, "users width"] | None,
) -> RowSimilarity | None:
    """The field of `config` over the rows of a split; None without one. `DataError` for vectors of other items."""
    if config is None:
        return None
    log = split.log
    if embeddings is None or len(embeddings) != log.num_items + 1:
        found = "none" if embeddings is None else f"{len(embeddings)} rows"
        raise DataError(
            f"similarity needs a vector for each of {log.num_items} items and row 0 for padding, got {found}; encode "
            "the catalog of the log"
        )
    if users is None:
        train = np.flatnonzero(split.in_train)
        source = SimilaritySource.of_history(log.users_of(train), log.items[train], embeddings, log.num_users)
    elif len(users) == log.num_users:
        source = SimilaritySource.given(users, embeddings)
    else:
        raise DataError(f"there are {len(users)} user vectors, but the log has {log.num_users} users; give one a user")
    return RowSimilarity(config.column, source)


def left_out_items(
    items: Int64[np.ndarray, "rows"],
    positive: Bool[np.ndarray, "rows"],
    train: Bool[np.ndarray, "rows"],
    events: Int64[np.ndarray, "rows"],
) -> Int64[np.ndarray, "rows"]:
    """For `SimilaritySource.cosines`: of every train row the item of the train positive of its event, else 0.

    Rows of one event (a positive and the negatives that were made for it) have one number in `events`.

    >>> items, positive = np.array([7, 3, 9, 5]), np.array([True, False, True, False])
    >>> left_out_items(items, positive, np.array([True, True, False, True]), np.array([0, 0, 1, 1])).tolist()
    [7, 7, 0, 0]
    """
    own = train & positive
    numbers, first = np.unique(events[own], return_index=True)
    if not len(numbers):
        return np.zeros(len(items), dtype=np.int64)
    place = np.searchsorted(numbers, events).clip(max=len(numbers) - 1)
    known = train & (numbers[place] == events)
    return np.where(known, items[own][first][place], 0).astype(np.int64)


def _chunks(rows: int) -> Iterator[slice]:
    return (slice(start, start + _ROWS) for start in range(0, rows, _ROWS))
