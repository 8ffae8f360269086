"""Gradients by loss and layer, pulled back from closed forms, against differentiating the losses themselves."""

import numpy as np
import pytest
import torch
from torch import nn

from ctr_models.losses import BCEConfig, JRCConfig, ListwiseConfig, PairwiseConfig, click_loss, logit_gradients
from llm_rec.analysis.gradients import gradients_by_loss, layer_gradients, parameter_gradients, recorded_outputs

LOSSES = {"bce": BCEConfig(), "pairwise": PairwiseConfig(), "listwise": ListwiseConfig()}


class TwoSets(nn.Module):
    """A small model whose inner tensors carry a leading axis of two sets."""

    def __init__(self, outputs=1):
        super().__init__()
        self.inner = nn.Linear(4, 3)
        self.sets = nn.Identity()
        self.head = nn.Linear(3, outputs)
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x):
        both = self.sets(torch.stack([self.inner(x), self.inner(-x)]))
        return self.head(torch.relu(both).mean(0))


def world(rows=40, outputs=1):
    torch.manual_seed(0)
    model = TwoSets(outputs).double()
    x = torch.randn(rows, 4, dtype=torch.float64)
    return model, x, (torch.rand(rows) < 0.3).double()


def percentiles(values):
    values = np.asarray(values)
    return [values.mean(), *np.quantile(values, [0.1, 0.5, 0.9])]


def listed(found):
    return [found.mean, found.p10, found.p50, found.p90]


def test_every_loss_is_measured_on_the_same_predictions():
    model, x, labels = world()
    found = gradients_by_loss(model(x), labels, LOSSES)
    for name, loss in LOSSES.items():
        size = logit_gradients(model(x), labels, loss)[:, 0].abs().numpy()
        assert listed(found[name].negatives) == pytest.approx(percentiles(size[labels == 0]))
        assert found[name].positive_mean == pytest.approx(size[labels == 1].mean())


@pytest.mark.parametrize("loss", [*LOSSES.values(), JRCConfig()], ids=repr)
def test_parameter_gradients_are_those_of_the_loss_and_leave_grad_alone(loss):
    model, x, labels = world(outputs=2 if isinstance(loss, JRCConfig) else 1)
    parameters = dict(model.named_parameters())
    found = parameter_gradients(model(x), labels, loss, parameters)
    assert all(parameter.grad is None for parameter in model.parameters())
    click_loss(loss, model(x), labels).total.backward()
    for name, parameter in parameters.items():
        expected = np.zeros(2) if parameter.grad is None else parameter.grad.abs().flatten().numpy()
        assert listed(found[name]) == pytest.approx(percentiles(expected))


def test_negatives_and_positives_share_the_gradient_of_a_parameter():
    model, x, labels = world()
    parts = []
    for rows in ("negatives", "positives"):
        bias = {"bias": model.head.bias}
        parts.append(parameter_gradients(model(x), labels, BCEConfig(), bias, rows=rows)["bias"].mean)
    p = torch.sigmoid(model(x))[:, 0].detach()
    assert parts[0] == pytest.approx((p[labels == 0].sum() / 40).item())
    assert parts[1] == pytest.approx(((1 - p[labels == 1]).sum() / 40).item())


def test_layer_gradients_are_norms_per_row_whatever_axis_rows_lie_on():
    model, x, labels = world()
    with recorded_outputs({"sets": model.sets, "head": model.head}) as outputs:
        logits = model(x)
    found = layer_gradients(logits, labels, PairwiseConfig(), outputs)
    sets = torch.autograd.grad(click_loss(PairwiseConfig(), logits, labels).total, outputs["sets"])[0]
    norms = sets[:, labels == 0].square().sum(dim=(0, 2)).sqrt()
    assert listed(found["sets"]) == pytest.approx(percentiles(norms.numpy()))
    assert found["head"].mean == pytest.approx(gradients_by_loss(logits, labels, LOSSES)["pairwise"].negatives.mean)
    assert not model.sets._forward_hooks


def test_a_layer_without_an_axis_of_rows_is_an_error():
    model, x, labels = world()
    with pytest.raises(ValueError, match=r"^the output of layer 'odd' has shape \(3, 2\), without an axis of 40 rows$"):
        layer_gradients(model(x), labels, BCEConfig(), {"odd": torch.zeros(3, 2)})


def test_a_batch_without_negatives_has_zeros():
    model, x, _ = world()
    with recorded_outputs({"head": model.head}) as outputs:
        logits = model(x)
    found = layer_gradients(logits, torch.ones(40, dtype=torch.float64), BCEConfig(), outputs)
    assert listed(found["head"]) == [0.0] * 4
