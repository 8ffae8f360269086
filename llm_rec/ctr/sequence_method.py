"""How models of past events are trained where they were published."""

from ctr_models.embeddings import NormalInit
from ctr_models.losses import CrossEntropyConfig
from ctr_models.model import CTRModelConfig
from llm_rec.ctr.batches import ClickBatchConfig
from llm_rec.ctr.method import ClickMethodConfig
from llm_rec.training.trainer import TrainerConfig

DARE_STD = 0.01


def dare_protocol(model: CTRModelConfig, *, epochs: int = 2, batch_size: int = 2048) -> ClickMethodConfig:
    """`model` as the code of DARE (arXiv 2410.02604) trains all models it compares: two logits, Adam at 0.01 over dense
    tables, every weight from N(0, 0.01^2), scales of batch normalisation and slopes of PReLU among them, and 1e-6 times
    the squares of all weights that are neither biases nor in tables, whose gradient is 2e-6 w.

    What differs: biases start at 0, not uniformly; padding has no vector, where theirs is trained but masked; after an
    epoch the best AUC is kept, not after 150 steps; validation uses running statistics, theirs those of the batch.
    """
    return ClickMethodConfig(
        model=model,
        loss=CrossEntropyConfig(),
        init=NormalInit(std=DARE_STD),
        weight_init=DARE_STD,
        decay_biases=False,
        batches=ClickBatchConfig(batch_size=batch_size),
        trainer=TrainerConfig(epochs=epochs, learning_rate=0.01, optimizer="adam", weight_decay=2e-6, monitor="auc"),
    )
