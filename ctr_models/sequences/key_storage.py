"""Keys of one user's events in float32, bfloat16 or int8, with room to grow: what `cache.UserKeyCache` keeps."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, assert_never

import torch
from jaxtyping import BFloat16, Float32, Int8, Int32, Int64
from torch import Tensor

Storage: TypeAlias = Literal["float32", "bfloat16", "int8"]
KeysOf: TypeAlias = Callable[[Int64[Tensor, "events fields"]], Tensor]  # ids -> keys (events, width)
LARGEST_ID = 2**31 - 1
TILE = 8192  # events that are scored at a time


def history_bytes(length: int, width: int, fields: int, storage: Storage) -> int:
    """Bytes of `length` events of `fields` ids (4 bytes each) and keys of `width` numbers.

    >>> history_bytes(2000, 48, 2, "bfloat16")
    208000
    """
    match storage:
        case "float32":
            key = 4 * width
        case "bfloat16":
            key = 2 * width
        case "int8":
            key = width + 4  # and a scale
        case _:
            assert_never(storage)
    return length * (key + 4 * fields)


class Rows(NamedTuple):
    """Events. The key of int8 numbers is these times its scale."""

    ids: Int32[Tensor, "events fields"]
    keys: Float32[Tensor, "events width"] | BFloat16[Tensor, "events width"] | Int8[Tensor, "events width"]
    scales: Float32[Tensor, "events"] | None

    @property
    def num_bytes(self) -> int:
        return sum(part.nbytes for part in self if part is not None)

    def part(self, start: int, stop: int) -> "Rows":
        """A view."""
        return Rows(
            self.ids[start:stop], self.keys[start:stop], None if self.scales is None else self.scales[start:stop]
        )

    def room(self, events: int) -> "Rows":
        """Empty memory of the same kind."""
        return Rows(
            self.ids.new_empty(events, self.ids.shape[1]),
            self.keys.new_empty(events, self.keys.shape[1]),
            None if self.scales is None else self.scales.new_empty(events),
        )

    def write(self, start: int, rows: "Rows") -> None:
        """Copy `rows` to the places from `start` on."""
        for mine, given in zip(self, rows, strict=True):
            if mine is not None and given is not None:
                mine[start : start + len(given)] = given


def encode(ids: Int64[Tensor, "events fields"], keys: Float32[Tensor, "events width"], storage: Storage) -> Rows:
    """Events as they are stored. int8 rounds each key to 255 steps of its largest number."""
    small = ids.to(torch.int32)
    match storage:
        case "float32":
            return Rows(small, keys, None)
        case "bfloat16":
            return Rows(small, keys.bfloat16(), None)
        case "int8":
            scales = keys.abs().amax(1) / 127
            steps = keys / scales.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(1)
            return Rows(small, steps.round().to(torch.int8), scales)
        case _:
            assert_never(storage)


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """Events `start`..`stop` of `rows`, oldest first; what follows them is room.

    A history never changes: `appended` writes behind `stop`, where nobody who holds this one looks. Append to the
    newest one only.
    """

    rows: Rows
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def num_bytes(self) -> int:
        """With the room."""
        return self.rows.num_bytes

    @property
    def events(self) -> Rows:
        """A view."""
        return self.rows.part(self.start, self.stop)

    def appended(self, new: Rows, max_length: int) -> "History":
        """With at most `max_length` newer events, and no more than that altogether.

        When there is no room left, what is kept moves to new memory with room for half as much again.
        """
        stop = self.stop + len(new.ids)
        if stop > len(self.rows.ids):
            return self._moved(len(new.ids), max_length).appended(new, max_length)
        self.rows.write(self.stop, new)
        return History(self.rows, max(self.start, stop - max_length), stop)

    def _moved(self, new: int, max_length: int) -> "History":
        kept = self.rows.part(max(self.start, self.stop - (max_length - new)), self.stop)
        length = len(kept.ids)
        rows = kept.room(length + new + (length + new) // 2)
        rows.write(0, kept)
        return History(rows, 0, length)


def score_tiles(
    queries: Float32[Tensor, "candidates width"],
    events: Rows,
    bias: Float32[Tensor, "length"] | None,
    *,
    rounded: bool = False,
    keys_of: KeysOf | None = None,
) -> Iterator[Float32[Tensor, "candidates _"]]:
    """<query, key> + bias, `TILE` events at a time. `rounded`: products of bfloat16 keys may be bfloat16 as well.
    `keys_of`: by keys made anew from the ids, not by those stored.
    """
    for start in range(0, max(1, len(events.ids)), TILE):
        tile = events.part(start, start + TILE)
        if keys_of is not None:
            tile = Rows(tile.ids, keys_of(tile.ids.long()), None)
        if rounded and tile.keys.dtype == torch.bfloat16:
            scores = (queries.bfloat16() @ tile.keys.T).float()
        else:
            scores = queries @ tile.keys.float().T
        if tile.scales is not None:
            scores.mul_(tile.scales)
        yield scores if bias is None else scores.add_(bias[start : start + TILE])
