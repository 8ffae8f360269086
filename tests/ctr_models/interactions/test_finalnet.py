"""FinalNet against loops, its degree, its two blocks."""

import pytest
import torch

from ctr_models.interactions.finalnet import FinalBlock, FinalBlockConfig, FinalNet, FinalNetConfig


def textbook(block, config, number, row):
    if config.gate:
        gates = [block.gate.weight[number, i] @ row + block.gate.bias[number, 0, i] for i in range(len(row))]
        row = torch.cat([row, torch.stack([gate * vector for gate, vector in zip(gates, row, strict=True)])])
    x = row.flatten()
    for layer, size in zip(list(block.layers)[::2], config.hidden, strict=True):
        both = x @ layer.project.weight[number] + layer.project.bias[number]
        cut = size // 2 if config.residual == "concat" else size
        linear, factor = both[:cut], both[cut:]
        x = torch.cat([linear, linear * factor]) if config.residual == "concat" else linear + linear * factor
    return x


@pytest.mark.parametrize(
    "config", [FinalBlockConfig(hidden=(6, 4)), FinalBlockConfig(hidden=(5, 3), residual="sum", gate=True)]
)
def test_block_equals_the_loop(build, agree, config):
    module = build(FinalBlock, config, 2, 4, 3)
    agree(module, lambda number, row: textbook(module, config, number, row), (2, 3, 4, 3))


def test_two_blocks_stand_side_by_side(build, agree):
    config = FinalNetConfig(
        first=FinalBlockConfig(hidden=(4,), gate=True), second=FinalBlockConfig(hidden=(5, 3), residual="sum")
    )
    module = build(FinalNet, config, 2, 4, 3)
    assert (module.split, module.width) == (4, 7)

    def reference(number, row):
        blocks = (module.first, config.first), (module.second, config.second)
        return torch.cat([textbook(block, part, number, row) for block, part in blocks])

    agree(module, reference, (2, 3, 4, 3))


def test_degree_doubles_with_every_layer():
    torch.manual_seed(0)
    config = FinalBlockConfig(hidden=(8, 8, 8), residual="concat")
    block = FinalBlock(config, 1, 3, 2).double()
    direction = torch.randn(1, 1, 3, 2, dtype=torch.float64)
    scales = torch.arange(12, dtype=torch.float64)
    values = block((direction * scales.view(1, -1, 1, 1)) / 12)[0, :, -1].detach()
    for degree, vanishes in ((7, False), (8, True)):
        differences = values.clone()
        for _ in range(degree + 1):
            differences = differences.diff()
        assert (differences.abs().max() < 1e-9 * values.abs().max()) == vanishes


def test_fresh_gate_shows_the_fields_twice(build):
    module = FinalBlock(FinalBlockConfig(hidden=(4,), gate=True), 2, 3, 2)
    fields = torch.randn(2, 5, 3, 2)
    assert torch.equal(module.gate(fields), torch.cat([fields, fields], dim=2))


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="hidden must hold even sizes when residual is 'concat', got \\(6, 5\\)"):
        FinalBlockConfig(hidden=(6, 5))
    with pytest.raises(ValueError, match="hidden must hold at least one size, each at least 1, got \\(\\)"):
        FinalBlockConfig(hidden=())
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 2.0"):
        FinalBlockConfig(dropout=2.0)
