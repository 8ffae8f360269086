"""The log: who did what, in which order, as one compressed-row (CSR) array per column."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Int64

from llm_rec.artifacts import fingerprint


class Interactions:
    """Events of U users, each user's in time order: user `u` owns events `offsets[u]` to `offsets[u + 1]`.

    `items` are catalog rows (1..num_items). `times` is None where the source knows only the order of events.
    """

    def __init__(
        self,
        user_ids: Sequence[str],
        offsets: Int64[np.ndarray, "users_plus_one"],
        items: Int64[np.ndarray, "events"],
        times: Int64[np.ndarray, "events"] | None,
        *,
        num_items: int,
        catalog: str,
    ) -> None:
        self.user_ids = tuple(user_ids)
        self.offsets = offsets
        self.items = items
        self.times = times
        self.num_items = num_items
        self.catalog = catalog  # fingerprint of the catalog whose rows `items` are

    @property
    def num_users(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_events(self) -> int:
        return len(self.items)

    def history(self, user: int) -> Int64[np.ndarray, "events"]:
        """All item rows of user row `user` (0..U-1), oldest first."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def users_of(self, events: Int64[np.ndarray, "events"]) -> Int64[np.ndarray, "events"]:
        """The user row that owns each event index."""
        return np.searchsorted(self.offsets, events, side="right").astype(np.int64) - 1

    @cached_property
    def fingerprint(self) -> str:
        times = b"" if self.times is None else np.ascontiguousarray(self.times).tobytes()
        users = "\x1f".join(self.user_ids)
        items = np.ascontiguousarray(self.items).tobytes()
        return fingerprint("interactions", self.catalog, users, self.offsets.tobytes(), items, times)
