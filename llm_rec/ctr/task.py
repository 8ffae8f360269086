"""A click model as something to train: logits of a batch, and the loss on its label."""

from collections.abc import Sequence

from torch import nn

from ctr_models.batch import FeatureBatch
from ctr_models.embeddings import EmbeddingTable
from ctr_models.losses import ClickLossConfig, click_loss
from ctr_models.model import CTRModel
from llm_rec.ctr.item_fields import field_weights
from llm_rec.ctr.penalties import PenaltyConfig, penalty
from llm_rec.training.groups import OptimizerKind, ParameterGroup
from llm_rec.training.task import StepLoss


class ClickTask:
    """One label of the schema (its number `label`). With `grouped`, ranking losses compare rows of one group only.

    A `penalty` is added to the loss, and logged as a part of its own.
    """

    def __init__(
        self,
        model: CTRModel,
        loss: ClickLossConfig,
        *,
        grouped: bool = False,
        label: int = 0,
        penalty: PenaltyConfig | None = None,
    ) -> None:
        self.model, self.config, self.grouped, self.label, self.penalty = model, loss, grouped, label, penalty

    @property
    def module(self) -> nn.Module:
        return self.model

    def loss(self, batch: FeatureBatch) -> StepLoss:
        """The mean over the batch; ranking terms are as `ctr_models.losses` says."""
        logits = self.model(batch)
        found = click_loss(self.config, logits, batch.labels[:, self.label], batch.groups if self.grouped else None)
        parts = {"pointwise": found.pointwise.detach(), "ranking": found.ranking.detach()}
        if self.penalty is None:
            return StepLoss(found.total, parts, float(len(batch)))
        added = penalty(self.penalty, self.model, batch)
        return StepLoss(found.total + added, {**parts, "penalty": added.detach()}, float(len(batch)))


def click_groups(
    model: CTRModel, *, embedding_l2: float, dense_l2: float, tables: OptimizerKind
) -> Sequence[ParameterGroup]:
    """Tables with their L2 and optimiser; vectors of numbers and dense features with the same L2; all other weights,
    fusions of codes and frequency gates among them, with theirs; and the layer weights of aggregators, which are not to
    be pulled to 0, with none.
    """
    split = model.split_parameters()
    between = field_weights(model)
    groups = [
        ParameterGroup(params=[*split.dense, *between], weight_decay=dense_l2),
        ParameterGroup(params=split.orders, weight_decay=0.0),
    ]
    rows: list[nn.Parameter] = []
    for module in model.modules():
        if tables != "dense" and isinstance(module, EmbeddingTable):
            weights = list(module.embedding.parameters())
            rows += weights
            group = ParameterGroup(params=weights, weight_decay=embedding_l2, optimizer=tables)
            if tables == "rowwise_adagrad":
                group["num_tables"] = module.num_tables
            groups.append(group)
    taken = {id(parameter) for parameter in (*rows, *between)}
    others = [parameter for parameter in split.embeddings if id(parameter) not in taken]
    groups.append(ParameterGroup(params=others, weight_decay=embedding_l2))
    return [group for group in groups if group["params"]]
