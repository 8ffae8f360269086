"""SDIM: attention by sampling, the mean of events whose hashes collide with the candidate's (arXiv 2205.10249)."""

from dataclasses import dataclass
from typing import Literal, assert_never

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ctr_models.checks import check_at_least, check_divides
from ctr_models.sequences.buckets import BucketTable, bucket_ids, build_table, collide, read_table
from ctr_models.sequences.hamming import SimHash, hashed_parts
from ctr_models.sequences.protocols import SequenceInput, SequenceOutput

Pooling = Literal["mean", "unit"]
MOST_DIGITS = 16  # of a bucket's number: 65,536 buckets a group
EPSILON = 1e-6  # shortest sum that becomes a unit vector; a shorter one keeps its direction


@dataclass(frozen=True, kw_only=True, slots=True)
class SDIMConfig:
    """`bits` hashes in groups of `group_size` (m and tau). `hash_parts` as in ETA.

    `pooling` of a bucket: the `mean` of its events, or the `unit` vector along their sum, which we remember other
    implementations to take. `target_product`: target * h follows h.
    """

    bits: int = 48
    group_size: int = 3
    hash_parts: int | None = None
    pooling: Pooling = "mean"
    target_product: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least("bits", self.bits, 1)
        check_at_least("group_size", self.group_size, 1)
        check_divides("group_size", self.group_size, "bits", self.bits)
        if self.group_size > MOST_DIGITS:
            raise ValueError(f"group_size must be at most {MOST_DIGITS}, got {self.group_size}")
        check_at_least("hash_parts", 1 if self.hash_parts is None else self.hash_parts, 1)


class SDIM(nn.Module):
    """h = (1 / G) sum_g mean of {e_i : bucket_g(e_i) = bucket_g(target)}, G = bits / group_size; an empty bucket is 0.

    In expectation an event at angle phi to the target weighs like (1 - phi / pi)^group_size: softmax attention's
    sharpness, without a score, a search or a parameter. `table` and `read` are the same for serving: one table a user,
    and reads that do not depend on the length of the history.
    """

    def __init__(self, config: SDIMConfig, num_tables: int, parts: int, dim: int) -> None:
        super().__init__()
        self.config = config
        self.hashed_width = hashed_parts(config.hash_parts, parts) * dim
        self.hash = SimHash(num_tables, self.hashed_width, config.bits, seed=config.seed)
        self.num_outputs, self.num_auxiliary = 2 if config.target_product else 1, 0

    def buckets(self, vectors: Float[Tensor, "tables *shape width"]) -> Int64[Tensor, "tables *shape groups"]:
        """The buckets of candidates, events or catalog items."""
        return bucket_ids(self.hash.signs(vectors[..., : self.hashed_width]), self.config.group_size)

    def forward(self, sequence: SequenceInput) -> SequenceOutput:
        target, events = self.buckets(sequence.target), self.buckets(sequence.events)
        return self._output(sequence.target, *collide(target, events, sequence.events, sequence.mask))

    def table(self, sequence: SequenceInput) -> BucketTable:
        """The tables of the users of `sequence`; candidates are not looked at."""
        buckets = self.buckets(sequence.events)
        return build_table(buckets, sequence.events, sequence.mask, 1 << self.config.group_size)

    def read(self, table: BucketTable, target: Float[Tensor, "tables batch width"]) -> SequenceOutput:
        """What `forward` gives for candidates of the tables' users (one each, or any number of one user)."""
        return self._output(target, *read_table(table, self.buckets(target)))

    def _output(
        self,
        target: Float[Tensor, "tables batch width"],
        sums: Float[Tensor, "tables batch groups width"],
        counts: Float[Tensor, "tables batch groups"],
    ) -> SequenceOutput:
        match self.config.pooling:
            case "mean":
                pooled = sums / counts.clamp(min=1.0).unsqueeze(-1).to(sums.dtype)
            case "unit":
                precise = sums.to(torch.promote_types(sums.dtype, torch.float32))
                pooled = nn.functional.normalize(precise, dim=-1, eps=EPSILON).to(sums.dtype)
            case _:
                assert_never(self.config.pooling)
        vector = pooled.mean(2)
        vectors = [vector, vector * target] if self.config.target_product else [vector]
        return SequenceOutput(torch.stack(vectors, 2))
