"""Attention keys of users, kept between requests: search in a long history without looking anything up again.

A history is stored as keys (length, width) in one piece, without their position (`separable`), and the ids they came
from, 4 bytes each (`key_storage.history_bytes`). 2,000 events of two fields with keys of 48 numbers take

    float32 400,000 bytes      bfloat16 208,000      int8 120,000

and up to half as much again once events have been appended. float32 is exact. The others find `rescored` * k events by
rounded keys and choose among these by float32 scores of keys looked up anew; int8 has a scale for each key. Where all
candidates together would look up at least as many events as the user has, each event is looked up once and scored
exactly for all, and rounded keys are not read. On a CPU rounding saves memory, not time
(`scripts/bench_long_sequence.py`).

Threads. One lock guards the table of users. It is held to read a reference, and by updates to copy rows (when a history
outgrows its room, all of its rows), never to compute keys or scores. A stored row never changes, and rows are appended
behind what readers were given, so that a search sees the history as it was when the search began. Updates of one user
take effect in the order in which they get the lock.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from ctr_models.checks import check_at_least
from ctr_models.sequences.key_storage import LARGEST_ID, History, KeysOf, Rows, Storage, encode, score_tiles
from ctr_models.sequences.ordered_topk import MISSING, TopK, ordered_topk, running_topk
from ctr_models.sequences.separable import by_column


@dataclass(frozen=True, kw_only=True, slots=True)
class UserKeyCacheConfig:
    """`max_length`: the newest events of a user that are kept. `max_bytes`: when there are more, the users that were
    not used for longest leave. `rescored`: how many times k events get an exact score where storage rounds; 0 for none.
    """

    storage: Storage = "bfloat16"
    max_length: int = 20_000
    max_bytes: int | None = None
    rescored: int = 4

    def __post_init__(self) -> None:
        check_at_least("max_length", self.max_length, 1)
        check_at_least("rescored", self.rescored, 0)
        if self.max_bytes is not None:
            check_at_least("max_bytes", self.max_bytes, 1)


class CacheHits(NamedTuple):
    """Events found for each candidate, best first (equal scores: the newer). `indices` count a user's kept events from
    the oldest (0), `positions` from the newest (1). Where there are fewer than k: -1, 0, score -inf and ids 0.
    """

    indices: Int64[Tensor, "candidates k"]
    scores: Float32[Tensor, "candidates k"]
    positions: Int64[Tensor, "candidates k"]
    ids: Int64[Tensor, "candidates k fields"]


class UserKeyCache:
    """Keys of users' events by `keys_of` (ids -> keys, a row each), for as long as its tables stay as they are.

    `bias` is added to the scores: `position_bias` of positions 1, 2, .., at least `max_length` of them. Divide queries,
    not keys, by sqrt(dim). After the tables have changed, `put` users again.
    """

    def __init__(
        self, config: UserKeyCacheConfig, keys_of: KeysOf, bias: Float[Tensor, "positions"] | None = None
    ) -> None:
        if bias is not None and len(bias) < config.max_length:
            raise ValueError(
                f"there are {len(bias)} positions but max_length is {config.max_length}; "
                f"set max_length to at most {len(bias)}"
            )
        self.config, self.keys_of = config, keys_of
        self._bias = None if bias is None else bias.detach().float()
        self._users: OrderedDict[Hashable, History] = OrderedDict()
        self._lock = Lock()
        self._bytes = 0

    def put(self, user: Hashable, events: Int64[Tensor, "length fields"]) -> None:
        """Store a user's events, oldest first, in place of what was there.

        Raises ValueError when they alone need more than `max_bytes`, and for ids outside 0..2^31-1.
        """
        rows = self._encoded(events)
        with self._lock:
            self._publish(user, History(rows, 0, len(rows.ids)))

    def append(self, user: Hashable, events: Int64[Tensor, "new fields"]) -> bool:
        """Add events that are newer than all others; the oldest beyond `max_length` are dropped.

        False when the user is not here (never put, or gone): then nothing is stored, since the past is not known;
        `put` all of it at the next request. Raises ValueError as `put` does, and leaves the user as they were.
        """
        rows = self._encoded(events)
        with self._lock:
            history = self._users.get(user)
            if history is None:
                return False
            self._publish(user, history.appended(rows, self.config.max_length))
        return True

    def evict(self, user: Hashable) -> int:
        """Forget a user; the bytes that this frees, 0 when the user is not here."""
        with self._lock:
            return self._remove(user)

    def search(self, user: Hashable, queries: Float[Tensor, "candidates width"], k: int) -> CacheHits:
        """The k best events of a user for each candidate, by <query, key> + bias; candidates do not see each other.

        Raises ValueError when the user is not here.
        """
        check_at_least("k", k, 1)
        with self._lock:
            history = self._users.get(user)
            if history is not None:
                self._users.move_to_end(user)
        if history is None:
            raise ValueError(f"user {user!r} is not in the cache; put their events first")
        with torch.no_grad():
            return self._search(history, queries.float(), k)

    def __contains__(self, user: Hashable) -> bool:
        with self._lock:
            return user in self._users

    def __len__(self) -> int:
        with self._lock:
            return len(self._users)

    @property
    def num_bytes(self) -> int:
        """Bytes of all stored tensors, with the room that appended histories have left."""
        with self._lock:
            return self._bytes

    def bytes_of(self, user: Hashable) -> int:
        """Bytes of one user; 0 when they are not here."""
        with self._lock:
            return self._users[user].num_bytes if user in self._users else 0

    def length_of(self, user: Hashable) -> int:
        """Events kept of one user; 0 when they are not here."""
        with self._lock:
            return len(self._users[user]) if user in self._users else 0

    # --- updates -------------------------------------------------------------------------------------------------

    def _encoded(self, events: Int64[Tensor, "events fields"]) -> Rows:
        events = events[-self.config.max_length :]
        if events.numel():
            low, high = events.min().item(), events.max().item()
            if low < 0 or high > LARGEST_ID:
                raise ValueError(f"ids must be in 0..{LARGEST_ID}, got {low}..{high}")
        with torch.no_grad():
            return encode(events, self.keys_of(events).float(), self.config.storage)

    def _publish(self, user: Hashable, history: History) -> None:
        """Make a history the user's, and let others leave if that is too much. The caller holds the lock."""
        limit = self.config.max_bytes
        if limit is not None and history.num_bytes > limit:
            raise ValueError(
                f"user {user!r} needs {history.num_bytes} bytes but the cache may hold {limit}; "
                "raise max_bytes or lower max_length"
            )
        self._remove(user)
        self._users[user] = history
        self._bytes += history.num_bytes
        while limit is not None and self._bytes > limit:
            self._remove(next(iter(self._users)))

    def _remove(self, user: Hashable) -> int:
        history = self._users.pop(user, None)
        freed = 0 if history is None else history.num_bytes
        self._bytes -= freed
        return freed

    # --- search --------------------------------------------------------------------------------------------------

    def _search(self, history: History, queries: Float32[Tensor, "candidates width"], k: int) -> CacheHits:
        events, length = history.events, len(history)
        bias = None if self._bias is None else by_column(self._bias, length)
        rescored = self.config.rescored if self.config.storage != "float32" else 0
        if not rescored:
            found = running_topk(score_tiles(queries, events, bias), k)
        elif len(queries) * rescored * k >= length:
            found = running_topk(score_tiles(queries, events, bias, keys_of=self.keys_of), k)
        else:
            more = running_topk(score_tiles(queries, events, bias, rounded=True), rescored * k)
            found = self._rescored(events, more, queries, bias, k)
        missing = found.indices.eq(MISSING)
        known = events.ids if length else events.ids.new_zeros(1, events.ids.shape[1])
        ids = known[found.indices.clamp(min=0)].long()
        return CacheHits(
            found.indices,
            found.scores,
            (length - found.indices).masked_fill(missing, 0),
            ids.masked_fill(missing.unsqueeze(2), 0),
        )

    def _rescored(
        self,
        events: Rows,
        found: TopK,
        queries: Float32[Tensor, "candidates width"],
        bias: Float32[Tensor, "length"] | None,
        k: int,
    ) -> TopK:
        """The k best of what was found by scores of exact keys. Columns ascend, so that equal scores stay in order."""
        columns = found.indices.sort(1).values
        places = columns.clamp(min=0)
        keys = self.keys_of(events.ids[places.flatten()].long()).float()
        scores = torch.einsum("cw,cnw->cn", queries, keys.view(*places.shape, -1))
        if bias is not None:
            scores = scores + bias[places]
        best = ordered_topk(scores.masked_fill(columns.eq(MISSING), -torch.inf), k)
        chosen = columns.gather(1, best.indices.clamp(min=0)).masked_fill(best.indices.eq(MISSING), MISSING)
        return TopK(best.scores, chosen)
