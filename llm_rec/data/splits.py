"""Splits: what is learned from, what is tuned on, what is asked at the end.

Every split here cuts each user's events at one place: the train part is a prefix of the events, and the history
of any target is everything that user did before it. So a split is a few event indices into one log, never a copy.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int64

from llm_rec.data.interactions import Interactions


@dataclass(frozen=True, eq=False)
class Split:
    """A log, the end of every user's train events, and the events asked for in validation and test.

    `train_ends[u]` is one past the last train event of user `u` (an index into `log.items`). `validation` and `test`
    hold event indices; the history of target event `e` of user `u` is `log.items[log.offsets[u]:e]`.
    """

    log: Interactions
    train_ends: Int64[np.ndarray, "users"]
    validation: Int64[np.ndarray, "validation"]
    test: Int64[np.ndarray, "test"]
    leakage: float | None  # share of train events later than the earliest test target's time; None without clock times

    @property
    def num_items(self) -> int:
        return self.log.num_items

    @cached_property
    def train_counts(self) -> Int64[np.ndarray, "items_plus_one"]:
        """How often each item row occurs in the train part; entry 0 (padding) is 0."""
        starts = self.log.offsets[:-1]
        in_train = np.zeros(self.log.num_events + 1, dtype=np.int64)
        np.add.at(in_train, starts, 1)
        np.add.at(in_train, self.train_ends, -1)
        mask = np.cumsum(in_train[:-1]) > 0
        return np.bincount(self.log.items[mask], minlength=self.num_items + 1).astype(np.int64)


def leave_one_out(log: Interactions) -> Split:
    """Last event of each user for test, the one before for validation, the rest for training.

    A user with fewer than three events trains only: nobody is tested on a history that no training saw.
    """
    ends = log.offsets[1:]
    tested = np.diff(log.offsets) >= 3
    train_ends = np.where(tested, ends - 2, ends)
    return Split(log=log, train_ends=train_ends, validation=(ends - 2)[tested], test=(ends - 1)[tested], leakage=None)
