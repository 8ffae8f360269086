"""Item vectors from ids, frozen text embeddings, semantic codes, or a mixture of them.

Every member of the union gives zeros for row 0 and has no opinion about the backbone that reads it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, assert_never

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from llm_rec.data.splits import Split
from llm_rec.errors import ConfigError
from llm_rec.sequential.code_ngrams import NgramItemsConfig, count_pieces, piece_rows
from llm_rec.sequential.protocols import ItemVectors
from semantic_ids.fusion import (
    CodeEmbedding,
    CodeFusionConfig,
    CodePooling,
    NoFusionConfig,
    Pooling,
    build_fusion,
)


@dataclass(frozen=True, eq=False, kw_only=True)
class ItemSources:
    """What is known of the items of a catalog: everything has N + 1 rows, row 0 is padding.

    `codes` are 0..K-1 per book. `train_counts` tell which items have train events.
    """

    num_items: int
    embeddings: Float[Tensor, "items_plus_one width"] | None = None
    codes: Int64[Tensor, "items_plus_one books"] | None = None
    codebook_sizes: tuple[int, ...] | None = None
    train_counts: Int64[Tensor, "items_plus_one"] | None = None

    def __post_init__(self) -> None:
        for name in ("embeddings", "codes", "train_counts"):
            table = getattr(self, name)
            if table is not None and len(table) != self.num_items + 1:
                raise ConfigError(
                    f"{name} hold {len(table)} rows but the catalog has {self.num_items} items (and padding); "
                    f"make the {name} from the same catalog"
                )
        if (self.codes is None) != (self.codebook_sizes is None):
            raise ConfigError("codes and codebook_sizes belong together; give both or none")

    @classmethod
    def from_split(
        cls,
        split: Split,
        *,
        embeddings: np.ndarray | None = None,
        codes: np.ndarray | None = None,
        codebook_sizes: tuple[int, ...] | None = None,
    ) -> "ItemSources":
        """Sources of a split's catalog, from arrays as the stores hand them out."""
        return cls(
            num_items=split.num_items,
            embeddings=None if embeddings is None else torch.tensor(embeddings, dtype=torch.float32),
            codes=None if codes is None else torch.tensor(codes, dtype=torch.int64),
            codebook_sizes=codebook_sizes,
            train_counts=torch.tensor(split.train_counts, dtype=torch.int64),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class IdItemsConfig:
    """One learned vector per item. `init`: Xavier-normal over the table (PAD), or normal with deviation `std`."""

    init: Literal["xavier", "normal"] = "xavier"
    std: float = 0.02

    def __post_init__(self) -> None:
        if self.std <= 0:
            raise ValueError(f"std must be positive, got {self.std}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TextItemsConfig:
    """Frozen text embeddings through a learned projection: one linear layer, or an MLP of `num_layers` GELU layers.

    `trainable_scale` multiplies the result by one learned number. The projection is linear at its end, so its range is
    not cut.
    """

    projection: Literal["linear", "mlp"] = "linear"
    num_layers: int = 2
    trainable_scale: bool = False

    def __post_init__(self) -> None:
        if self.num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, got {self.num_layers}")


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeItemsConfig:
    """One learned vector per semantic code, fused across the books of an item and pooled into one vector.

    Items with equal codes get equal vectors, so it needs codes without collisions to rank alone. `std` is the deviation
    of the first code vectors.
    """

    fusion: CodeFusionConfig = field(default_factory=NoFusionConfig)
    pooling: Pooling = "sum"
    std: float = 0.02

    def __post_init__(self) -> None:
        if self.std <= 0:
            raise ValueError(f"std must be positive, got {self.std}")


@dataclass(frozen=True, kw_only=True, slots=True)
class MixedItemsConfig:
    """Several parts in one vector: sum; concatenation and a linear layer; or a softmax gate over the parts.

    `id_dropout` masks whole id vectors at random in training, without rescaling the rest (our choice), so that text and
    codes learn to rank alone. `mask_unseen_ids` gives items without train events no id part, in training and after.
    """

    id: IdItemsConfig | None = field(default_factory=IdItemsConfig)
    text: TextItemsConfig | None = field(default_factory=TextItemsConfig)
    codes: CodeItemsConfig | None = None
    combine: Literal["sum", "concat", "gate"] = "sum"
    id_dropout: float = 0.0
    mask_unseen_ids: bool = False

    def __post_init__(self) -> None:
        if sum(part is not None for part in (self.id, self.text, self.codes)) < 2:
            raise ValueError("mixed items need at least two of id, text and codes; use the single kind instead")
        if not 0 <= self.id_dropout < 1:
            raise ValueError(f"id_dropout must lie in 0..1 (1 excluded), got {self.id_dropout}")
        if self.id is None and (self.id_dropout or self.mask_unseen_ids):
            raise ValueError("id_dropout and mask_unseen_ids need an id part; set id, or leave them off")


ItemsConfig = IdItemsConfig | TextItemsConfig | CodeItemsConfig | NgramItemsConfig | MixedItemsConfig


def build_items(config: ItemsConfig, sources: ItemSources, dim: int) -> ItemVectors:
    """The item vectors that `config` names, over `sources`; `ConfigError` when a source it needs is missing."""
    match config:
        case IdItemsConfig():
            return IdItems(config, sources, dim)
        case TextItemsConfig():
            return TextItems(config, sources, dim)
        case CodeItemsConfig():
            return CodeItems(config, sources, dim)
        case NgramItemsConfig():
            return NgramItems(config, sources, dim)
        case MixedItemsConfig():
            return MixedItems(config, sources, dim)
        case _:
            assert_never(config)


class IdItems(nn.Module):
    """A learned table."""

    def __init__(self, config: IdItemsConfig, sources: ItemSources, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.table = nn.Embedding(sources.num_items + 1, dim, padding_idx=0)
        if config.init == "xavier":
            nn.init.xavier_normal_(self.table.weight)
        else:
            nn.init.normal_(self.table.weight, std=config.std)
        with torch.no_grad():
            self.table.weight[0] = 0

    def forward(self, rows: Int64[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]:
        vectors: Tensor = self.table(rows)
        return vectors

    def all(self) -> Float[Tensor, "items_plus_one dim"]:
        return self.table.weight


class TextItems(nn.Module):
    """Projected frozen embeddings. The embeddings are a buffer: they travel with the weights, unchanged."""

    embeddings: Tensor

    def __init__(self, config: TextItemsConfig, sources: ItemSources, dim: int) -> None:
        super().__init__()
        if sources.embeddings is None:
            raise ConfigError(
                "text items need embeddings; encode the catalog and name them (--material.embeddings), or use id items"
            )
        self.dim = dim
        self.register_buffer("embeddings", sources.embeddings.clone())
        width = sources.embeddings.shape[1]
        hidden = config.num_layers - 1 if config.projection == "mlp" else 0
        layers: list[nn.Module] = []
        for _ in range(hidden):
            layers += [nn.Linear(width, dim), nn.GELU()]
            width = dim
        self.projection = nn.Sequential(*layers, nn.Linear(width, dim))
        self.scale = nn.Parameter(torch.ones(())) if config.trainable_scale else None

    def forward(self, rows: Int64[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]:
        distinct, place = distinct_rows(rows, len(self.embeddings))
        return F.embedding(place, self._project(distinct))

    def all(self) -> Float[Tensor, "items_plus_one dim"]:
        return in_chunks(self._project, len(self.embeddings), self.embeddings.device)

    def _project(self, rows: Int64[Tensor, "rows"]) -> Float[Tensor, "rows dim"]:
        vectors: Tensor = self.projection(self.embeddings[rows]) * (rows != 0)[:, None]
        return vectors if self.scale is None else vectors * self.scale


class CodeItems(nn.Module):
    """Fused and pooled code embeddings. The codes are a buffer and travel with the weights."""

    codes: Tensor

    def __init__(self, config: CodeItemsConfig, sources: ItemSources, dim: int) -> None:
        super().__init__()
        codes, sizes = _codes_of(sources)
        self.dim = dim
        books = len(sizes)
        real = torch.arange(sources.num_items + 1) > 0
        self.register_buffer("codes", (codes + 1) * real[:, None])  # 0 is padding in every book
        self.embedding = CodeEmbedding(sizes, dim, std=config.std)
        self.fusion = build_fusion(config.fusion, books, dim)
        self.pooling = CodePooling(config.pooling, books, dim)

    def forward(self, rows: Int64[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]:
        distinct, place = distinct_rows(rows, len(self.codes))
        return F.embedding(place, self._pool(distinct))

    def all(self) -> Float[Tensor, "items_plus_one dim"]:
        return in_chunks(self._pool, len(self.codes), self.codes.device)

    def _pool(self, rows: Int64[Tensor, "rows"]) -> Float[Tensor, "rows dim"]:
        vectors: Tensor = self.pooling(self.fusion(self.embedding(self.codes[rows])))
        return vectors * (rows != 0)[:, None]


class NgramItems(nn.Module):
    """Pooled vectors of the pieces of codes. The rows of the pieces are a buffer and travel with the weights."""

    pieces: Tensor

    def __init__(self, config: NgramItemsConfig, sources: ItemSources, dim: int) -> None:
        super().__init__()
        codes, sizes = _codes_of(sources)
        self.dim = dim
        number = count_pieces(config, len(sizes))
        real = torch.arange(sources.num_items + 1) > 0
        self.register_buffer("pieces", (piece_rows(codes, config) + 1) * real[:, None])  # 0 is padding
        self.embedding = CodeEmbedding((config.num_rows,) * number, dim, std=config.std)
        self.pooling = CodePooling(config.pooling, number, dim)

    def forward(self, rows: Int64[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]:
        distinct, place = distinct_rows(rows, len(self.pieces))
        return F.embedding(place, self._pool(distinct))

    def all(self) -> Float[Tensor, "items_plus_one dim"]:
        return in_chunks(self._pool, len(self.pieces), self.pieces.device)

    def _pool(self, rows: Int64[Tensor, "rows"]) -> Float[Tensor, "rows dim"]:
        vectors: Tensor = self.pooling(self.embedding(self.pieces[rows]))
        return vectors


class MixedItems(nn.Module):
    """Parts of one width, combined."""

    known: Tensor | None

    def __init__(self, config: MixedItemsConfig, sources: ItemSources, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.combine = config.combine
        self.id_dropout = config.id_dropout
        self.num_items = sources.num_items
        self.id = None if config.id is None else IdItems(config.id, sources, dim)
        self.text = None if config.text is None else TextItems(config.text, sources, dim)
        self.codes = None if config.codes is None else CodeItems(config.codes, sources, dim)
        self.register_buffer("known", _known_items(sources) if config.mask_unseen_ids else None)
        number = sum(part is not None for part in (self.id, self.text, self.codes))
        self.mix = nn.Linear(number * dim, dim, bias=False) if config.combine == "concat" else None
        self.gate = nn.Linear(number * dim, number) if config.combine == "gate" else None

    def forward(self, rows: Int64[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]:
        return self._vectors(rows, dropout=self.training)

    def all(self) -> Float[Tensor, "items_plus_one dim"]:
        device = next(self.parameters()).device
        return in_chunks(lambda rows: self._vectors(rows, dropout=False), self.num_items + 1, device)

    def _vectors(self, rows: Int64[Tensor, "*shape"], *, dropout: bool) -> Float[Tensor, "*shape dim"]:
        parts = []
        if self.id is not None:
            keep = self._keep(rows, dropout=dropout)
            parts.append(self.id(rows) if keep is None else self.id(rows) * keep[..., None])
        if self.text is not None:
            parts.append(self.text(rows))
        if self.codes is not None:
            parts.append(self.codes(rows))
        if self.mix is not None:
            mixed: Tensor = self.mix(torch.cat(parts, dim=-1))
            return mixed
        stacked = torch.stack(parts)
        if self.gate is not None:
            weights = self.gate(torch.cat(parts, dim=-1)).softmax(dim=-1)
            stacked = stacked * weights.movedim(-1, 0)[..., None]
        return stacked.sum(dim=0)

    def _keep(self, rows: Int64[Tensor, "*shape"], *, dropout: bool) -> Bool[Tensor, "*shape"] | None:
        """Where the id part counts; None = everywhere."""
        keep = None if self.known is None else self.known[rows]
        if dropout and self.id_dropout:
            kept = torch.rand(rows.shape, device=rows.device) >= self.id_dropout
            keep = kept if keep is None else keep & kept
        return keep


def distinct_rows(
    rows: Int64[Tensor, "*shape"], num_rows: int
) -> tuple[Int64[Tensor, "distinct"], Int64[Tensor, "*shape"]]:
    """Rows to compute, and where each of `rows` is among them: nothing is computed for an item twice if avoidable.

    On the CPU the distinct rows are found by marking them in a table, or by sorting when the table would be much
    longer than `rows`. Elsewhere either would wait for the device, so the choice is by counts alone: every row of the
    table once, or every occurrence.
    """
    if rows.device.type == "cpu" and num_rows > 16 * rows.numel():
        distinct, place = torch.unique(rows, return_inverse=True)
        return distinct, place
    if rows.device.type == "cpu":
        marks = torch.zeros(num_rows, dtype=torch.int64)
        marks[rows.flatten()] = 1
        return marks.nonzero().squeeze(1), F.embedding(rows, marks.cumsum(0)[:, None]).squeeze(-1) - 1
    if rows.numel() >= num_rows:
        return torch.arange(num_rows, device=rows.device), rows
    return rows.flatten(), torch.arange(rows.numel(), device=rows.device).view(rows.shape)


ROWS_AT_A_TIME = 65536


def in_chunks(
    compute: Callable[[Tensor], Tensor], num_rows: int, device: torch.device
) -> Float[Tensor, "num_rows dim"]:
    """`compute` over all rows; in chunks, so that only results of the whole table exist, when no gradient is wanted."""
    rows = torch.arange(num_rows, device=device)
    if torch.is_grad_enabled():
        return compute(rows)
    return torch.cat([compute(chunk) for chunk in torch.split(rows, ROWS_AT_A_TIME)])


def _codes_of(sources: ItemSources) -> tuple[Int64[Tensor, "items_plus_one books"], tuple[int, ...]]:
    if sources.codes is None or sources.codebook_sizes is None:
        raise ConfigError("code items need codes; index the catalog and name them (--material.codes), or use id items")
    return sources.codes, sources.codebook_sizes


def _known_items(sources: ItemSources) -> Bool[Tensor, "items_plus_one"]:
    if sources.train_counts is None:
        raise ConfigError("mask_unseen_ids needs train_counts; build the sources with ItemSources.from_split")
    return sources.train_counts > 0
