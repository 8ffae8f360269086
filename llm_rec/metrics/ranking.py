"""Full ranking of held-out targets over the whole catalog, streamed, and the metrics of their ranks.

Every trained recommender here is one inner product (`Retriever`). Users are scored in batches against chunks of items;
only two integers per target survive: how many candidates score better, and how many score the same (`Ranks`). Nothing
of size users x items ever exists. How the counts are exact is told in `metrics.exact`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor, distributed

from llm_rec.data.splits import Split
from llm_rec.errors import DataError
from llm_rec.metrics.exact import Best, Candidates, Counts, Pairs, best_items, count_better, seen_counts
from llm_rec.progress import track

Part = Literal["validation", "test"]


@runtime_checkable
class Retriever(Protocol):
    """A recommender whose score is an inner product of a user vector and an item vector."""

    @property
    def max_length(self) -> int:
        """How many of the latest events it reads."""
        ...

    def user_vectors(self, history: Int64[Tensor, "batch length"]) -> Float[Tensor, "batch width"]:
        """Right-padded item rows, oldest first; a row of zeros is a user without history. Evaluation behaviour."""
        ...

    def item_vectors(self) -> Float[Tensor, "items_plus_one width"]:
        """Vectors of all item rows; row 0 is padding. Evaluation behaviour."""
        ...


@dataclass(frozen=True, eq=False)
class Ranks:
    """Where each target came out, in the order of the split's targets. `recommended` holds item rows, best first."""

    better: Int64[np.ndarray, "targets"]  # candidate items scored strictly better than the target
    ties: Int64[np.ndarray, "targets"]  # other candidate items with exactly the target's score
    recommended: Int64[np.ndarray, "targets k"] | None = None  # 0 where fewer than k candidates were left


def rank_split(
    retriever: Retriever,
    split: Split,
    part: Part,
    *,
    exclude_seen: bool = True,
    candidates: Bool[np.ndarray, "items_plus_one"] | None = None,
    batch_size: int = 256,
    item_chunk: int | None = None,
    device: torch.device | str | None = None,
    top_k: int = 0,
) -> Ranks:
    """Rank the targets of one part of a split among all items.

    A target's history is everything its user did before it, cut to the last `max_length` events; with `exclude_seen`
    all items of the uncut history leave the ranking, except the target itself. `candidates` restricts the catalog
    (for example to items with train events, as some protocols do); a target outside can never be recommended, so all
    candidates count as better. `device` is where the counting happens (default: where the item vectors are).

    Under torch.distributed each process ranks every n-th batch and all receive the result: batches are a pure function
    of the split and `batch_size`, so the integers are those of one process.

    Raises `DataError` when vectors are not finite or do not fit the split's catalog.
    """
    if batch_size < 1 or top_k < 0 or (item_chunk is not None and item_chunk < 1):
        raise ValueError(
            "batch_size and item_chunk must be at least 1 and top_k at least 0, "
            f"got batch_size={batch_size}, item_chunk={item_chunk}, top_k={top_k}"
        )
    targets = split.validation if part == "validation" else split.test
    with torch.no_grad():
        vectors = retriever.item_vectors()
        home = vectors.device
        _check_sizes(split, vectors, candidates)
        everything = vectors.detach().float().to(device or home)
        pool = Candidates.of(everything, None if candidates is None else torch.from_numpy(candidates))
        order = np.argsort(history_starts(split, targets)[1], kind="stable")  # short with short: little padding
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        ranks = SharedRanks(len(targets), top_k)
        for chosen in track(batches[ranks.process :: ranks.processes], f"rank {part}"):
            events = targets[chosen]
            history = torch.from_numpy(history_rows(split, events, retriever.max_length))
            users = retriever.user_vectors(history.to(home)).detach().float().to(everything.device)
            ranks.broken(chosen[~torch.isfinite(users).all(dim=1).cpu().numpy()])
            users = users.nan_to_num(0.0, 0.0, 0.0)
            rows = torch.from_numpy(split.log.items[events]).to(everything.device)
            seen = _seen_pairs(split, events, pool) if exclude_seen else None
            counts = _count(users, everything[rows], pool.position[rows], pool, seen, item_chunk)
            ranks.put(chosen, counts)
            if top_k:
                ranks.put_best(chosen, best_items(users, pool, top_k, seen=seen, item_chunk=item_chunk))
        return ranks.gather(everything.device, part)


def _count(
    users: Float32[Tensor, "batch dim"],
    targets: Float32[Tensor, "batch dim"],
    places: Int64[Tensor, "batch"],
    pool: Candidates,
    seen: Pairs | None,
    item_chunk: int | None,
) -> Counts:
    """Counts without seen items; a target that is no candidate comes after all of them."""
    better, ties = count_better(users, targets, places, pool, item_chunk=item_chunk)
    if seen is not None:
        minus = seen_counts(users, targets, pool, seen)
        better, ties = better - minus.better, ties - minus.ties
    return Counts(better.masked_fill(places < 0, len(pool)), ties.masked_fill(places < 0, 0))


def history_rows(
    split: Split, events: Int64[np.ndarray, "batch"], max_length: int
) -> Int64[np.ndarray, "batch length"]:
    """The last `max_length` item rows before each event of a log, oldest first, right padded to the longest (>= 1)."""
    lengths = np.minimum(history_starts(split, events)[1], max_length)
    steps = np.arange(max(int(lengths.max(initial=0)), 1))
    index = (events - lengths)[:, None] + steps
    real = steps < lengths[:, None]
    return np.where(real, split.log.items[np.where(real, index, 0)], 0)


def per_target(ranks: Ranks, ks: Sequence[int] = (5, 10, 20)) -> dict[str, Float64[np.ndarray, "targets"]]:
    """Metrics of every target, expected over a uniformly random order of the items tied with it.

    With b better items and t ties the target's place (from 0) is uniform on b..b+t, so recall@k = hit@k =
    clip((k - b) / (t + 1), 0, 1), NDCG@k averages 1 / log2(place + 2) over the places below k, MRR averages
    1 / (place + 1). A scorer that gives every item the same score gets exactly chance level.

    >>> ranks = Ranks(better=np.array([0, 2, 0]), ties=np.array([0, 0, 3]))
    >>> {name: values.round(3).tolist() for name, values in per_target(ranks, ks=(2,)).items()}
    {'recall@2': [1.0, 0.0, 0.5], 'hit@2': [1.0, 0.0, 0.5], 'ndcg@2': [1.0, 0.0, 0.408], 'mrr': [1.0, 0.333, 0.521]}
    """
    if not ks or min(ks) < 1:
        raise ValueError(f"ks must be at least 1 each, got {tuple(ks)}")
    tied = ranks.ties + 1.0
    end = ranks.better + ranks.ties + 1
    metrics: dict[str, np.ndarray] = {}
    for k in ks:
        recall = np.clip((k - ranks.better) / tied, 0.0, 1.0)
        gains = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(k) + 2.0))])
        ndcg = (gains[np.minimum(end, k)] - gains[np.minimum(ranks.better, k)]) / tied
        single = np.where(ranks.better < k, 1.0 / np.log2(ranks.better + 2.0), 0.0)
        metrics |= {f"recall@{k}": recall, f"hit@{k}": recall, f"ndcg@{k}": np.where(ranks.ties == 0, single, ndcg)}
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1.0, int(end.max(initial=0)) + 1))])
    mean_reciprocal = (harmonic[end] - harmonic[ranks.better]) / tied
    metrics["mrr"] = np.where(ranks.ties == 0, 1.0 / (ranks.better + 1.0), mean_reciprocal)
    return metrics


def coverage(recommended: Int64[np.ndarray, "targets k"], num_items: int, k: int) -> float:
    """Share of the catalog that appears in at least one user's first `k` recommendations.

    >>> coverage(np.array([[1, 2], [1, 0]]), num_items=4, k=2)
    0.5
    """
    if not 1 <= k <= recommended.shape[1]:
        raise ValueError(f"coverage@{k} needs lists of at least {k} items, got {recommended.shape[1]}; raise top_k")
    shown = np.unique(recommended[:, :k])
    return float(np.count_nonzero(shown)) / num_items


def _check_sizes(
    split: Split, vectors: Float[Tensor, "rows width"], candidates: Bool[np.ndarray, "mask"] | None
) -> None:
    if len(vectors) != split.num_items + 1:
        raise DataError(
            f"the model has vectors for {len(vectors) - 1} items but the split's catalog has {split.num_items}; "
            "evaluate on the catalog the model was trained on"
        )
    if candidates is not None and len(candidates) != split.num_items + 1:
        raise DataError(
            f"the candidate mask has {len(candidates)} entries, expected {split.num_items + 1}: "
            "one per item row and one for padding (row 0)"
        )


def history_starts(
    split: Split, events: Int64[np.ndarray, "batch"]
) -> tuple[Int64[np.ndarray, "batch"], Int64[np.ndarray, "batch"]]:
    """First event of each event's user, and how many events lie between."""
    starts = split.log.offsets[split.log.users_of(events)]
    return starts, events - starts


def _seen_pairs(split: Split, events: Int64[np.ndarray, "batch"], pool: Candidates) -> Pairs:
    """(row of the batch, candidate position) of every distinct item seen before an event, without the event's own."""
    starts, lengths = history_starts(split, events)
    users = np.repeat(np.arange(len(events)), lengths)
    within = np.arange(len(users)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    items = split.log.items[np.repeat(starts, lengths) + within]
    other = items != split.log.items[events][users]
    width = split.num_items + 1
    distinct = np.unique(users[other] * width + items[other])
    device = pool.position.device
    rows = torch.from_numpy(distinct // width).to(device)
    places = pool.position[torch.from_numpy(distinct % width).to(device)]
    return Pairs(rows[places >= 0], places[places >= 0])


class SharedRanks:
    """Results of this process's batches, summed over processes at the end (each target is ranked by exactly one)."""

    def __init__(self, number: int, top_k: int) -> None:
        active = distributed.is_available() and distributed.is_initialized()
        self.process = distributed.get_rank() if active else 0
        self.processes = distributed.get_world_size() if active else 1
        self.columns = torch.zeros(number, 2 + top_k, dtype=torch.int64)
        self.first_broken = number

    def broken(self, targets: Int64[np.ndarray, "broken"]) -> None:
        """Remember the first target whose user vector is not finite; every process raises together, in `gather`."""
        self.first_broken = min(self.first_broken, int(targets.min(initial=self.first_broken)))

    def put(self, targets: Int64[np.ndarray, "batch"], counts: Counts) -> None:
        self.columns[torch.from_numpy(targets), :2] = torch.stack(counts, dim=1).cpu()

    def put_best(self, targets: Int64[np.ndarray, "batch"], best: Best) -> None:
        self.columns[torch.from_numpy(targets), 2:] = best.rows.cpu()

    def gather(self, device: torch.device, part: Part) -> Ranks:
        number = len(self.columns)
        if self.processes > 1:
            where = device if distributed.get_backend() == "nccl" else torch.device("cpu")
            columns, first = self.columns.to(where), torch.tensor(self.first_broken, device=where)
            distributed.all_reduce(columns)
            distributed.all_reduce(first, op=distributed.ReduceOp.MIN)
            self.columns, self.first_broken = columns.cpu(), int(first)
        if self.first_broken < number:
            raise DataError(
                f"the user vector of {part} target {self.first_broken} is not finite (NaN or infinite); "
                "a ranking by it would be meaningless: check the model's weights and the training loss"
            )
        table = self.columns.numpy()
        better, ties, best = table[:, 0].copy(), table[:, 1].copy(), table[:, 2:].copy()
        return Ranks(better=better, ties=ties, recommended=best if best.shape[1] else None)
