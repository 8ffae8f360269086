"""Named methods: the recommenders of the tables, the demo and ``llm-rec train --preset``, each in one place.

Sizes suit catalogs of thousands to a few hundred thousand items on a CPU or one GPU; every number can be set.
"""

from dataclasses import replace

from llm_rec.generative.batches import GenerativeBatchConfig
from llm_rec.generative.model import GenerativeConfig
from llm_rec.generative.t5 import T5ShapeConfig
from llm_rec.pad.model import PADConfig, faithful_pad, pad
from llm_rec.pad.phases import PADTraining, faithful_training
from llm_rec.recipes.generative import GenerativeMethodConfig
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


def tiger() -> GenerativeMethodConfig:
    """TIGER's recipe: its T5, 2,000 hashed user tokens, 20 items, batches of 256, learning rate .01 for 10,000 steps
    and 1 / sqrt(step) after; 390 epochs are its 200,000 steps on Amazon Beauty. For a GPU.

    Our choices where no source says: Adam with rates relative to the size of each tensor, because the schedule is that
    of T5, whose optimiser has them; gradients clipped at norm 1, because a re-implementer saw this schedule become
    unstable; beams of 20; the weights that validation finds best, looked at every ten epochs.
    """
    return GenerativeMethodConfig(
        model=GenerativeConfig(),
        batches=GenerativeBatchConfig(),
        trainer=TrainerConfig(
            epochs=390,
            learning_rate=1e-2,
            schedule="inverse_sqrt",
            warmup_steps=10_000,
            optimizer="adam",
            clip_norm=1.0,
            eval_every=10,
        ),
        validation_targets=4096,
        relative_rates=True,
    )


def generative() -> GenerativeMethodConfig:
    """A modern recipe, all of it our choice: TIGER's layers with gated GELU, learned positions of books and items, a
    softmax a book, no user token (so that a history without a known user is nothing new), dropout .15 and a steady 1e-3
    (as GRID has them), AdamW with a short warm-up, and patience instead of a number of steps."""
    return GenerativeMethodConfig(
        model=GenerativeConfig(
            shape=T5ShapeConfig(feed_forward="gated-gelu", dropout=0.15), num_users=0, head="level", positions=True
        ),
        batches=GenerativeBatchConfig(),
        trainer=TrainerConfig(
            epochs=200,
            learning_rate=1e-3,
            warmup_steps=1_000,
            weight_decay=1e-2,
            clip_norm=1.0,
            eval_every=5,
            patience=6,
        ),
        validation_targets=4096,
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
    "generative": generative(),
    "tiger": tiger(),
}
NEEDS_CODES = ("sasrec-codes", "generative", "tiger")
NEEDS_TEXT = ("sasrec-text", "sasrec-id-text", "pad", "pad-bce", "pad-paper")
