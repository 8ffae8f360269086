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
from llm_rec.sequential.negatives import SharedNegativesConfig
from llm_rec.sequential.sasrec import released_sasrec
from llm_rec.sequential.task import BCEConfig, SampledSoftmaxConfig
from llm_rec.training.trainer import TrainerConfig

TRAINER = TrainerConfig(epochs=200, learning_rate=1e-3, betas=(0.9, 0.98), patience=5, eval_every=2)
KNOWN_ITEMS = SharedNegativesConfig(number=2048, seen_in_train_only=True)


def sasrec(items: ItemsConfig | None = None) -> SequentialMethodConfig:
    """SASRec with sampled softmax, tuned on Amazon Beauty: the baseline that every claim is made against."""
    return SequentialMethodConfig(
        model=SequentialConfig(items=items or IdItemsConfig(), backbone=released_sasrec()),
        loss=SampledSoftmaxConfig(),
        negatives=SharedNegativesConfig(number=2048),
        batches=BatchConfig(tokens=1024),
        trainer=TRAINER,
    )


def sasrec_bce() -> SequentialMethodConfig:
    """SASRec as published: BCE with one unseen negative a position."""
    return replace(sasrec(), loss=BCEConfig(), negatives=None)


def text_only() -> SequentialMethodConfig:
    """SASRec over projected text vectors alone: every item with a text can be recommended."""
    return replace(sasrec(TextItemsConfig(projection="mlp")), negatives=KNOWN_ITEMS)


def with_text() -> SequentialMethodConfig:
    """Ids and text summed, so that text alone can rank too: ids are dropped at random in training, items without train
    events have no id part and are no negatives."""
    items = MixedItemsConfig(text=TextItemsConfig(projection="mlp"), id_dropout=0.1, mask_unseen_ids=True)
    return replace(sasrec(items), negatives=KNOWN_ITEMS)


def with_codes() -> SequentialMethodConfig:
    """Ids and semantic IDs summed, with the same care for unseen items."""
    items = MixedItemsConfig(text=None, codes=CodeItemsConfig(), id_dropout=0.1, mask_unseen_ids=True)
    return replace(sasrec(items), negatives=KNOWN_ITEMS)


def pad_faithful_mechanism(*, loss: BCEConfig | SampledSoftmaxConfig | None = None) -> PADMethodConfig:
    """PAD's mechanism as published, at the size and learning rate of the other presets; BCE unless `loss` says else."""
    return PADMethodConfig(
        model=PADConfig(backbone=released_sasrec(), loss=loss or BCEConfig()),
        batches=BatchConfig(tokens=1024),
        training=PADTraining.same(TRAINER),
    )


def pad_ours() -> PADMethodConfig:
    """PAD anchored on sampled softmax, with ids masked for unseen items: our step beyond the paper."""
    return PADMethodConfig(
        model=pad(backbone=released_sasrec()),
        negatives=KNOWN_ITEMS,
        batches=BatchConfig(tokens=1024),
        training=PADTraining.same(TRAINER),
    )


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
NEEDS_TEXT = ("sasrec-text", "sasrec-id-text", "pad", "pad-bce", "pad-paper")
