"""Positives with their sampled negatives, as rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

_CHUNK = 1 << 16  # positives at a time


@dataclass(frozen=True, eq=False)
class Rows:
    """Users (from 0), event numbers and item rows (or ids) of a part's positives, each with its negatives behind it."""

    users: Int64[np.ndarray, "positives"]
    events: Int64[np.ndarray, "positives"]
    items: Int64[np.ndarray, "positives choices"]

    def __len__(self) -> int:
        return self.items.size

    def chunks(self) -> Iterator["RowChunk"]:
        """Some thousand rows at a time."""
        choices = self.items.shape[1]
        label = np.zeros((1, choices), dtype=np.float32)
        label[0, 0] = 1.0
        for start in range(0, len(self.users), _CHUNK):
            piece = slice(start, start + _CHUNK)
            users, events, items = self.users[piece], self.events[piece], self.items[piece]
            labels = np.tile(label, (len(users), 1)).reshape(-1, 1)
            yield RowChunk(np.repeat(users, choices), np.repeat(events, choices), items.ravel(), labels)


class RowChunk(NamedTuple):
    """Rows: user, the event of the positive that the row is or stands beside, item, label."""

    users: Int64[np.ndarray, "rows"]
    events: Int64[np.ndarray, "rows"]
    items: Int64[np.ndarray, "rows"]
    labels: Float32[np.ndarray, "rows 1"]
