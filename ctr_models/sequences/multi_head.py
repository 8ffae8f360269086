"""Multi-head target attention over found events: the second stage of SIM, ETA and TWIN.

One query a row and many events, so no event is ever projected:

    <q W_q, e W_k> = <(q W_q) W_k^T, e>    and    sum_i w_i (e_i W_v) = (sum_i w_i e_i) W_v,

which is exact, and L * width * heads products where projections of keys and values take 2 L * width * attention_dim.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ctr_models.checks import check_at_least, check_divides
from ctr_models.layers import TableLinear, xavier
from ctr_models.sequences.found import masked_softmax
from ctr_models.sequences.protocols import SequenceInput


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiHeadConfig:
    """Attention of the candidate to events; `attention_dim` counts all heads together.

    `short_length`: a second attention over so many newest events, whose vector goes beside the long one's (0: none).
    The search still sees these events, as in the third-party FuxiCTR zoo. `target_product`: every vector h is followed
    by target * h too, the target-aware representation of TWIN and DARE, for heads that do not multiply fields.
    """

    num_heads: int = 2
    attention_dim: int = 64
    short_length: int = 0
    target_product: bool = False

    def __post_init__(self) -> None:
        check_at_least("num_heads", self.num_heads, 1)
        check_at_least("attention_dim", self.attention_dim, 1)
        check_at_least("short_length", self.short_length, 0)
        check_divides("num_heads", self.num_heads, "attention_dim", self.attention_dim)


def folded_scores(
    query: Float[Tensor, "tables batch heads head_dim"],
    events: Float[Tensor, "tables batch length width"],
    weight: Float[Tensor, "tables width heads head_dim"],
) -> Float[Tensor, "tables batch heads length"]:
    """<q^h, e_i W^h> / sqrt(d_h), one query a row."""
    folded = torch.einsum("tbhd,twhd->tbhw", query * query.shape[-1] ** -0.5, weight)
    return folded @ events.transpose(2, 3)


def folded_values(
    weights: Float[Tensor, "tables batch heads length"],
    events: Float[Tensor, "tables batch length width"],
    weight: Float[Tensor, "tables width heads head_dim"],
) -> Float[Tensor, "tables batch heads head_dim"]:
    """sum_i w_i^h (e_i W^h)."""
    return torch.einsum("tbhw,twhd->tbhd", weights @ events, weight)


class MultiHeadAttention(nn.Module):
    """concat_h( sum_i softmax_i(<q W_q^h, e_i W_k^h> / sqrt(d_h) + bias_i) e_i W_v^h ) W_o, without biases of maps.

    Queries and keys read the first `key_width` numbers of vectors, values all `width`. A row without events gives 0.
    """

    def __init__(self, config: MultiHeadConfig, num_tables: int, width: int, key_width: int) -> None:
        super().__init__()
        self.heads, self.key_width = config.num_heads, key_width
        self.head_dim = config.attention_dim // config.num_heads
        self.query = TableLinear(num_tables, key_width, config.attention_dim, bias=False)
        self.key = nn.Parameter(self._heads(xavier(num_tables, inputs=key_width, outputs=config.attention_dim)))
        self.value = nn.Parameter(self._heads(xavier(num_tables, inputs=width, outputs=config.attention_dim)))
        self.output = TableLinear(num_tables, config.attention_dim, width, bias=False)

    def scores(
        self, target: Float[Tensor, "tables batch width"], events: Float[Tensor, "tables batch length width"]
    ) -> Float[Tensor, "tables batch heads length"]:
        """<q W_q^h, e_i W_k^h> / sqrt(d_h)."""
        query = torch.unflatten(self.query(target[..., : self.key_width]), -1, (self.heads, self.head_dim))
        return folded_scores(query, events[..., : self.key_width], self.key)

    def keys(
        self, events: Float[Tensor, "tables batch length width"]
    ) -> Float[Tensor, "tables batch heads length head_dim"]:
        """e_i W_k^h: what scores of many candidates of one user have in common."""
        return torch.einsum("tblw,twhd->tbhld", events[..., : self.key_width], self.key)

    def scores_by_keys(
        self,
        candidates: Float[Tensor, "tables batch candidates width"],
        keys: Float[Tensor, "tables batch heads length head_dim"],
    ) -> Float[Tensor, "tables batch heads candidates length"]:
        """`scores` of many candidates by stored keys: length * attention_dim products each."""
        query = torch.unflatten(self.query(candidates[..., : self.key_width]), -1, (self.heads, self.head_dim))
        scores: Tensor = query.transpose(2, 3) * self.head_dim**-0.5 @ keys.transpose(3, 4)
        return scores

    def forward(
        self,
        target: Float[Tensor, "tables batch width"],
        events: Float[Tensor, "tables batch length width"],
        mask: Bool[Tensor, "#tables batch length"],
        bias: Float[Tensor, "tables batch #heads length"] | None = None,
    ) -> Float[Tensor, "tables batch width"]:
        scores = self.scores(target, events)
        scores = scores if bias is None else scores + bias
        weights = masked_softmax(scores, mask.unsqueeze(2).expand_as(scores)).to(events.dtype)
        pooled: Tensor = self.output(folded_values(weights, events, self.value).flatten(2))
        return pooled

    def _heads(self, weight: Float[Tensor, "tables inward outward"]) -> Float[Tensor, "tables inward heads head_dim"]:
        return torch.unflatten(weight, -1, (self.heads, self.head_dim))


class LongShortAttention(nn.Module):
    """See `MultiHeadConfig`: vectors of the events found and of the newest ones, in the order long, short, and the
    products of both with the candidate.
    """

    def __init__(self, config: MultiHeadConfig, num_tables: int, width: int, key_width: int | None = None) -> None:
        super().__init__()
        self.config = config
        key_width = width if key_width is None else key_width
        self.long = MultiHeadAttention(config, num_tables, width, key_width)
        self.short = MultiHeadAttention(config, num_tables, width, key_width) if config.short_length else None
        self.num_outputs = (1 if self.short is None else 2) * (2 if config.target_product else 1)

    def forward(
        self,
        sequence: SequenceInput,
        found: Float[Tensor, "tables batch found width"],
        mask: Bool[Tensor, "tables batch found"],
        bias: Float[Tensor, "tables batch #heads found"] | None = None,
    ) -> Float[Tensor, "tables batch outputs width"]:
        vectors = [self.long(sequence.target, found, mask, bias)]
        if self.short is not None:
            newest = slice(-self.config.short_length, None)
            recent, recent_mask = sequence.events[:, :, newest], sequence.mask[:, newest].unsqueeze(0)
            vectors.append(self.short(sequence.target, recent, recent_mask))
        if self.config.target_product:
            vectors += [vector * sequence.target for vector in vectors]
        return torch.stack(vectors, 2)
