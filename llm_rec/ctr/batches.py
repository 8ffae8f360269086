"""Batches of a click log: whole-array gathers from memory-mapped columns, in an order that seed and epoch fix."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64

from ctr_models.batch import FeatureBatch
from llm_rec.ctr.histories import history_batch
from llm_rec.data.columns import ClickColumns, ClickLog
from llm_rec.data.log_spec import Part
from llm_rec.errors import DataError

Shuffle = Literal["none", "rows", "blocks"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClickBatchConfig:
    """How an epoch is cut into batches.

    `shuffle="rows"` is a uniform permutation of all rows; it reads a log at random places, so use it when the log fits
    into memory (the page cache). "blocks" is for logs that do not: blocks of `block_rows` neighbouring rows come in
    random order, `window_blocks` of them are read at a time, one after the other, and their rows are shuffled. "none"
    keeps the order, for evaluation. `drop_last` leaves out a last batch that is not full.
    """

    batch_size: int = 4096
    shuffle: Shuffle = "rows"
    drop_last: bool = False
    block_rows: int = 4096
    window_blocks: int = 64

    def __post_init__(self) -> None:
        for name in ("batch_size", "block_rows", "window_blocks"):
            value = {"batch_size": self.batch_size, "block_rows": self.block_rows}.get(name, self.window_blocks)
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


class ClickBatches:
    """A `BatchSource[FeatureBatch]` over one part: a pure function of (seed, epoch, step).

    `rows` are the numbers of the rows to take, then held in memory; all without it. `history_length` is how many of the
    newest past events a row brings along; 0 leaves histories out. Raises `DataError` when the log lacks the part or
    histories, or `drop_last` leaves no batch.
    """

    def __init__(
        self,
        log: ClickLog,
        part: Part,
        config: ClickBatchConfig,
        seed: int = 0,
        *,
        history_length: int = 0,
        rows: Int64[np.ndarray, "rows"] | None = None,
    ) -> None:
        self.columns = log.part(part) if rows is None else log.part(part).select(rows)
        self.history_length = history_length
        if history_length and self.columns.events is None:
            raise DataError(f"{log.path}: rows have no histories; encode the log with history fields")
        self.config = config
        self.seed = seed
        if not len(self):
            raise DataError(
                f"{log.path}: the {part} part has {len(self.columns)} rows, which is no full batch of "
                f"{config.batch_size}; lower batch_size or switch drop_last off"
            )

    @property
    def num_rows(self) -> int:
        return len(self.columns)

    def __len__(self) -> int:
        full, rest = divmod(self.num_rows, self.config.batch_size)
        return full + (rest > 0 and not self.config.drop_last)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[FeatureBatch]:
        """Batches `first_step`, ... of `epoch` (counted from 1)."""
        match self.config.shuffle:
            case "none":
                yield from self._ordered(first_step)
            case "rows":
                yield from self._permuted(epoch, first_step)
            case "blocks":
                yield from self._windows(epoch, first_step)

    def _ordered(self, first_step: int) -> Iterator[FeatureBatch]:
        for start, stop in self._bounds(first_step):
            yield to_batch(self.columns.select(slice(start, stop)), self.history_length)

    def _permuted(self, epoch: int, first_step: int) -> Iterator[FeatureBatch]:
        order = permutation(self.num_rows, [self.seed, epoch])
        for start, stop in self._bounds(first_step):
            yield to_batch(self.columns.select(order[start:stop]), self.history_length)

    def _windows(self, epoch: int, first_step: int) -> Iterator[FeatureBatch]:
        """Rows of a window that fill no batch go before those of the next."""
        bounds = self._bounds(first_step)
        if not bounds:
            return
        blocks = self._blocks(epoch)
        ends = np.cumsum(blocks[:, 1] - blocks[:, 0])
        per_window = self.config.window_blocks
        window_ends = ends[np.minimum(np.arange(per_window - 1, len(ends) + per_window - 1, per_window), len(ends) - 1)]
        window = int(np.searchsorted(window_ends, bounds[0][0], side="right"))
        position = int(window_ends[window - 1]) if window else 0  # of the first row held
        held: ClickColumns | None = None
        for start, stop in bounds:
            while held is None or position + len(held) < stop:
                fresh = self._window(
                    blocks[window * per_window : (window + 1) * per_window], [self.seed, epoch, window]
                )
                rest = None if held is None else held.select(slice(start - position, len(held)))
                position = position if held is None else start
                held = fresh if rest is None else join([rest, fresh])
                window += 1
            yield to_batch(held.select(slice(start - position, stop - position)), self.history_length)

    def _bounds(self, first_step: int) -> list[tuple[int, int]]:
        size = self.config.batch_size
        return [(step * size, min((step + 1) * size, self.num_rows)) for step in range(first_step, len(self))]

    def _blocks(self, epoch: int) -> Int64[np.ndarray, "blocks 2"]:
        """(first row, one past the last) of every block, in this epoch's order."""
        starts = np.arange(0, self.num_rows, self.config.block_rows)
        blocks = np.stack([starts, np.minimum(starts + self.config.block_rows, self.num_rows)], axis=1)
        return np.take(blocks, permutation(len(blocks), [self.seed, epoch]), axis=0).astype(np.int64)

    def _window(self, blocks: Int64[np.ndarray, "blocks 2"], seed: list[int]) -> ClickColumns:
        rows = join([self.columns.select(slice(start, stop)) for start, stop in blocks.tolist()])
        return rows.select(permutation(len(rows), seed))


def join(pieces: list[ClickColumns]) -> ClickColumns:
    """Pieces of one log, one after the other, in memory; the events they look back on are not copied."""
    return ClickColumns(
        ids=np.concatenate([piece.ids for piece in pieces]),
        numbers=np.concatenate([piece.numbers for piece in pieces]),
        dense=np.concatenate([piece.dense for piece in pieces]),
        labels=np.concatenate([piece.labels for piece in pieces]),
        groups=_join([piece.groups for piece in pieces]),
        windows=_join([piece.windows for piece in pieces]),
        times=_join([piece.times for piece in pieces]),
        events=pieces[0].events,
        weights=_join([piece.weights for piece in pieces]),
    )


def _join(pieces: list[np.ndarray | None]) -> np.ndarray | None:
    present = [piece for piece in pieces if piece is not None]
    return np.concatenate(present) if present else None


def to_batch(columns: ClickColumns, history_length: int = 0) -> FeatureBatch:
    """Rows as tensors of their own memory, with their newest `history_length` past events."""
    return FeatureBatch(
        ids=torch.from_numpy(columns.ids.astype(np.int64)),
        numbers=torch.from_numpy(np.array(columns.numbers)),
        dense=torch.from_numpy(np.array(columns.dense)),
        labels=torch.from_numpy(np.array(columns.labels)),
        groups=None if columns.groups is None else torch.from_numpy(np.array(columns.groups)),
        history=history_batch(columns, history_length) if history_length else None,
        weights=None if columns.weights is None else torch.from_numpy(np.array(columns.weights)),
    )


def permutation(number: int, seed: list[int]) -> np.ndarray:
    """Numbers 0..number - 1 in an order that `seed` fixes. Half the memory of int64 where it fits: an epoch of 40
    million rows holds 160 MB.
    """
    dtype = np.int32 if number < 2**31 else np.int64
    order = np.arange(number, dtype=dtype)
    np.random.default_rng(seed).shuffle(order)
    return order
