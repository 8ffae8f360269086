"""SENet against a loop over fields."""

import pytest
import torch

from ctr_models.interactions.senet import SENet, SENetConfig


@pytest.mark.parametrize("squeeze", ["mean", "max"])
@pytest.mark.parametrize("excitation", ["relu", "sigmoid"])
def test_weights_equal_the_loop(build, agree, squeeze, excitation):
    module = build(SENet, SENetConfig(squeeze=squeeze, reduction=2, excitation=excitation), 2, 5, 3)

    def reference(number, row):
        squeezed = torch.stack([vector.mean() if squeeze == "mean" else vector.max() for vector in row])
        hidden = torch.clamp(squeezed @ module.down.weight[number], min=0)
        logits = hidden @ module.up.weight[number]
        weights = torch.clamp(logits, min=0) if excitation == "relu" else 1 / (1 + (-logits).exp())
        return torch.stack([weight * vector for weight, vector in zip(weights, row, strict=True)])

    agree(module, reference, (2, 4, 5, 3))


@pytest.mark.parametrize(("reduction", "reduced"), [(1, 39), (3, 13), (4, 9), (100, 1)])
def test_bottleneck_has_the_published_size(reduction, reduced):
    module = SENet(SENetConfig(reduction=reduction), 1, 39, 4)
    assert module.down.weight.shape == (1, 39, reduced)
    assert sum(parameter.numel() for parameter in module.parameters()) == 2 * 39 * reduced


def test_reduction_is_checked():
    with pytest.raises(ValueError, match="reduction must be at least 1, got 0"):
        SENetConfig(reduction=0)
