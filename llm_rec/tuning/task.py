"""Pairs as a task of the trainer, with gradient caching: batches of any size in the memory of one chunk."""

import torch
from jaxtyping import Float32
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from llm_rec.encoders.adapters import Adapter, TunableEncoder
from llm_rec.training.task import StepLoss
from llm_rec.tuning.batches import PairBatch
from llm_rec.tuning.losses import InfoNCEConfig, info_nce


class PairTask:
    """The adapter of an encoder, and what is asked of it: vectors of a pair closer than those of other pairs.

    `cached` is gradient caching (Gao et al., arXiv 2101.06983): chunks are embedded without keeping activations; once
    the loss has given the gradient of every embedding, each chunk is embedded again, under the random state it had, and
    its gradient goes on into the weights. Written as a checkpoint a chunk, which is the same computation in the order
    of autograd: one more forward pass, the memory of one chunk, and the gradient of the whole batch.
    """

    def __init__(self, encoder: TunableEncoder, adapter: Adapter, loss: InfoNCEConfig, *, cached: bool = True) -> None:
        self.encoder = encoder
        self.adapter = adapter
        self.config = loss
        self.cached = cached

    @property
    def module(self) -> Adapter:
        return self.adapter

    def loss(self, batch: PairBatch) -> StepLoss:
        anchors, positives = self.embed(batch).tensor_split(2)
        total = info_nce(anchors, positives, batch.labels, self.config)
        return StepLoss(total, {"loss": total.detach()}, float(batch.num_pairs))

    def embed(self, batch: PairBatch) -> Float32[Tensor, "twice_pairs dim"]:
        """Vectors of all texts of the batch, anchors first."""
        if self.cached and len(batch.chunks) > 1:
            vectors = [checkpoint(self.encoder.vectors, *chunk, use_reentrant=False) for chunk in batch.chunks]
        else:
            vectors = [self.encoder.vectors(*chunk) for chunk in batch.chunks]
        return torch.cat(vectors).index_select(0, batch.places)
