"""How good the neighbours of items are: whether the next item of a user is near the last one."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from llm_rec.data.catalog import Catalog
from llm_rec.data.splits import Split
from llm_rec.encoders.protocol import TextEncoder
from llm_rec.encoders.tokens import TokenRows, token_batches
from llm_rec.metrics.ranking import Part, per_target, rank_split

_TEXTS_PER_BATCH = 512


class NeighbourRetriever:
    """Recommends what is nearest, by cosine, to the last item of a history. A `Retriever` without anything learned.

    Of a history all events but the last are unread; an empty one, or an item with a zero vector, knows no neighbours.
    """

    max_length = 1

    def __init__(self, vectors: Float32[np.ndarray, "items_plus_one dim"]) -> None:
        found = torch.from_numpy(vectors).float()
        length = found.norm(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        self._vectors: Tensor = found / length

    def user_vectors(self, history: Int64[Tensor, "batch length"]) -> Float32[Tensor, "batch dim"]:
        return self._vectors[history[:, 0]]

    def item_vectors(self) -> Float32[Tensor, "items_plus_one dim"]:
        return self._vectors


def neighbour_metrics(
    vectors: Float32[np.ndarray, "items_plus_one dim"],
    split: Split,
    part: Part,
    candidates: Bool[np.ndarray, "items_plus_one"] | None = None,
) -> Mapping[str, float]:
    """Means over the targets of `part`, each asked for by the item before it, among `candidates` (default: all items).

    Items of the history are no candidates.
    """
    ranks = rank_split(NeighbourRetriever(vectors), split, part, candidates=candidates)
    return {name: float(values.mean()) for name, values in per_target(ranks, (5, 10, 20)).items()}


class CatalogVectors:
    """Vectors of a catalog by an encoder as it is now: tokens are made once, each different text is encoded once.

    `groups` are those of `text_groups`. Items that are not `wanted` (default: all are) get zero vectors.
    """

    def __init__(
        self,
        catalog: Catalog,
        encoder: TextEncoder,
        groups: Int64[np.ndarray, "items_plus_one"],
        wanted: Bool[np.ndarray, "items_plus_one"] | None = None,
    ) -> None:
        self._encoder = encoder
        kept = groups if wanted is None else np.where(wanted, groups, 0)
        rows, self._places = np.unique(kept, return_inverse=True)  # the first is 0, of padding
        self._tokens: TokenRows = encoder.tokenize([catalog.texts[row - 1] for row in rows[1:].tolist()])

    def __call__(self) -> Float32[np.ndarray, "items_plus_one dim"]:
        """Row 0 and items without text are zero."""
        batches = token_batches(self._tokens.lengths, self._encoder.tokens_per_batch, _TEXTS_PER_BATCH)
        found = self._encoder.encode_tokens(self._tokens, batches)
        zero = np.zeros((1, found.shape[1]), dtype=np.float32)
        vectors: np.ndarray = np.concatenate([zero, found])[self._places]
        return vectors
