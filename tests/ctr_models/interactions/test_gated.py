"""Gated cross layers against a loop over coordinates, and how they start."""

import pytest
import torch

from ctr_models.interactions.gated import GatedCrossConfig, GatedCrossNet


@pytest.mark.parametrize("gate_bias", [False, True])
def test_layers_equal_the_loop(build, agree, gate_bias):
    module = build(GatedCrossNet, GatedCrossConfig(num_layers=2, gate_bias=gate_bias), 2, 3, 2)

    def reference(number, row):
        start = x = row.flatten()
        for layer in module.layers:
            cross, gate = layer.project.weight[number].split(6, dim=1)
            following = []
            for k in range(6):
                logit = (x * gate[:, k]).sum() + (layer.gate_bias[number, 0, k] if gate_bias else 0)
                crossed = (x * cross[:, k]).sum() + layer.bias[number, 0, k]
                following.append(start[k] * crossed / (1 + (-logit).exp()) + x[k])
            x = torch.stack(following)
        return x

    agree(module, reference, (2, 3, 3, 2))


def test_biases_start_at_zero_or_as_released():
    torch.manual_seed(0)
    assert GatedCrossNet(GatedCrossConfig(), 2, 5, 4).layers[0].bias.eq(0).all()
    bias = GatedCrossNet(GatedCrossConfig(initial_bias="uniform"), 2, 100, 10).layers[0].bias.detach()
    assert 0 <= bias.min() < 0.01
    assert 0.99 < bias.max() <= 1
    torch.testing.assert_close(bias.mean(), torch.tensor(0.5), atol=0.03, rtol=0)


def test_parameters_are_two_matrices_and_a_bias_a_layer():
    module = GatedCrossNet(GatedCrossConfig(num_layers=3), 1, 39, 10)
    assert sum(parameter.numel() for parameter in module.parameters()) == 3 * (2 * 390**2 + 390)


def test_layers_are_checked():
    with pytest.raises(ValueError, match="num_layers must be at least 1, got 0"):
        GatedCrossConfig(num_layers=0)
