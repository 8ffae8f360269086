"""DCN-Mix against a loop over experts."""

import pytest
import torch

from ctr_models.interactions.mixture import CrossNetMix, CrossNetMixConfig


@pytest.mark.parametrize("gate", ["softmax", "sigmoid"])
@pytest.mark.parametrize("activation", ["tanh", "identity"])
def test_layers_equal_the_loop_over_experts(build, agree, gate, activation):
    config = CrossNetMixConfig(num_layers=2, num_experts=3, rank=2, gate=gate, activation=activation)
    module = build(CrossNetMix, config, 2, 4, 3)
    act = torch.tanh if activation == "tanh" else lambda x: x

    def reference(number, row):
        start = x = row.flatten()
        for layer in module.layers:
            logits = x @ layer.gate.weight[number]
            gates = logits.exp() / logits.exp().sum() if gate == "softmax" else 1 / (1 + (-logits).exp())
            following = x
            for expert in range(3):
                down = layer.down.weight[number][:, 2 * expert : 2 * expert + 2]
                low = act(act(x @ down) @ layer.inner[number, expert])
                following = following + gates[expert] * start * (low @ layer.up[number, expert] + layer.bias[number, 0])
            x = following
        return x

    agree(module, reference, (2, 3, 4, 3))


def test_one_plain_expert_is_a_low_rank_cross_layer():
    config = CrossNetMixConfig(num_layers=1, num_experts=1, rank=3, activation="identity")
    module = CrossNetMix(config, 1, 4, 2).double()
    layer, fields = module.layers[0], torch.randn(1, 5, 4, 2, dtype=torch.float64)
    matrix = layer.down.weight[0] @ layer.inner[0, 0] @ layer.up[0, 0]
    x = fields.flatten(2)
    torch.testing.assert_close(module(fields), x * (x @ matrix) + x)


def test_parameters_are_the_promised_number():
    module = CrossNetMix(CrossNetMixConfig(num_layers=1, num_experts=4, rank=32), 1, 39, 10)
    assert sum(parameter.numel() for parameter in module.parameters()) == (2 * 390 * 32 + 32**2 + 390) * 4 + 390


@pytest.mark.parametrize("option", ["num_layers", "num_experts", "rank"])
def test_sizes_are_checked(option):
    with pytest.raises(ValueError, match=f"{option} must be at least 1, got 0"):
        CrossNetMixConfig(**{option: 0})
