"""Interaction functions f(t_a, e_b; W_ab) = (t_a W_ab) * e_b, and their sums over sources or pairs.

`InteractionFunction.mix` computes sum_a t_a W_ab for every field b at once, for projected weights as one product with
the (sources * dim, fields * dim) block matrix; multiplied by e_b it is a layer of FmFM, DCNv2 or PFL. Nothing of size
(batch, pairs, dim) arises unless the head asks for the terms of single pairs.
"""

from typing import assert_never

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.interactions.weights import FunctionConfig, PairWeights, upper_pairs
from ctr_models.layers import table_linear


class InteractionFunction(nn.Module):
    """See `FunctionConfig`. Sources are terms of the layer before, fields the other factors, both `dim` wide.

    With a selector fields arrive `dim` wide and are read as slices of `self.dim` numbers, by `pair_terms`,
    `pair_products` and `pair_sum` alone.
    """

    first: Tensor
    second: Tensor
    first_slices: Tensor
    second_slices: Tensor
    groups: Tensor

    def __init__(self, config: FunctionConfig, num_tables: int, num_sources: int, num_fields: int, dim: int) -> None:
        super().__init__()
        self.config, self.num_fields = config, num_fields
        self.dim = dim // num_slices(config, num_fields)
        if dim % num_slices(config, num_fields):
            raise ValueError(
                f"vectors of {dim} numbers do not divide into the {num_slices(config, num_fields)} slices of selector "
                f"{config.selector!r}"
            )
        first, second = upper_pairs(num_fields)
        self.register_buffer("first", torch.tensor(first, dtype=torch.long), persistent=False)
        self.register_buffer("second", torch.tensor(second, dtype=torch.long), persistent=False)
        here, there = _slices(config, num_fields)
        self.register_buffer("first_slices", torch.tensor(here, dtype=torch.long), persistent=False)
        self.register_buffer("second_slices", torch.tensor(there, dtype=torch.long), persistent=False)
        self.register_buffer("groups", torch.tensor(config.groups, dtype=torch.long), persistent=False)
        self.weights: PairWeights | None = None
        self.inward: nn.Parameter | None = None
        self.outward: nn.Parameter | None = None
        if config.whole:
            self._start_whole(num_tables, num_sources)
        elif config.kind != "naive":
            self.weights = PairWeights(config, num_tables, num_sources, num_fields, self.dim)

    def _start_whole(self, num_tables: int, num_sources: int) -> None:
        inward, outward = num_sources * self.dim, self.num_fields * self.dim
        if self.config.rank is None:
            std = 1.0 if self.config.init == "normal" else (2.0 / (inward + 1)) ** 0.5
            self.inward = nn.Parameter(torch.randn(num_tables, inward, 1) * std)
            return
        std = 1.0 if self.config.init == "normal" else (2.0 / (inward + outward)) ** 0.5
        root = (std / self.config.rank**0.5) ** 0.5
        self.inward = nn.Parameter(torch.randn(num_tables, inward, self.config.rank) * root)
        self.outward = nn.Parameter(torch.randn(num_tables, self.config.rank, outward) * root)

    def forward(
        self, sources: Float[Tensor, "tables batch sources dim"], fields: Float[Tensor, "tables batch fields dim"]
    ) -> Float[Tensor, "tables batch fields dim"]:
        """The field sum: sum_a f(t_a, e_b; W_ab) for every b."""
        return self.mix(sources) * fields

    def mix(
        self,
        sources: Float[Tensor, "tables batch sources dim"],
        bias: Float[Tensor, "tables fields dim"] | None = None,
    ) -> Float[Tensor, "tables batch fields dim"]:
        """sum_a t_a W_ab (+ bias_b) for every b."""
        if self.inward is not None:
            mixed = self._mix_whole(sources, self.inward)
        elif self.weights is None:
            mixed = self._mix_naive(sources)
        elif self.config.triangular:
            mixed = self._contract(sources, self.weights.expanded())
        elif self.config.kind == "projected" and self.config.sharing == "pair":
            return self._project(sources, self.weights.compact(), bias)
        else:
            mixed = self._mix_classes(sources, self.weights)
        return mixed if bias is None else mixed + bias.unsqueeze(1)

    def _mix_naive(self, sources: Tensor) -> Tensor:
        if self.config.triangular:
            return sources.cumsum(2) - sources
        return sources.sum(2, keepdim=True).expand(-1, -1, self.num_fields, -1)

    def _mix_whole(self, sources: Tensor, inward: Tensor) -> Tensor:
        inner = torch.bmm(sources.flatten(2), inward)
        if self.outward is None:
            return inner.unsqueeze(-1).expand(-1, -1, self.num_fields, self.dim)
        return torch.bmm(inner, self.outward).view(*sources.shape[:2], self.num_fields, self.dim)

    def _mix_classes(self, sources: Tensor, weights: PairWeights) -> Tensor:
        """Sources that share a weight are added first; fields that share one read the same result."""
        compact = weights.compact()
        if self.config.sharing == "all":
            sources = sources.sum(2, keepdim=True)
        elif self.config.sharing == "group":
            empty = sources.new_zeros(*sources.shape[:2], compact.shape[1], sources.shape[3])
            sources = empty.index_add(2, weights.sources, sources)
        mixed = self._contract(sources, compact)
        if mixed.shape[2] == 1:
            return mixed.expand(-1, -1, self.num_fields, -1)
        return mixed.index_select(2, weights.fields) if self.config.sharing == "group" else mixed

    def _contract(self, sources: Tensor, weight: Tensor) -> Tensor:
        match self.config.kind:
            case "weighted":
                return torch.einsum("tbsk,tsf->tbfk", sources, weight)
            case "diagonal":
                return torch.einsum("tbsk,tsfk->tbfk", sources, weight)
            case "projected":
                return self._project(sources, weight, None)
            case "naive" | "rank_one":
                raise ValueError(f"kind {self.config.kind!r} has no blocks to contract")
            case _:
                assert_never(self.config.kind)

    def _project(self, sources: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        block = weight.flatten(3).flatten(1, 2)
        mixed = table_linear(sources.flatten(2), block, None if bias is None else bias.flatten(1))
        return mixed.view(*sources.shape[:2], weight.shape[3], self.dim)

    def block_weight(self) -> Float[Tensor, "tables sources fields dim dim"]:
        """The blocks W_ab, materialised: for diagnosis of projected functions (sub-embeddings e_a W_ab)."""
        if self.weights is None or self.config.kind != "projected":
            raise ValueError(f"block_weight is for kind 'projected' with blocks of its own, not {self.config.kind!r}")
        return self.weights.expanded().transpose(2, 3)

    def lefts(self, sources: Float[Tensor, "tables batch sources dim"]) -> Float[Tensor, "tables batch sources *f dim"]:
        """t_a W_ab for every a and b; without the axis of fields where W does not depend on b."""
        if self.weights is None:
            return sources
        if self.config.sharing in ("all", "source"):
            return self._left_by_source(sources, self.weights)
        weight = self.weights.expanded()
        match self.config.kind:
            case "weighted":
                return sources.unsqueeze(3) * weight.unsqueeze(1).unsqueeze(-1)
            case "diagonal":
                return sources.unsqueeze(3) * weight.unsqueeze(1)
            case _:
                return torch.einsum("tbsk,tskfl->tbsfl", sources, weight)

    def _left_by_source(self, sources: Tensor, weights: PairWeights) -> Tensor:
        weight = weights.compact()
        if self.config.kind == "projected":
            square = weight.squeeze(3).expand(-1, sources.shape[2], -1, -1)
            return torch.einsum("tbsk,tskl->tbsl", sources, square)
        scale = weight.squeeze(2)
        return sources * (scale.unsqueeze(-1) if self.config.kind == "weighted" else scale).unsqueeze(1)

    def pair_terms(self, fields: Float[Tensor, "tables batch fields wide"]) -> Float[Tensor, "tables batch pairs dim"]:
        """f(e_a, e_b; W_ab) for the pairs a < b in lexical order: for heads that read single pairs."""
        if self.config.selector == "none" and self._by_source:
            return self.lefts(fields).index_select(2, self.first) * fields.index_select(2, self.second)
        return self._terms_by_pair(fields).transpose(1, 2)

    def pair_products(self, fields: Float[Tensor, "tables batch fields wide"]) -> Float[Tensor, "tables batch pairs"]:
        """The sums over dim of `pair_terms`, e_a W_ab e_b^T: by one Gram matrix a row where W does not depend on b."""
        by_source = self._by_source
        if self.config.selector != "none" or not (by_source or self.config.kind == "weighted"):
            return self._terms_by_pair(fields).sum(3).transpose(1, 2)
        gram = (self.lefts(fields) if by_source else fields) @ fields.transpose(2, 3)
        upper = gram.flatten(2).index_select(2, self.first * self.num_fields + self.second)
        if by_source or self.weights is None:
            return upper
        return upper * self.weights.pairs().unsqueeze(1)

    @property
    def _by_source(self) -> bool:
        return self.weights is None or self.config.sharing in ("all", "source")

    def _terms_by_pair(self, fields: Tensor) -> Float[Tensor, "tables pairs batch dim"]:
        """Pairs before rows, so that a matrix of its own for each pair is one batched product of contiguous blocks."""
        plain = self.config.selector == "none"
        slices = fields.reshape(*fields.shape[:2], -1, self.dim).transpose(1, 2)
        left = slices.index_select(1, self.first if plain else self.first_slices)
        right = slices.index_select(1, self.second if plain else self.second_slices)
        if self.weights is None:
            return left * right
        weight = self.weights.pairs()
        match self.config.kind:
            case "weighted":
                return left * right * weight[:, :, None, None]
            case "diagonal":
                return left * right * weight.unsqueeze(2)
            case _:
                return torch.matmul(left, weight) * right

    def pair_sum(self, fields: Float[Tensor, "tables batch fields wide"]) -> Float[Tensor, "tables batch dim"]:
        """sum over pairs of f(e_a, e_b; W_ab): a < b where triangular, else every ordered pair.

        The naive sum is ((sum e)^2 - sum e^2) / 2; group slices are added up by group before any product (GwPFM).
        """
        config = self.config
        if config.selector == "none":
            if self.weights is None and self.inward is None:
                total = fields.sum(2).square()
                return (total - fields.square().sum(2)) / 2 if config.triangular else total
            return (self.mix(fields) * fields).sum(2)
        if config.selector == "group" and (self.weights is None or config.kind == "weighted"):
            return self._group_sum(fields)
        return self.pair_terms(fields).sum(2)

    def _group_sum(self, fields: Tensor) -> Tensor:
        """1/2 [sum_pq r_pq S_pq S_qp - sum_p r_pp D_p], S_pq the sum of the slices q of the fields of group p."""
        if self.weights is not None and self.config.sharing not in ("all", "group"):
            return self.pair_terms(fields).sum(2)
        count = max(self.config.groups) + 1
        slices = fields.reshape(*fields.shape[:3], count, self.dim)
        sums = slices.new_zeros(*slices.shape[:2], count, count, self.dim).index_add(2, self.groups, slices)
        products = sums * sums.transpose(2, 3)
        mine = self.groups.view(1, 1, -1, 1, 1).expand(*slices.shape[:3], 1, self.dim)
        own = slices.gather(3, mine).squeeze(3).square()
        owns = own.new_zeros(*own.shape[:2], count, self.dim).index_add(2, self.groups, own)
        if self.weights is None:
            return (products.sum((2, 3)) - owns.sum(2)) / 2
        scale = self.weights.compact().expand(-1, count, count)
        both = torch.einsum("tbpqk,tpq->tbk", products, scale)
        return (both - torch.einsum("tbpk,tpp->tbk", owns, scale)) / 2


def num_slices(config: FunctionConfig, num_fields: int) -> int:
    """Slices in the vector of a field under a selector; 1 without."""
    match config.selector:
        case "none":
            return 1
        case "field":
            return num_fields - 1
        case "group":
            return max(config.groups) + 1
        case _:
            assert_never(config.selector)


def _slices(config: FunctionConfig, num_fields: int) -> tuple[list[int], list[int]]:
    """For each pair a < b, the rows among (fields * slices) of the slice of a for b and of the slice of b for a."""
    first, second = upper_pairs(num_fields)
    count = num_slices(config, num_fields)
    match config.selector:
        case "none":
            return [], []
        case "field":
            pairs = list(zip(first, second, strict=True))
            return [a * count + b - 1 for a, b in pairs], [b * count + a for a, b in pairs]
        case "group":
            if len(config.groups) != num_fields:
                raise ValueError(f"groups names {len(config.groups)} fields but there are {num_fields}")
            group, pairs = config.groups, list(zip(first, second, strict=True))
            return [a * count + group[b] for a, b in pairs], [b * count + group[a] for a, b in pairs]
        case _:
            assert_never(config.selector)
