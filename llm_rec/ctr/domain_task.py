"""A model of several domains or tasks as something to train: logits of a batch, and the loss on its labels."""

from typing import Literal, TypeAlias, assert_never

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ctr_models.batch import FeatureBatch
from ctr_models.domains.losses import domain_mean_bce, task_bce
from ctr_models.domains.model import DomainModel
from llm_rec.training.task import StepLoss

Weighting: TypeAlias = Literal["sample", "macro", "domain_sum"]


class DomainTask:
    """By domain, one `label` of the schema: with `weighting` "sample" its mean over the batch, else as `row_loss` says.
    By task, all labels: means over the batch, added up with `task_weights` (1 each by default).

    What the body adds (a covariance of experts) is added and logged by its name. A mean over rows is the same on two
    processes as on one with the same rows; means by domain, and statistics of the batch, are those of each process.
    """

    def __init__(
        self,
        model: DomainModel,
        *,
        weighting: Weighting = "sample",
        label: int = 0,
        task_weights: tuple[float, ...] = (),
    ) -> None:
        self.model, self.weighting, self.label = model, weighting, label
        self.task_weights = torch.tensor(task_weights) if task_weights else None

    @property
    def module(self) -> nn.Module:
        return self.model

    def loss(self, batch: FeatureBatch) -> StepLoss:
        """The parts of the loss have the same names in every step."""
        outputs = self.model.outputs(batch)
        if self.model.config.by == "task":
            weights = None if self.task_weights is None else self.task_weights.to(outputs.logits.device)
            total = task_bce(outputs.logits, batch.labels, weights)
        else:
            domains, labels = self.model.domains_of(batch), batch.labels[:, self.label]
            total = row_loss(self.weighting, outputs.logits[:, 0], labels, domains, self.model.num_heads)
        parts = {"bce": total.detach()}
        for name, added in outputs.losses.items():
            parts[name] = added.detach()
            total = total + added
        return StepLoss(total, parts, float(len(batch)))


def row_loss(
    weighting: Weighting,
    logits: Float[Tensor, "batch"],
    labels: Float[Tensor, "batch"],
    domains: Int64[Tensor, "batch"],
    num_domains: int,
) -> Float[Tensor, ""]:
    """Binary cross-entropy: "sample", its mean over the batch; "domain_sum", its mean in each domain, summed over the
    domains of the batch (Crocodile, arXiv 2405.12706); "macro", that sum divided by the number of all domains, the risk
    that D-Train defines (arXiv 2309.10302).
    """
    match weighting:
        case "sample":
            return domain_mean_bce(logits, labels, torch.zeros_like(domains), 1)
        case "domain_sum":
            return domain_mean_bce(logits, labels, domains, num_domains)
        case "macro":
            return domain_mean_bce(logits, labels, domains, num_domains) / num_domains
        case _:
            assert_never(weighting)
