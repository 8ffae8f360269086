"""A click model as something to train: logits of a batch, and the loss on its label."""

from collections.abc import Iterator, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.batch import FeatureBatch
from ctr_models.embeddings import EmbeddingTable
from ctr_models.losses import ClickLossConfig, LossParts, click_loss
from ctr_models.model import CTRModel, ModelOutputs, ParameterSplit, bias_ids
from ctr_models.numerals import DigitTable
from llm_rec.ctr.item_fields import field_weights
from llm_rec.ctr.penalties import PenaltyConfig, penalty
from llm_rec.training.groups import OptimizerKind, ParameterGroup
from llm_rec.training.task import StepLoss


class ClickTask:
    """One label of the schema (its number `label`). With `grouped`, ranking losses compare rows of one group only.

    Parts of their own are added to the loss, and logged: of the auxiliary head of a sequence model, the same loss times
    `auxiliary_weight`; the loss of its encoder; a `penalty`.
    """

    def __init__(
        self,
        model: CTRModel,
        loss: ClickLossConfig,
        *,
        grouped: bool = False,
        label: int = 0,
        penalty: PenaltyConfig | None = None,
        auxiliary_weight: float = 1.0,
    ) -> None:
        self.model, self.config, self.grouped, self.label, self.penalty = model, loss, grouped, label, penalty
        self.auxiliary_weight = auxiliary_weight

    @property
    def module(self) -> nn.Module:
        return self.model

    def loss(self, batch: FeatureBatch) -> StepLoss:
        """The mean over the batch, of rows by their weights if they have any; ranking terms are as `ctr_models.losses`
        says.
        """
        outputs = self.model.outputs(batch)
        found = self._click_loss(outputs.logits, batch)
        parts = {"pointwise": found.pointwise.detach(), "ranking": found.ranking.detach()}
        total = found.total
        for name, added in self._added(outputs, batch):
            parts[name] = added.detach()
            total = total + added
        return StepLoss(total, parts, float(len(batch)))

    def _added(self, outputs: ModelOutputs, batch: FeatureBatch) -> Iterator[tuple[str, Tensor]]:
        if outputs.auxiliary is not None:
            yield "auxiliary", self.auxiliary_weight * self._click_loss(outputs.auxiliary, batch).total
        if outputs.loss is not None:
            yield "encoder", outputs.loss
        if self.penalty is not None:
            yield "penalty", penalty(self.penalty, self.model, batch)

    def _click_loss(self, logits: Float[Tensor, "batch outputs"], batch: FeatureBatch) -> LossParts:
        groups = batch.groups if self.grouped else None
        return click_loss(self.config, logits, batch.labels[:, self.label], groups, batch.weights)


def click_groups(
    model: CTRModel, *, embedding_l2: float, dense_l2: float, tables: OptimizerKind, decay_biases: bool = True
) -> Sequence[ParameterGroup]:
    """`parameter_groups` of a click model."""
    return parameter_groups(
        model,
        model.split_parameters(),
        embedding_l2=embedding_l2,
        dense_l2=dense_l2,
        tables=tables,
        decay_biases=decay_biases,
    )


def parameter_groups(
    model: nn.Module,
    split: ParameterSplit,
    *,
    embedding_l2: float,
    dense_l2: float,
    tables: OptimizerKind,
    decay_biases: bool = True,
) -> Sequence[ParameterGroup]:
    """Tables with their L2 and optimiser; vectors of numbers, dense features and positions with the same L2; all other
    weights, fusions of codes and frequency gates among them, with theirs; and the layer weights of aggregators, which
    are not to be pulled to 0, with none. Nor are biases without `decay_biases`.
    """
    between = field_weights(model)
    free = set() if decay_biases else bias_ids(model)
    weights = [*split.dense, *between]
    groups = [
        ParameterGroup(params=[p for p in weights if id(p) not in free], weight_decay=dense_l2),
        ParameterGroup(params=[*split.orders, *(p for p in weights if id(p) in free)], weight_decay=0.0),
    ]
    rows: list[nn.Parameter] = []
    for module in model.modules():
        if tables != "dense" and isinstance(module, EmbeddingTable | DigitTable):
            table = list(module.embedding.parameters())
            rows += table
            group = ParameterGroup(params=table, weight_decay=embedding_l2, optimizer=tables)
            if tables == "rowwise_adagrad":
                group["num_tables"] = module.num_tables
            groups.append(group)
    taken = {id(parameter) for parameter in (*rows, *between)}
    others = [parameter for parameter in split.embeddings if id(parameter) not in taken]
    groups.append(ParameterGroup(params=others, weight_decay=embedding_l2))
    return [group for group in groups if group["params"]]
