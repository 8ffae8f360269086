"""Training of one domain's head over a backbone that stands still: the last phase of D-Train (arXiv 2309.10302).

The head is cut out of its model, so neither weights nor statistics of the backbone, nor other heads, can move, and what
becomes of a domain does not depend on which others there are. What heads read of a row is computed once by the backbone
in evaluation mode (its dropout is off) and kept, or computed anew for every batch.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor, nn

from ctr_models.domains.features import DomainFeatures
from ctr_models.domains.model import DomainModel
from ctr_models.domains.routing import EveryHead
from ctr_models.model import ParameterSplit
from llm_rec.ctr.batches import permutation, to_batch
from llm_rec.ctr.domain_task import row_loss
from llm_rec.ctr.task import parameter_groups
from llm_rec.data.columns import ClickColumns
from llm_rec.metrics.classification import click_metrics
from llm_rec.metrics.click_intervals import figures
from llm_rec.training.groups import ParameterGroup
from llm_rec.training.task import StepLoss, Task

ALONE = EveryHead(1)
SCORED_ROWS = 1 << 14  # rows whose features are computed at a time


@dataclass(frozen=True, eq=False)
class FeatureRows:
    """What a head reads of rows, and their labels."""

    features: DomainFeatures
    labels: Float[Tensor, "batch"]

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "FeatureRows":
        """The same rows on `device`."""
        return FeatureRows(DomainFeatures(*(part.to(device) for part in self.features)), self.labels.to(device))

    def select(self, rows: Int64[Tensor, "rows"] | slice) -> "FeatureRows":
        """Some rows."""
        return FeatureRows(DomainFeatures(*(part[rows] for part in self.features)), self.labels[rows])


class HeadTask:
    """One head, over features of its domain's rows; the loss is the mean over the batch."""

    def __init__(self, head: nn.Module) -> None:
        self.head = head

    @property
    def module(self) -> nn.Module:
        return self.head

    def loss(self, batch: FeatureRows) -> StepLoss:
        """One part: binary cross-entropy."""
        domains = torch.zeros(len(batch), dtype=torch.int64, device=batch.labels.device)
        total = row_loss("sample", self.logits(batch), batch.labels, domains, 1)
        return StepLoss(total, {"bce": total.detach()}, float(len(batch)))

    def logits(self, batch: FeatureRows) -> Float[Tensor, "batch"]:
        """One a row."""
        found: Tensor = self.head(batch.features, ALONE)
        return found[:, 0]


class HeadRows:
    """The rows of one domain of one part, as a head of `model` reads them: kept, or computed for every batch."""

    def __init__(
        self, model: DomainModel, columns: ClickColumns, rows: Int64[np.ndarray, "rows"], *, label: int, kept: bool
    ) -> None:
        self.model, self.columns, self.rows, self.label, self.kept = model, columns, rows, label, kept

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, places: Int64[np.ndarray, "some"]) -> FeatureRows:
        """Rows by their places among those of the domain."""
        if self.kept:
            return self.all.select(torch.from_numpy(places))
        return feature_rows(self.model, self.columns.select(self.rows[places]), self.label)

    @cached_property
    def all(self) -> FeatureRows:
        """All rows, in order."""
        pieces = [
            feature_rows(self.model, self.columns.select(self.rows[start : start + SCORED_ROWS]), self.label)
            for start in range(0, len(self), SCORED_ROWS)
        ]
        features = DomainFeatures(*(torch.cat(parts) for parts in zip(*(p.features for p in pieces), strict=True)))
        return FeatureRows(features, torch.cat([piece.labels for piece in pieces]))


@torch.no_grad()
def feature_rows(model: DomainModel, columns: ClickColumns, label: int) -> FeatureRows:
    """Features of the rows by a backbone in evaluation mode, on the CPU; the model's mode is as it was afterwards."""
    device, training = next(model.parameters()).device, model.training
    batch = to_batch(columns)
    model.eval()
    features = model.features(batch.to(device))
    model.train(training)
    return FeatureRows(DomainFeatures(*(part.cpu() for part in features)), batch.labels[:, label])


class HeadBatches:
    """A `BatchSource[FeatureRows]`: batches of a domain's rows in an order that seed and epoch alone fix."""

    def __init__(self, rows: HeadRows, batch_size: int, seed: int) -> None:
        self.rows, self.batch_size, self.seed = rows, batch_size, seed

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[FeatureRows]:
        """Batches `first_step`, ... of `epoch` (counted from 1)."""
        order = permutation(len(self.rows), [self.seed, epoch]).astype(np.int64)
        for step in range(first_step, len(self)):
            yield self.rows.read(order[step * self.batch_size : (step + 1) * self.batch_size])


def head_alone(model: DomainModel, domain: int) -> nn.Module:
    """A copy of the heads of `model` that holds the head of `domain` alone, to be run with one group of all rows."""
    heads = copy.deepcopy(model.heads)
    for parameter in heads.own_parameters():
        parameter.data = parameter.data[domain : domain + 1].clone()
        parameter.grad = None
    return _module(heads)


@torch.no_grad()
def put_head(model: DomainModel, domain: int, head: nn.Module) -> None:
    """Write a head made by `head_alone` into its place."""
    there, here = dict(_module(model.heads).named_parameters()), dict(head.named_parameters())
    for name in own_names(model):
        there[name].data[domain].copy_(here[name].data[0])


def own_names(model: DomainModel) -> set[str]:
    """Names, among the parameters of the heads, of those that a head has for itself; others are the backbone's."""
    own = {id(parameter) for parameter in model.heads.own_parameters()}
    return {name for name, parameter in _module(model.heads).named_parameters() if id(parameter) in own}


def head_groups(
    head: nn.Module, names: set[str], *, weight_decay: float, decay_biases: bool
) -> Sequence[ParameterGroup]:
    """The head's own parameters with the decay of other dense weights."""
    own = [parameter for name, parameter in head.named_parameters() if name in names]
    split = ParameterSplit([], own, [])
    return parameter_groups(
        head, split, embedding_l2=0.0, dense_l2=weight_decay, tables="dense", decay_biases=decay_biases
    )


@torch.no_grad()
def head_figures(task: Task[FeatureRows], rows: HeadRows) -> Mapping[str, float]:
    """`row_figures` of the rows of a domain under its head."""
    if not isinstance(task, HeadTask):
        raise TypeError(f"expected a head, got {type(task).__name__}")
    device = next(task.head.parameters()).device
    found = [
        task.logits(rows.read(np.arange(start, min(start + SCORED_ROWS, len(rows)))).to(device))
        for start in range(0, len(rows), SCORED_ROWS)
    ]
    columns = rows.columns.select(rows.rows)
    return row_figures(torch.cat(found).double().cpu().numpy(), columns.labels[:, rows.label], columns.groups)


def row_figures(
    logits: Float64[np.ndarray, "rows"],
    labels: Float32[np.ndarray, "rows"],
    groups: Int64[np.ndarray, "rows"] | None,
) -> Mapping[str, float]:
    """AUC, GAUC and negated log loss of rows, where they exist."""
    values = figures(click_metrics(logits, labels, groups=groups))
    found = {"-log_loss": -values["log_loss"]}
    for name in ("auc", "gauc"):
        if name in values:
            found[name] = values[name]
    return found


def _module(heads: object) -> nn.Module:
    if not isinstance(heads, nn.Module):
        raise TypeError(f"heads must be a module, got {type(heads).__name__}")
    return heads
