"""W_ab of f(t_a, e_b; W_ab) = (t_a W_ab) * e_b: its kind, who shares it, how it starts, and how it is laid out.

The kinds are a strict chain, each holding the one before: naive (W = I), weighted (r I), diagonal (diag(d)) and
projected (any matrix); FM, FwFM, FvFM and FmFM are their second-order members. Sharing is an independent switch.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

Kind = Literal["naive", "weighted", "diagonal", "projected", "rank_one"]
Sharing = Literal["all", "source", "pair", "group"]
Selector = Literal["none", "field", "group"]
Init = Literal["identity", "xavier", "xavier_whole", "normal"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FunctionConfig:
    """An interaction function.

    `kind`: what W_ab may be. `rank_one` is the projection w_a 1^T of DCN v1, never materialised (a GEMV).
    `sharing`: one W for `all`, one a `source` (FiBiNET "each"), one a `pair`, or one a pair of `group`s (`groups`
    names the group of each field; GwPFM). Weighted and diagonal group weights are symmetric where `triangular`: else
    the order of fields would decide which of the two entries trains.
    `triangular`: only pairs a < b, as in the family of FM; without it every ordered pair, a = b among them (DCNv2).
    `selector`: vectors are wide, and the partner decides which slice of `dim` numbers is used: one slice for each other
    field (`field`, FFM) or for each group (`group`, GwPFM). Second order alone.
    `rank`: projected matrices as a product of two thin ones, each M_ab by itself (`low_rank="block"`) or the whole
    (sources * dim, fields * dim) matrix at once (`low_rank="whole"`, the low-rank cross layer of DCNv2).
    `init`: `identity` starts as FM (plus normal `noise`); `xavier` normal by the sizes of each M_ab; `xavier_whole`
    normal by the sizes of the whole matrix, for cross layers; `normal` N(0, 1).
    """

    kind: Kind = "naive"
    sharing: Sharing = "pair"
    triangular: bool = False
    groups: tuple[int, ...] = ()
    selector: Selector = "none"
    rank: int | None = None
    low_rank: Literal["block", "whole"] = "block"
    init: Init = "identity"
    noise: float = 0.0

    def __post_init__(self) -> None:
        needs_groups = self.sharing == "group" or self.selector == "group"
        if needs_groups != bool(self.groups):
            raise ValueError(f"groups must be given where sharing or selector is 'group' and only there: {self.groups}")
        if self.groups and set(self.groups) != set(range(max(self.groups) + 1)):
            raise ValueError(f"groups must be numbered from 0 without a gap, got {self.groups}")
        if self.rank is not None and (self.kind != "projected" or self.rank < 1):
            raise ValueError(f"rank must be at least 1 and is for kind 'projected', got {self.rank} for {self.kind!r}")
        if self.low_rank == "whole" and (self.rank is None or self.triangular or self.sharing != "pair"):
            raise ValueError("low_rank 'whole' needs a rank, sharing 'pair' and no triangular")
        if self.kind == "rank_one" and (self.triangular or self.init == "identity"):
            raise ValueError("kind 'rank_one' starts as 'xavier_whole' or 'normal' and is never triangular")
        if self.rank is not None and self.init == "identity":
            raise ValueError("a low-rank matrix cannot start as the identity; choose init 'xavier' or 'xavier_whole'")
        if self.kind in ("weighted", "diagonal") and self.init not in ("identity", "normal"):
            raise ValueError(f"init of kind {self.kind!r} must be 'identity' or 'normal', got {self.init!r}")
        if self.noise < 0:
            raise ValueError(f"noise must be at least 0, got {self.noise}")
        if self.selector != "none" and not self.triangular:
            raise ValueError("a selector chooses slices for pairs a < b; set triangular")

    @property
    def whole(self) -> bool:
        """Whether W is the product of two factors over all fields, without a block for each pair of its own."""
        return self.kind == "rank_one" or self.low_rank == "whole"

    def classes(self, count: int) -> list[int]:
        """Which weight each of `count` fields uses, by sharing `group` or one each."""
        if self.sharing != "group":
            return list(range(count))
        if len(self.groups) != count:
            raise ValueError(f"groups names {len(self.groups)} fields but there are {count}")
        return list(self.groups)


def upper_pairs(num_fields: int) -> tuple[list[int], list[int]]:
    """First and second members of the pairs a < b, in lexical order.

    >>> upper_pairs(3)
    ([0, 0, 1], [1, 2, 2])
    """
    pairs = [(a, b) for a in range(num_fields) for b in range(a + 1, num_fields)]
    return [a for a, _ in pairs], [b for _, b in pairs]


class PairWeights(nn.Module):
    """The blocks W_ab of a weighted, diagonal or projected function, held once for each class that shares them.

    An item is a number, a row of `dim`, or a (dim, dim) matrix. Dense blocks of projected weights are laid out as
    (tables sources dim fields dim), a view of the (sources * dim, fields * dim) matrix of one product. Triangular
    weights of single pairs hold these pairs alone and are scattered into the square: no parameter lies idle.
    """

    sources: Tensor
    fields: Tensor
    first: Tensor
    second: Tensor
    mask: Tensor | None

    def __init__(self, config: FunctionConfig, num_tables: int, num_sources: int, num_fields: int, dim: int) -> None:
        super().__init__()
        if config.triangular and num_sources != num_fields:
            raise ValueError(f"triangular needs sources and fields alike, got {num_sources} and {num_fields}")
        sources = [0] * num_sources if config.sharing == "all" else config.classes(num_sources)
        fields = [0] * num_fields if config.sharing in ("all", "source") else config.classes(num_fields)
        first, second = upper_pairs(num_fields) if config.triangular else ([], [])
        for name, values in (("sources", sources), ("fields", fields), ("first", first), ("second", second)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.long), persistent=False)
        mask = torch.ones(num_sources, num_fields).triu(1)
        self.register_buffer("mask", mask if config.triangular else None, persistent=False)
        self.shape = (num_sources, num_fields)
        self.by_pair = config.triangular and config.sharing == "pair"
        self.matrix = config.kind == "projected"
        self.symmetric = config.triangular and config.sharing == "group" and not self.matrix
        blocks = (len(first),) if self.by_pair else (max(sources) + 1, max(fields) + 1)
        self.right: nn.Parameter | None = None
        if config.rank is None:
            self.left = nn.Parameter(self._start(config, (num_tables, *blocks), dim))
        else:
            std = (_matrix_std(config, dim, self.shape) / config.rank**0.5) ** 0.5
            self.left = nn.Parameter(torch.randn(num_tables, *blocks, dim, config.rank) * std)
            self.right = nn.Parameter(torch.randn(num_tables, *blocks, config.rank, dim) * std)

    def _start(self, config: FunctionConfig, blocks: tuple[int, ...], dim: int) -> Tensor:
        item = {"weighted": (), "diagonal": (dim,)}.get(config.kind, (dim, dim))
        if config.init == "identity":
            one = torch.eye(dim) if self.matrix else torch.ones(item)
            values = one.expand(*blocks, *item) + config.noise * torch.randn(*blocks, *item)
        else:
            values = torch.randn(*blocks, *item) * (_matrix_std(config, dim, self.shape) if self.matrix else 1.0)
        return values.transpose(2, 3).contiguous() if self.matrix and not self.by_pair else values

    def compact(self) -> Tensor:
        """(tables, source classes, field classes, item); projected (tables, source classes, dim, field classes, dim);
        by pair (tables, pairs, item).
        """
        if self.right is not None:
            product = self.left @ self.right
            return product if self.by_pair else product.transpose(2, 3)
        return (self.left + self.left.transpose(1, 2)) / 2 if self.symmetric else self.left

    def expanded(self) -> Tensor:
        """One block for each source and field, zero where the triangle has none."""
        values = self.compact()
        if self.by_pair:
            square = values.new_zeros(len(values), self.shape[0] * self.shape[1], *values.shape[2:])
            square = square.index_copy(1, self.first * self.shape[1] + self.second, values)
            dense = square.view(len(values), *self.shape, *values.shape[2:])
            return dense.transpose(2, 3) if self.matrix else dense
        dense = values.index_select(1, self.sources).index_select(3 if self.matrix else 2, self.fields)
        if self.mask is None:
            return dense
        mask = self.mask.to(dense.dtype)
        if self.matrix:
            return dense * mask[:, None, :, None]
        return dense * mask.view(*mask.shape, *(1,) * (dense.ndim - 3))

    def pairs(self) -> Float[Tensor, "tables pairs *item"]:
        """One block for each pair a < b."""
        values = self.compact()
        if self.by_pair:
            return values
        values = values.transpose(2, 3) if self.matrix else values
        return values[:, self.sources[self.first], self.fields[self.second]]


def _matrix_std(config: FunctionConfig, dim: int, shape: tuple[int, int]) -> float:
    if config.init == "xavier_whole":
        return float((2.0 / (dim * shape[0] + dim * shape[1])) ** 0.5)
    return float((1.0 / dim) ** 0.5) if config.init == "xavier" else 1.0
