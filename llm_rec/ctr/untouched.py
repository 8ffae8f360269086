"""Items that a user never touched, for negatives of click-log rows: uniform, or by how often they occur. For negatives
of sequence models, drawn while training, see `llm_rec.sequential.negatives`.
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
        self.size, self.touched = size, np.unique(owners * size + log.items - 1)
        owners, items = np.divmod(self.touched, size)
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
        return self.draw_between(users, np.zeros_like(users), self.free[users], number, rng)

    def ranks_below(
        self, users: Int64[np.ndarray, "positives"], places: Int64[np.ndarray, "positives"]
    ) -> Int64[np.ndarray, "positives"]:
        """How many of the first `places` items each user never touched."""
        passed = np.searchsorted(self.touched, users * self.size + places) - self.starts[users]
        ranks: np.ndarray = places - passed
        return ranks

    def draw_between(
        self,
        users: Int64[np.ndarray, "positives"],
        first: Int64[np.ndarray, "positives"],
        stop: Int64[np.ndarray, "positives"],
        number: int,
        rng: np.random.Generator,
    ) -> Int64[np.ndarray, "positives number"]:
        """Like `draw`, of the untouched items number `first` to `stop` (exclusive) of each user alone."""
        ranks = rng.integers(first[:, None], stop[:, None], size=(len(users), number))
        passed = np.searchsorted(self.keys, users[:, None] * self.stride + ranks, side="right")
        rows: np.ndarray = ranks + passed - self.starts[users][:, None] + 1
        return rows


class UntouchedInDomain:
    """Like `UntouchedItems`, but every draw is of the domain of its positive: a shop's visitor sees no item of another.

    Items of one domain are put side by side, so that a domain is a range of ranks of `UntouchedItems`. `domains` says
    of every item (from 0) which domain (from 0) it has.
    """

    def __init__(self, log: Interactions, domains: Int64[np.ndarray, "items"]) -> None:
        self.domains, self.user_ids = domains, log.user_ids
        self.order = np.argsort(domains, kind="stable")
        places = np.empty_like(self.order)
        places[self.order] = np.arange(len(domains))
        ordered = Interactions(
            log.user_ids,
            log.offsets,
            (places[log.items - 1] + 1).astype(np.int64),
            None,
            num_items=log.num_items,
            catalog=log.catalog,
        )
        self.items = UntouchedItems(ordered)
        self.bounds = np.searchsorted(domains[self.order], np.arange(int(domains.max()) + 2)).astype(np.int64)

    def draw(
        self,
        users: Int64[np.ndarray, "positives"],
        items: Int64[np.ndarray, "positives"],
        number: int,
        rng: np.random.Generator,
    ) -> Int64[np.ndarray, "positives number"]:
        """Catalog rows of the domains of `items` (catalog rows). `DataError` for a user who touched a whole domain."""
        own = self.domains[items - 1]
        first, stop = (self.items.ranks_below(users, self.bounds[own + side]) for side in (0, 1))
        if number and (first >= stop).any():
            user = self.user_ids[int(users[np.flatnonzero(first >= stop)[0]])]
            raise DataError(
                f"user {user!r} has touched all items of a domain, so no negative is left there; leave out such users, "
                "or set negatives to 0"
            )
        drawn = self.items.draw_between(users, first, stop, number, rng)
        rows: np.ndarray = self.order[drawn - 1] + 1
        return rows


class UntouchedByFrequency:
    """Items that a user never touched, drawn proportionally to `frequencies` by one binary search a draw.

    It draws from what rejection of touched items draws from, but rejects none and so always ends. All occurrences of
    all items lie side by side, item after item. Those of the items that a user touched are cut out: with the user's
    distinct items sorted, item j begins at S_j, and at R_j = S_j - (the frequencies of those before it) once they are
    cut out. A number r among what is left lies behind exactly the items with R_j <= r, and their frequencies are added.

    `pairs` are (user from 0, item) as user * number of items + item, distinct and ascending. User 0 is `first_user` of
    the log, which errors name.
    """

    def __init__(
        self,
        pairs: Int64[np.ndarray, "pairs"],
        num_users: int,
        frequencies: Int64[np.ndarray, "items"],
        *,
        first_user: int = 0,
    ) -> None:
        self.first_user = first_user
        owners, items = np.divmod(pairs, len(frequencies))
        self.ends = np.cumsum(frequencies)
        touched = np.concatenate([[0], np.cumsum(frequencies[items])])
        bounds = np.searchsorted(owners, np.arange(num_users + 1))
        self.first = bounds[:-1]
        self.before = touched[self.first]  # frequencies of all pairs of earlier users
        self.left = self.ends[-1] - (touched[bounds[1:]] - self.before)
        starts = self.ends[items] - frequencies[items]
        self.stride = int(self.ends[-1]) + 1
        self.keys = owners * self.stride + starts - (touched[:-1] - self.before[owners])
        self.touched = touched

    def draw(
        self, users: Int64[np.ndarray, "positives"], number: int, rng: np.random.Generator
    ) -> Int64[np.ndarray, "positives number"]:
        """Items, independent draws: one may come twice. `DataError` when a user has touched every item that occurs."""
        if number and (self.left[users] <= 0).any():
            user = self.first_user + int(users[np.flatnonzero(self.left[users] <= 0)[0]])
            raise DataError(
                f"user {user} (from 0) has touched every item that occurs, so no negative is left; leave out such "
                "users, or set negatives to 0"
            )
        ranks = np.floor(rng.random((len(users), number)) * self.left[users][:, None]).astype(np.int64)
        passed = np.searchsorted(self.keys, users[:, None] * self.stride + ranks, side="right")
        places = ranks + self.touched[passed] - self.before[users][:, None]
        items: np.ndarray = np.searchsorted(self.ends, places, side="right")
        return items
