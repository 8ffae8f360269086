"""The three kinds of item vectors that PAD's experts read (arXiv 2412.04107, phases 2 and 3).

collaborative: v = e, the pre-trained id vector. aligned: v = GELU(W [e' ; p(t)] + b), a copy of the id vector fused
with the projected text. text: v = p3(t), a projector of its own. Each expert owns its parameters ("disentangled");
only the frozen text vectors t are shared.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, assert_never

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from ctr_models.dropout import Dropout
from llm_rec.sequential.items import IdItems, IdItemsConfig, ItemSources

ExpertName = Literal["collaborative", "aligned", "text"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TextProjectorConfig:
    """Linear + GELU from the text width, then `num_layers` times dropout, linear, GELU.

    `end`: "gelu" as released; its range [-0.17, inf) can never match zero-centred id vectors, so "linear" (ours) leaves
    out the last GELU. Weights start Xavier-normal, as the id table (the released projector's start is not established).
    """

    num_layers: int = 4
    dropout: float = 0.1
    end: Literal["gelu", "linear"] = "gelu"

    def __post_init__(self) -> None:
        if self.num_layers < 0:
            raise ValueError(f"num_layers must not be negative, got {self.num_layers}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in 0..1 (1 excluded), got {self.dropout}")


class ItemInputs(NamedTuple):
    """What is known of item rows before any expert: rows, frozen text vectors, and whose id counts (None = all)."""

    rows: Int64[Tensor, "rows"]
    texts: Float[Tensor, "rows width"] | None
    keep: Bool[Tensor, "rows"] | None


class AlignedParts(NamedTuple):
    """Id vectors e', projected texts p(t), and their fusion."""

    ids: Float[Tensor, "rows dim"]
    texts: Float[Tensor, "rows dim"]
    fused: Float[Tensor, "rows dim"]


class TextProjector(nn.Module):
    """Frozen text vectors -> item vectors."""

    def __init__(self, config: TextProjectorConfig, width: int, dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [_linear(width, dim), nn.GELU()]
        for _ in range(config.num_layers):
            layers += [Dropout(config.dropout), _linear(dim, dim), nn.GELU()]
        self.layers = nn.Sequential(*(layers if config.end == "gelu" else layers[:-1]))

    def forward(self, texts: Float[Tensor, "rows width"]) -> Float[Tensor, "rows dim"]:
        vectors: Tensor = self.layers(texts)
        return vectors


class CollaborativeItems(nn.Module):
    """e; zeros where the id does not count."""

    def __init__(self, config: IdItemsConfig, sources: ItemSources, dim: int) -> None:
        super().__init__()
        self.ids = IdItems(config, sources, dim)

    def forward(self, inputs: ItemInputs) -> Float[Tensor, "rows dim"]:
        return _kept(self.ids(inputs.rows), inputs.keep)


class AlignedItems(nn.Module):
    """GELU(W [e' ; p(t)] + b) with dropout before the linear layer."""

    def __init__(
        self, config: IdItemsConfig, projector: TextProjectorConfig, sources: ItemSources, width: int, dim: int
    ) -> None:
        super().__init__()
        self.ids = IdItems(config, sources, dim)
        self.projector = TextProjector(projector, width, dim)
        self.dropout = Dropout(projector.dropout)
        self.fusion = _linear(2 * dim, dim)

    def forward(self, inputs: ItemInputs) -> Float[Tensor, "rows dim"]:
        return self.parts(inputs).fused

    def parts(self, inputs: ItemInputs) -> AlignedParts:
        """The fused vectors with both sides of them, which the alignment loss compares."""
        ids, texts = self.ids(inputs.rows), self.projector(_texts(inputs))
        both = torch.cat([_kept(ids, inputs.keep), texts.to(ids.dtype)], dim=1)
        return AlignedParts(ids, texts, F.gelu(self.fusion(self.dropout(both))))


class TextualItems(nn.Module):
    """p3(t)."""

    def __init__(self, config: TextProjectorConfig, width: int, dim: int) -> None:
        super().__init__()
        self.projector = TextProjector(config, width, dim)

    def forward(self, inputs: ItemInputs) -> Float[Tensor, "rows dim"]:
        vectors: Tensor = self.projector(_texts(inputs))
        return vectors


ExpertItems = CollaborativeItems | AlignedItems | TextualItems


def build_expert_items(
    name: ExpertName,
    id_items: IdItemsConfig,
    projector: TextProjectorConfig,
    sources: ItemSources,
    dim: int,
) -> ExpertItems:
    """The item vectors of one expert, freshly initialised."""
    width = 0 if sources.embeddings is None else sources.embeddings.shape[1]
    match name:
        case "collaborative":
            return CollaborativeItems(id_items, sources, dim)
        case "aligned":
            return AlignedItems(id_items, projector, sources, width, dim)
        case "text":
            return TextualItems(projector, width, dim)
        case _:
            assert_never(name)


def _kept(vectors: Tensor, keep: Tensor | None) -> Tensor:
    return vectors if keep is None else vectors * keep[:, None]


def _texts(inputs: ItemInputs) -> Float[Tensor, "rows width"]:
    if inputs.texts is None:
        raise ValueError("this expert reads texts; look the items up with their text vectors")
    return inputs.texts


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_normal_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
