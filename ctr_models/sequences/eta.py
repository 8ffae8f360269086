"""ETA: the nearest events by SimHash, then multi-head attention over them (arXiv 2108.04468; 2209.12212)."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int32
from torch import Tensor, nn

from ctr_models.checks import check_at_least
from ctr_models.sequences.found import Found, take_events
from ctr_models.sequences.hamming import SimHash, hamming_search, hashed_parts
from ctr_models.sequences.multi_head import LongShortAttention, MultiHeadConfig
from ctr_models.sequences.protocols import SequenceInput, SequenceOutput


@dataclass(frozen=True, kw_only=True, slots=True)
class ETAConfig:
    """`bits` of a code; the `top_k` nearest events are attended to. `seed` draws the hyperplanes.

    `hash_parts`: how many leading parts of a vector are hashed, all when None. Leave a concatenated position out and
    codes belong to items, made once for a whole catalog; with it they belong to events.
    """

    bits: int = 32
    top_k: int = 20
    hash_parts: int | None = None
    attention: MultiHeadConfig = field(default_factory=MultiHeadConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least("bits", self.bits, 1)
        check_at_least("top_k", self.top_k, 1)
        check_at_least("hash_parts", 1 if self.hash_parts is None else self.hash_parts, 1)


class ETA(nn.Module):
    """h = MHA(target, the K events of the smallest Hamming distance to the target's code).

    Codes follow the embeddings, so the first stage agrees with the second without parameters of its own. The distance
    is over integers; masked events are farther than any event. A vector near a plane changes its code by a small step,
    so K nearest codes are not K nearest vectors: `ctr_models.sequences.twin` searches exactly, at L * width instead of
    L * bits / 8 bytes.
    """

    def __init__(self, config: ETAConfig, num_tables: int, parts: int, dim: int) -> None:
        super().__init__()
        self.config = config
        self.hashed_width = hashed_parts(config.hash_parts, parts) * dim
        self.hash = SimHash(num_tables, self.hashed_width, config.bits, seed=config.seed)
        self.attention = LongShortAttention(config.attention, num_tables, parts * dim)
        self.num_outputs, self.num_auxiliary = self.attention.num_outputs, 0

    def codes(self, vectors: Float[Tensor, "tables *shape width"]) -> Int32[Tensor, "tables *shape words"]:
        """Codes of candidates, events or catalog items: what lies beyond the hashed parts is not looked at."""
        return self.hash.codes(vectors[..., : self.hashed_width])

    def search(
        self,
        target: Int32[Tensor, "tables batch words"],
        events: Int32[Tensor, "tables batch length words"],
        mask: Bool[Tensor, "batch length"],
    ) -> Found:
        """The first stage on codes, computed here or stored."""
        return hamming_search(target, events, mask, self.config.top_k)

    def attend(self, sequence: SequenceInput, found: Found) -> SequenceOutput:
        """The second stage."""
        return SequenceOutput(self.attention(sequence, take_events(sequence.events, found.indices), found.mask))

    def forward(self, sequence: SequenceInput) -> SequenceOutput:
        with torch.no_grad():
            found = self.search(self.codes(sequence.target), self.codes(sequence.events), sequence.mask)
        return self.attend(sequence, found)
