"""Parts of a log: k-cores, the latest events of each user, the items that occur at all."""

from typing import NamedTuple

import numpy as np

from llm_rec.data.catalog import Catalog
from llm_rec.data.interactions import Interactions
from llm_rec.errors import DataError


class KCore(NamedTuple):
    """A dense part of a log, and how many rounds of removal led to it."""

    log: Interactions
    rounds: int


def k_core(log: Interactions, users: int = 5, items: int = 5) -> KCore:
    """The largest part of the log in which every user and every remaining item has at least so many events.

    Removing a rare item can leave a user short and the reverse, so both are removed in turn until nothing changes (one
    pass, which many scripts stop at, is not a k-core). 1 or 0 switches a side off. The catalog and its rows stay as
    they are: items without events remain rankable. It counts the later test events too, so say that you used it.
    """
    owners = np.repeat(np.arange(log.num_users), np.diff(log.offsets))
    kept = np.arange(log.num_events)
    rounds = 0
    while True:
        enough_user = np.bincount(owners[kept], minlength=log.num_users) >= users
        enough_item = np.bincount(log.items[kept], minlength=log.num_items + 1) >= items
        still = kept[enough_user[owners[kept]] & enough_item[log.items[kept]]]
        if len(still) == len(kept):
            break
        kept, rounds = still, rounds + 1
    if not len(kept):
        raise DataError(
            f"no user with at least {users} events and item with at least {items} events is left; ask for smaller cores"
        )
    mask = np.zeros(log.num_events, dtype=bool)
    mask[kept] = True
    return KCore(log.select(mask), rounds)


def keep_last(log: Interactions, number: int) -> Interactions:
    """The log with at most the `number` latest events of each user."""
    if number < 1:
        raise ValueError(f"number of events to keep must be at least 1, got {number}")
    ends = np.repeat(log.offsets[1:], np.diff(log.offsets))
    return log.select(np.arange(log.num_events) >= ends - number)


def drop_unused_items(catalog: Catalog, log: Interactions) -> tuple[Catalog, Interactions]:
    """Catalog and log without the items that have no event at all, in unchanged order.

    Published tables usually rank among these only (after a k-core, say). Keep the whole catalog instead when items that
    nobody has touched yet are to be recommended too: dropping them makes the task easier.
    """
    if log.catalog != catalog.fingerprint:
        raise DataError(f"the log was made from catalog {log.catalog}, not from {catalog.fingerprint}")
    used = np.bincount(log.items, minlength=log.num_items + 1) > 0
    kept = np.flatnonzero(used[1:]).tolist()
    smaller = Catalog(
        [catalog.item_ids[index] for index in kept],
        [catalog.texts[index] for index in kept],
        {name: [values[index] for index in kept] for name, values in catalog.columns.items()},
    )
    new_rows = np.cumsum(used)  # row 0, padding, is never used
    return smaller, Interactions(
        log.user_ids,
        log.offsets,
        new_rows[log.items],
        log.times,
        num_items=len(smaller),
        catalog=smaller.fingerprint,
        dropped=log.dropped,
    )
