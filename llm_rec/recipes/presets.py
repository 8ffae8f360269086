"""Named methods: the recommenders of the tables, the demo and ``llm-rec train --preset``, each in one place.

Sizes suit catalogs of thousands to a few hundred thousand items on a CPU or one GPU; every number can be set.
"""

from dataclasses import replace

from llm_rec.pad.model import PADConfig, faithful_pad, pad
from llm_rec.pad.phases import PADTraining, faithful_training
from llm_rec.recipes.methods import MethodConfig, PADMethodConfig, SequentialMethodConfig
from llm_rec.sequential.batches import BatchConfig
from llm_rec.sequential.caser import CaserConfig
from llm_rec.sequential.gru4rec import GRU4RecConfig
from llm_rec.sequential.items import CodeItemsConfig, IdItemsConfig, ItemsConfig, MixedItemsConfig, TextItemsConfig
from llm_rec.sequential.model import SequentialConfig
from llm_rec.sequential.sasrec import SASRecConfig
from llm_rec.sequential.task import BCEConfig, SampledSoftmaxConfig
from llm_rec.training.trainer import TrainerConfig

TRAINER = TrainerConfig(epochs=200, learning_rate=1e-3, patience=10, monitor="ndcg@10", eval_every=2)


def sasrec(items: ItemsConfig | None = None) -> SequentialMethodConfig:
    """SASRec with sampled softmax: the baseline that every claim is made against."""
    model = SequentialConfig(items=items or IdItemsConfig(), backbone=SASRecConfig())
    return SequentialMethodConfig(model=model, loss=SampledSoftmaxConfig(), trainer=TRAINER)


def sasrec_bce() -> SequentialMethodConfig:
    """SASRec as published: BCE with one unseen negative a position."""
    return replace(sasrec(), loss=BCEConfig())


def text_only() -> SequentialMethodConfig:
    """SASRec over projected text vectors alone: every item with a text can be recommended."""
    return sasrec(TextItemsConfig(projection="mlp"))


def with_text() -> SequentialMethodConfig:
    """Ids and text summed; items without train events have no id part, and ids are dropped at random in training."""
    return sasrec(MixedItemsConfig(text=TextItemsConfig(projection="mlp"), id_dropout=0.1, mask_unseen_ids=True))


def with_codes() -> SequentialMethodConfig:
    """Ids and semantic IDs summed, with the same care for unseen items."""
    return sasrec(MixedItemsConfig(text=None, codes=CodeItemsConfig(), id_dropout=0.1, mask_unseen_ids=True))


def pad_faithful_mechanism(*, loss: BCEConfig | SampledSoftmaxConfig | None = None) -> PADMethodConfig:
    """PAD's mechanism as published, at the size and learning rate of the other presets; BCE unless `loss` says else."""
    return PADMethodConfig(model=PADConfig(loss=loss or BCEConfig()), training=PADTraining.same(TRAINER))


def pad_ours() -> PADMethodConfig:
    """PAD anchored on sampled softmax, with ids masked for unseen items: our step beyond the paper."""
    return PADMethodConfig(model=pad(), training=PADTraining.same(TRAINER))


def pad_paper() -> PADMethodConfig:
    """The paper's own settings for Prime Pantry; long training at small learning rates, meant for a GPU."""
    return PADMethodConfig(
        model=faithful_pad(),
        batches=BatchConfig(max_length=20, tokens=None, users=128),
        training=faithful_training(),
    )


METHODS: dict[str, MethodConfig] = {
    "sasrec": sasrec(),
    "sasrec-bce": sasrec_bce(),
    "sasrec-text": text_only(),
    "sasrec-id-text": with_text(),
    "sasrec-codes": with_codes(),
    "gru4rec": replace(sasrec(), model=SequentialConfig(backbone=GRU4RecConfig())),
    "caser": replace(sasrec(), model=SequentialConfig(backbone=CaserConfig())),
    "pad": pad_ours(),
    "pad-bce": pad_faithful_mechanism(),
    "pad-paper": pad_paper(),
}
NEEDS_CODES = ("sasrec-codes",)
