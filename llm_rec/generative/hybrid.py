"""Dense and generative retrieval together: candidates of both, ranked by both.

The candidates of a history are the items that beam search writes, the best items of a dense recommender, and its best
among cold items (without train events), which a generative model trained on seen targets alone rarely writes. All of
them get both scores: the inner product, and the exact log probability of their codes. Both become log probabilities
over the candidates, and the score is

    weight * log softmax(dense) + (1 - weight) * log softmax(generative).

So 0 ranks the candidates as the generative model does, 1 as the dense one does; `choose_weight` takes what ranks the
validation targets best. The sources, their sizes and the weight are our choice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from llm_rec.data.splits import Split
from llm_rec.errors import ConfigError
from llm_rec.generative.batches import latest
from llm_rec.generative.model import GenerativeModel
from llm_rec.generative.search import beam_search
from llm_rec.metrics.exact import Best, Candidates, Pairs, best_items
from llm_rec.metrics.lists import asked_of, places_in
from llm_rec.metrics.ranking import Ranks, Retriever, per_target
from llm_rec.progress import track

WEIGHTS = tuple(step / 20 for step in range(21))


@dataclass(frozen=True, kw_only=True, slots=True)
class HybridConfig:
    """How many candidates each side gives, and the weight of the dense score."""

    beams: int = 20
    dense: int = 20
    cold: int = 20
    weight: float = 0.5

    def __post_init__(self) -> None:
        if min(self.beams, self.dense) < 1 or self.cold < 0:
            raise ValueError(
                f"beams and dense must be at least 1 and cold at least 0, got {self.beams}, {self.dense}, {self.cold}"
            )
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight must lie in 0..1, got {self.weight}")


class Scored(NamedTuple):
    """Candidates of every history, each once (row 0 and -inf where there are fewer), with both log probabilities."""

    rows: Int64[Tensor, "batch candidates"]
    dense: Float64[Tensor, "batch candidates"]
    generative: Float64[Tensor, "batch candidates"]

    def ranked(self, weight: float, k: int) -> Best:
        """The `k` best by the weighted score."""
        real = self.rows.ne(0)
        dense, generative = (torch.where(real, part, 0.0) for part in (self.dense, self.generative))
        scores = torch.where(real, weight * dense + (1 - weight) * generative, -torch.inf)
        best = scores.topk(min(k, scores.shape[1]), dim=1)
        short = (0, k - best.values.shape[1])
        rows = torch.nn.functional.pad(self.rows.gather(1, best.indices), short)
        return Best(rows, torch.nn.functional.pad(best.values, short, value=-torch.inf))


class HybridRecommender:
    """A dense and a generative recommender of one catalog. A `ListRecommender`; both models lie on one device.

    `train_counts` (0 for padding) say which items are cold.
    """

    def __init__(
        self,
        dense: Retriever,
        generative: GenerativeModel,
        train_counts: Int64[np.ndarray, "items_plus_one"],
        config: HybridConfig,
    ) -> None:
        with torch.no_grad():
            vectors = dense.item_vectors().detach().float().to(generative.device)
        if not len(vectors) == generative.num_items + 1 == len(train_counts):
            raise ConfigError(
                f"the dense model knows {len(vectors) - 1} items, the generative one {generative.num_items} and the "
                f"counts are of {len(train_counts) - 1}; take all three from one catalog"
            )
        self.dense, self.generative, self.config = dense, generative.eval(), config
        self.vectors, self.train_counts = vectors, train_counts
        self.everything = Candidates.of(vectors)
        cold: Bool[np.ndarray, " items_plus_one"] = train_counts == 0
        cold[0] = False
        wanted = config.cold > 0 and cold.any()
        self.cold = Candidates.of(vectors, torch.from_numpy(cold)) if wanted else None

    @property
    def max_length(self) -> int:
        return max(self.dense.max_length, self.generative.max_length)

    @property
    def num_items(self) -> int:
        return self.generative.num_items

    @property
    def device(self) -> torch.device:
        return self.generative.device

    def recommend(
        self,
        history: Int64[Tensor, "batch length"],
        users: Int64[Tensor, "batch"],
        seen: Int64[Tensor, "batch hidden"] | None,
        k: int,
    ) -> Best:
        """The `k` best candidates, without the item rows `seen`; the dense side gives at least `k` of them."""
        return self.scored(history, users, seen, at_least=k).ranked(self.config.weight, k)

    @torch.no_grad()
    def scored(
        self,
        history: Int64[Tensor, "batch length"],
        users: Int64[Tensor, "batch"],
        seen: Int64[Tensor, "batch hidden"] | None,
        *,
        at_least: int = 0,
    ) -> Scored:
        """All candidates with both scores; `at_least` so many from the dense side, if the catalog has them."""
        states = self.dense.user_vectors(latest(history, self.dense.max_length)).detach().float()
        found = beam_search(self.generative, history, users, beams=self.config.beams, seen=seen)
        parts = [found.items, self._best(states, self.everything, max(self.config.dense, at_least), seen)]
        if self.cold is not None:
            parts.append(self._best(states, self.cold, self.config.cold, seen))
        rows = each_once(torch.cat(parts, 1))
        nothing = rows.eq(0)
        products = torch.einsum("bd,bnd->bn", states, self.vectors[rows]).double().masked_fill(nothing, -torch.inf)
        written = self.generative.log_likelihood(self.generative.encode(history, users), rows).double()
        return Scored(rows, _log_softmax(products), _log_softmax(written))

    def _best(
        self,
        states: Float[Tensor, "batch width"],
        among: Candidates,
        number: int,
        seen: Int64[Tensor, "batch hidden"] | None,
    ) -> Int64[Tensor, "batch number"]:
        hidden = None if seen is None else _pairs(seen, among)
        return best_items(states, among, min(number, len(among)), seen=hidden).rows


def choose_weight(
    hybrid: HybridRecommender,
    split: Split,
    *,
    weights: Sequence[float] = WEIGHTS,
    metric: str = "ndcg@10",
    batch_size: int = 64,
) -> tuple[float, dict[float, float]]:
    """The weight that ranks the validation targets best (the smallest of equal ones), and the metric at each."""
    counts = np.zeros((2, len(weights), len(split.validation)), dtype=np.int64)
    cut = int(metric.rsplit("@", 1)[-1])
    for start in track(range(0, len(split.validation), batch_size), "weigh"):
        events = split.validation[start : start + batch_size]
        asked = asked_of(split, events, hybrid.max_length, hybrid.device)
        scored = hybrid.scored(asked.history, asked.users, asked.seen)
        for number, weight in enumerate(weights):
            places = places_in(scored.ranked(weight, scored.rows.shape[1]), asked.targets, split.num_items)
            counts[:, number, start : start + len(events)] = torch.stack(places).cpu().numpy()
    values = {
        weight: float(per_target(Ranks(better, ties), (cut,))[metric].mean())
        for weight, better, ties in zip(weights, *counts, strict=True)
    }
    return max(weights, key=lambda weight: (values[weight], -weight)), values


def each_once(rows: Int64[Tensor, "batch number"]) -> Int64[Tensor, "batch number"]:
    """Rows ascending, with 0 where one comes again.

    >>> each_once(torch.tensor([[3, 1, 3, 0]])).tolist()
    [[0, 1, 3, 0]]
    """
    ordered = rows.sort(1).values
    again = torch.zeros_like(ordered, dtype=torch.bool)
    again[:, 1:] = ordered[:, 1:].eq(ordered[:, :-1])
    return ordered.masked_fill(again, 0)


def _log_softmax(scores: Float64[Tensor, "batch candidates"]) -> Float64[Tensor, "batch candidates"]:
    """Over what is there; -inf where nothing is."""
    return torch.where(scores.eq(-torch.inf), -torch.inf, scores - scores.logsumexp(1, keepdim=True))


def _pairs(seen: Int64[Tensor, "batch hidden"], among: Candidates) -> Pairs:
    """What rows have seen, as positions among candidates."""
    places = among.position[seen]
    users = torch.arange(len(seen), device=seen.device)[:, None].expand_as(places)
    kept = places.ge(0)
    return Pairs(users[kept], places[kept])
