"""EDCN against a loop over layers and fields."""

import pytest
import torch

from ctr_models.interactions.edcn import EDCN, EDCNConfig


def attend(network, number, x):
    hidden = torch.clamp(x @ network.hidden.weight[number] + network.hidden.bias[number], min=0)
    logits = hidden @ network.logits.weight[number]
    return logits.exp() / logits.exp().sum() * x


def meet(module, number, cross, deep):
    if module.bridge == "product":
        return cross * deep
    if module.bridge == "sum":
        return cross + deep
    if module.bridge == "concat":
        joined = torch.cat([cross, deep]) @ module.joint.weight[number] + module.joint.bias[number]
        return torch.clamp(joined, min=0)
    return attend(module.cross, number, cross) + attend(module.deep, number, deep)


@pytest.mark.parametrize("bridge", ["product", "sum", "concat", "attention"])
@pytest.mark.parametrize("residual", [True, False])
def test_network_equals_the_loop(build, agree, bridge, residual):
    module = build(EDCN, EDCNConfig(num_layers=2, bridge=bridge, temperature=0.5, residual=residual), 2, 3, 2)

    def reference(number, row):
        middle, start = row, None
        for layer in range(2):
            shared = []
            for branch in (0, 1):
                weights = (module.regulations[layer].logits[number, branch, 0] / 0.5).exp()
                shared.append(torch.cat([weights[i] / weights.sum() * middle.view(3, 2)[i] for i in range(3)]))
            cross, deep = shared
            start = cross if start is None else start
            crossing = module.crosses[layer]
            crossed = start * (cross * crossing.weight.weight[number, :, 0]).sum() + crossing.bias[number, 0]
            cross = crossed + cross if residual else crossed
            linear = module.deeps[layer]
            deep = torch.clamp(deep @ linear.weight[number] + linear.bias[number], min=0)
            middle = meet(module.bridges[layer], number, cross, deep)
        return torch.cat([cross, deep, middle])

    agree(module, reference, (2, 3, 3, 2))


def test_regulation_starts_uniform():
    module = EDCN(EDCNConfig(), 2, 4, 3)
    fields = torch.randn(2, 5, 12)
    cross, deep = module.regulations[0](fields)
    torch.testing.assert_close(cross, fields / 4)
    torch.testing.assert_close(deep, fields / 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"dropout": 1.0}, "dropout must be in [0, 1), got 1.0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError) as refusal:
        EDCNConfig(**options)
    assert str(refusal.value) == message
