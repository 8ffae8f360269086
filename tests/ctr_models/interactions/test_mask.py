"""MaskNet against a loop over blocks."""

import pytest
import torch

from ctr_models.interactions.mask import MaskNet, MaskNetConfig


def normalised(values, norm, place):
    centred = values - values.mean()
    return centred / (centred.square().mean() + 1e-5).sqrt() * norm.weight[place] + norm.bias[place]


@pytest.mark.parametrize(
    "config",
    [
        MaskNetConfig(hidden=(5, 4)),
        MaskNetConfig(hidden=(5,), num_blocks=3, ratio=0.5),
        MaskNetConfig(hidden=(4, 3), num_blocks=2, ratio=2.0, field_norm=False, layer_norm=False),
    ],
)
def test_network_equals_the_loop_over_blocks(build, agree, config):
    module = build(MaskNet, config, 2, 3, 2)

    def reference(number, row):
        raw = row.flatten()
        if config.field_norm:
            row = torch.stack([normalised(row[i], module.norm, (number, 0, i)) for i in range(3)])
        hidden = row.flatten()
        for layer in [module.first, *module.rest]:
            results = []
            inner_size = layer.down.weight.shape[2] // layer.blocks
            for block in range(layer.blocks):
                columns = slice(block * inner_size, (block + 1) * inner_size)
                inner = raw @ layer.down.weight[number][:, columns] + layer.down.bias[number, columns]
                mask = torch.clamp(inner, min=0) @ layer.up[number, block] + layer.up_bias[number, 0, block]
                out = (mask * hidden) @ layer.weight[number, block]
                out = normalised(out, layer.norm, (number, 0, block)) if config.layer_norm else out
                results.append(torch.clamp(out, min=0))
            hidden = torch.cat(results)
        return hidden

    agree(module, reference, (2, 3, 3, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": ()}, "hidden must hold at least one size, each at least 1, got ()"),
        ({"num_blocks": 0}, "num_blocks must be at least 1, got 0"),
        ({"ratio": 0.0}, "ratio must be above 0, got 0.0"),
        ({"dropout": 1.0}, "dropout must be in [0, 1), got 1.0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError) as refusal:
        MaskNetConfig(**options)
    assert str(refusal.value) == message
