"""Items that a user never touched, for negatives of click-log rows. For negatives of sequence models, drawn while
training and also by popularity, see `llm_rec.sequential.negatives`.
"""

import numpy as np
from jaxtyping import Int64

from llm_rec.data.interactions import Interactions
from llm_rec.errors import DataError


class UntouchedItems:
    """The items that a user never touched in any part, drawn uniformly by one binary search a draw, none rejected.

    With the user's distinct items sorted, s_0 < s_1 < ..., the k-th untouched item (from 0) is k plus the number of
    touched items up to it, and s_j comes before it exactly if s_j - j <= k.
    """

    def __init__(self, log: Interactions) -> None:
        size = log.num_items
        owners = np.repeat(np.arange(log.num_users), np.diff(log.offsets))
        owners, items = np.divmod(np.unique(owners * size + log.items - 1), size)
        touched = np.bincount(owners, minlength=log.num_users)
        self.starts = np.cumsum(touched) - touched
        self.free = size - touched
        if (self.free == 0).any():
            user = log.user_ids[int(np.flatnonzero(self.free == 0)[0])]
            raise DataError(
                f"user {user!r} has touched all {size} items, so no negative is left; leave out such users, "
                "or set negatives to 0"
            )
        self.stride = size + 1
        self.keys = owners * self.stride + items - (np.arange(len(items)) - self.starts[owners])

    def draw(
        self, users: Int64[np.ndarray, "positives"], number: int, rng: np.random.Generator
    ) -> Int64[np.ndarray, "positives number"]:
        """Catalog rows (from 1), independent draws: an item may come twice."""
        ranks = rng.integers(0, self.free[users][:, None], size=(len(users), number))
        passed = np.searchsorted(self.keys, users[:, None] * self.stride + ranks, side="right")
        rows: np.ndarray = ranks + passed - self.starts[users][:, None] + 1
        return rows
