"""Ranking by recommenders that give lists instead of item vectors: what is not on the list is a miss.

A list of k items places its targets exactly as full ranking would, when the list is what full ranking gives; a target
beyond it comes after every item of the catalog. So metrics at cuts up to k compare with those of `rank_split`, and only
the mean reciprocal rank, which looks further, is a little lower.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from llm_rec.data.splits import Split
from llm_rec.data.user_keys import user_keys
from llm_rec.errors import DataError
from llm_rec.metrics.exact import Best, Counts
from llm_rec.metrics.ranking import Part, Ranks, SharedRanks, history_rows, history_starts
from llm_rec.progress import track


@runtime_checkable
class ListRecommender(Protocol):
    """A recommender that finds its best items without scoring them all, as generative ones do."""

    @property
    def max_length(self) -> int:
        """How many of the latest events it reads."""
        ...

    @property
    def num_items(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def recommend(
        self,
        history: Int64[Tensor, "batch length"],
        users: Int64[Tensor, "batch"],
        seen: Int64[Tensor, "batch hidden"] | None,
        k: int,
    ) -> Best:
        """The `k` best items of every row, best first, without those `seen`. Evaluation behaviour.

        Histories are right-padded item rows, oldest first; `users` are keys (`user_keys`, 0 for nobody known); `seen`
        are item rows, 0 for padding. Row 0 where there are fewer.
        """
        ...


def rank_lists(
    recommender: ListRecommender,
    split: Split,
    part: Part,
    *,
    k: int,
    exclude_seen: bool = True,
    batch_size: int = 64,
) -> Ranks:
    """Where the targets of one part of a split stand in the recommender's lists of `k`, with the protocol of
    `rank_split`: histories are all events before a target, and all of their items but the target leave the lists.

    Raises `DataError` when the recommender knows another catalog, or a score is not a number.
    """
    if k < 1 or batch_size < 1:
        raise ValueError(f"k and batch_size must be at least 1, got k={k}, batch_size={batch_size}")
    if recommender.num_items != split.num_items:
        raise DataError(
            f"the model knows {recommender.num_items} items but the split's catalog has {split.num_items}; "
            "evaluate on the catalog the model was trained on"
        )
    targets = split.validation if part == "validation" else split.test
    order = np.argsort(history_starts(split, targets)[1], kind="stable")  # short with short: little padding
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    ranks = SharedRanks(len(targets), k)
    for chosen in track(batches[ranks.process :: ranks.processes], f"rank {part}"):
        asked = asked_of(split, targets[chosen], recommender.max_length, recommender.device)
        best = recommender.recommend(asked.history, asked.users, asked.seen if exclude_seen else None, k)
        ranks.broken(chosen[best.scores.isnan().any(1).cpu().numpy()])
        ranks.put(chosen, places_in(best, asked.targets, split.num_items))
        ranks.put_best(chosen, best)
    return ranks.gather(recommender.device, part)


class Asked(NamedTuple):
    """What a recommender is asked for targets of a split, and what it should say."""

    history: Int64[Tensor, "batch length"]
    users: Int64[Tensor, "batch"]
    seen: Int64[Tensor, "batch hidden"]
    targets: Int64[Tensor, "batch"]


def asked_of(split: Split, events: Int64[np.ndarray, "batch"], max_length: int, device: torch.device) -> Asked:
    """Histories, users and seen items of target events; a target is never among its seen items."""
    targets = split.log.items[events].astype(np.int64)
    seen = history_rows(split, events, split.log.num_events)
    seen = np.where(seen == targets[:, None], 0, seen)
    users = user_keys([split.log.user_ids[user] for user in split.log.users_of(events).tolist()])
    arrays = (history_rows(split, events, max_length), users, seen, targets)
    return Asked(*(torch.from_numpy(array).to(device) for array in arrays))


def places_in(best: Best, targets: Int64[Tensor, "batch"], num_items: int) -> Counts:
    """How many items of each list come before its target, and how many beside it; all items where it is not there."""
    own = best.rows.eq(targets[:, None])
    there = own.any(1)
    score = torch.where(own, best.scores, -torch.inf).amax(1, keepdim=True)
    real = best.rows.ne(0)
    better = (real & best.scores.gt(score)).sum(1)
    ties = (real & best.scores.eq(score)).sum(1) - 1
    return Counts(torch.where(there, better, num_items), torch.where(there, ties, 0))
