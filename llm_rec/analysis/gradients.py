"""What gradient negatives receive, by loss and by layer: how it vanishes under sparse clicks (arXiv 2403.14144).

Everything starts from the closed-form gradient at the logits (`ctr_models.losses.logit_gradients`) and is pulled back
from there, so a loss need not be differentiated, `.grad` is not touched, and one forward pass serves any number of
losses and any part of the batch.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias, assert_never

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ctr_models.losses import ClickLossConfig, logit_gradients, negative_gradient_stats

Rows: TypeAlias = Literal["all", "negatives", "positives"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Percentiles:
    """Of absolute gradients, or of gradient norms per row: mean and the 10th, 50th and 90th percentile."""

    mean: float
    p10: float
    p50: float
    p90: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LogitGradients:
    """|dL/ds| over the negatives of a batch, and the mean over its positives."""

    negatives: Percentiles
    positive_mean: float


def gradients_by_loss(
    logits: Float[Tensor, "batch outputs"],
    labels: Float[Tensor, "batch"],
    losses: Mapping[str, ClickLossConfig],
    groups: Int64[Tensor, "batch"] | None = None,
) -> dict[str, LogitGradients]:
    """What the same predictions would send back under each loss. All losses must need as many logits as there are."""
    found = {}
    for name, loss in losses.items():
        stats = torch.stack(negative_gradient_stats(logits, labels, loss, groups)).tolist()
        mean, p10, p50, p90, positive_mean = stats
        percentiles = Percentiles(mean=mean, p10=p10, p50=p50, p90=p90)
        found[name] = LogitGradients(negatives=percentiles, positive_mean=positive_mean)
    return found


def parameter_gradients(
    logits: Float[Tensor, "batch outputs"],
    labels: Float[Tensor, "batch"],
    loss: ClickLossConfig,
    parameters: Mapping[str, Tensor],
    groups: Int64[Tensor, "batch"] | None = None,
    *,
    rows: Rows = "all",
) -> dict[str, Percentiles]:
    """|dL/dW| over the entries of each parameter, as far as it comes from `rows`; `logits` must carry its graph.

    "all" is what the authors log per layer; "negatives" and "positives" add up to it before the absolute value. A
    parameter that the logits do not depend on has zeros.
    """
    grads = _pulled_back(logits, _sent(logits, labels, loss, groups, rows), tuple(parameters.values()))
    return {name: _percentiles(grad.abs()) for name, grad in zip(parameters, grads, strict=True)}


@contextmanager
def recorded_outputs(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Collects the output of each layer in forward passes inside the block (of several calls the last).

    >>> layers = {"first": nn.Linear(3, 2), "second": nn.Linear(2, 1)}
    >>> with recorded_outputs(layers) as outputs:
    ...     _ = layers["second"](layers["first"](torch.zeros(5, 3)))
    >>> {name: tuple(output.shape) for name, output in outputs.items()}
    {'first': (5, 2), 'second': (5, 1)}
    """
    outputs: dict[str, Tensor] = {}

    def recorder(name: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def keep(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            outputs[name] = output

        return layer.register_forward_hook(keep)

    handles = [recorder(name, layer) for name, layer in layers.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def layer_gradients(
    logits: Float[Tensor, "batch outputs"],
    labels: Float[Tensor, "batch"],
    loss: ClickLossConfig,
    outputs: Mapping[str, Tensor],
    groups: Int64[Tensor, "batch"] | None = None,
    *,
    rows: Rows = "negatives",
) -> dict[str, Percentiles]:
    """Norm per row of dL/d(layer output), over the chosen rows; `outputs` from `recorded_outputs` of the same pass.

    The axis of rows is the first whose length is the batch, so (batch, width) and (tables, batch, width) both serve.
    Rows influence each other where a layer normalises over the batch; elsewhere this is each row's own gradient. Raises
    `ValueError` for an output without such an axis.
    """
    axes = {name: _row_axis(name, output, len(labels)) for name, output in outputs.items()}
    grads = _pulled_back(logits, _sent(logits, labels, loss, groups, rows), tuple(outputs.values()))
    chosen = _chosen(labels, rows)
    norms = [grad.movedim(axis, 0).flatten(1).norm(dim=1) for grad, axis in zip(grads, axes.values(), strict=True)]
    return {name: _percentiles(norm[chosen]) for name, norm in zip(outputs, norms, strict=True)}


def _sent(
    logits: Tensor, labels: Tensor, loss: ClickLossConfig, groups: Tensor | None, rows: Rows
) -> Float[Tensor, "batch outputs"]:
    sent = logit_gradients(logits, labels, loss, groups).to(logits.dtype)
    return sent * _chosen(labels, rows).unsqueeze(1)


def _chosen(labels: Float[Tensor, "batch"], rows: Rows) -> Tensor:
    match rows:
        case "all":
            return torch.ones_like(labels, dtype=torch.bool)
        case "negatives":
            return labels <= 0.5
        case "positives":
            return labels > 0.5
        case _:
            assert_never(rows)


def _pulled_back(logits: Tensor, sent: Tensor, wanted: tuple[Tensor, ...]) -> list[Tensor]:
    found = torch.autograd.grad(logits, wanted, grad_outputs=sent, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(target) if grad is None else grad for target, grad in zip(wanted, found, strict=True)]


def _row_axis(name: str, output: Tensor, batch: int) -> int:
    for axis, length in enumerate(output.shape):
        if length == batch:
            return axis
    raise ValueError(f"the output of layer {name!r} has shape {tuple(output.shape)}, without an axis of {batch} rows")


def _percentiles(values: Tensor) -> Percentiles:
    numbers = values.detach().double().cpu().flatten().numpy()
    if not len(numbers):
        return Percentiles(mean=0.0, p10=0.0, p50=0.0, p90=0.0)
    p10, p50, p90 = (float(value) for value in np.quantile(numbers, [0.1, 0.5, 0.9]))
    return Percentiles(mean=float(numbers.mean()), p10=p10, p50=p50, p90=p90)
