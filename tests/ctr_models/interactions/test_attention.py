"""AutoInt against a loop over heads and fields, and its options."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr_models.interactions.attention import AutoInt, AutoIntConfig

SHAPE = (2, 3, 4, 6)


def textbook(layer, config, number, row):
    """Eqs. 5 to 8 of the paper for one row, field by field and head by head."""
    maps = layer.project.weight[number].split(config.attention_dim, dim=1)
    size = config.attention_dim // config.num_heads
    results = []
    for i in range(len(row)):
        heads = []
        for head in range(config.num_heads):
            query, key, value = (part[:, head * size : (head + 1) * size] for part in maps[:3])
            scores = torch.stack([(row[i] @ query) @ (row[j] @ key) for j in range(len(row))])
            scores = scores / size**0.5 if config.scale else scores
            weights = scores.exp() / scores.exp().sum()
            heads.append(sum(weights[j] * (row[j] @ value) for j in range(len(row))))
        out = torch.cat(heads)
        if len(maps) == 4:
            out = out + row[i] @ maps[3]
        elif config.residual == "identity":
            out = out + row[i]
        if layer.norm is not None:
            centred = out - out.mean()
            out = centred / (centred.square().mean() + 1e-5).sqrt()
            out = out * layer.norm.weight[number, 0, 0] + layer.norm.bias[number, 0, 0]
        results.append(torch.clamp(out, min=0))
    return torch.stack(results)


@pytest.mark.parametrize(
    "config",
    [
        AutoIntConfig(num_layers=2, attention_dim=8),
        AutoIntConfig(num_layers=2, num_heads=3, attention_dim=6, residual="identity", scale=True),
        AutoIntConfig(num_layers=2, attention_dim=4, residual="identity", layer_norm=True),
        AutoIntConfig(num_layers=1, num_heads=1, attention_dim=5, residual="none"),
    ],
)
def test_layers_equal_the_loop(build, agree, config):
    module = build(AutoInt, config, 2, 4, 6)

    def reference(number, row):
        for layer in module.layers:
            row = textbook(layer, config, number, row)
        return row.flatten()

    agree(module, reference, SHAPE)


def test_paper_defaults_project_every_residual():
    module = AutoInt(AutoIntConfig(), 1, 10, 16)
    assert module.width == 10 * 64
    assert sum(parameter.numel() for parameter in module.parameters()) == 4 * 64 * (16 + 64 + 64)


def test_identity_residual_projects_only_where_the_width_changes():
    module = AutoInt(AutoIntConfig(attention_dim=16, residual="identity"), 1, 10, 16)
    assert [layer.project.weight.shape[-1] for layer in module.layers] == [48, 48, 48]
    module = AutoInt(AutoIntConfig(attention_dim=32, residual="identity"), 1, 10, 16)
    assert [layer.project.weight.shape[-1] for layer in module.layers] == [128, 96, 96]


def test_plain_products_in_bfloat16_are_the_fused_kernel_up_to_rounding():
    torch.manual_seed(0)
    layer = AutoInt(AutoIntConfig(num_layers=1, scale=True), 2, 5, 6)
    fields = torch.randn(2, 8, 5, 6, requires_grad=True)
    exact = layer(fields)
    expected = torch.autograd.grad(exact.square().sum(), [fields, *layer.parameters()])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = layer(fields)
    found = torch.autograd.grad(rounded.float().square().sum(), [fields, *layer.parameters()])
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0.02, atol=0.02)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() < 0.02 * theirs.norm()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dropout_falls_in_training_alone(build, dtype):
    module = build(AutoInt, AutoIntConfig(attention_dim=4, dropout=0.5), 1, 4, 6).to(dtype)
    fields = torch.randn(1, 3, 4, 6, dtype=dtype)
    assert not torch.equal(module(fields), module(fields))
    module.eval()
    assert torch.equal(module(fields), module(fields))


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(5)))
def test_fields_in_another_order_give_results_in_that_order(order):
    torch.manual_seed(0)
    module = AutoInt(AutoIntConfig(attention_dim=4), 2, 5, 6).double()
    fields = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    expected = module(fields).unflatten(-1, (5, 4))[:, :, order].flatten(2)
    torch.testing.assert_close(module(fields[:, :, order]), expected)


def test_each_matrix_starts_by_its_own_fans():
    torch.manual_seed(0)
    weight = AutoInt(AutoIntConfig(num_layers=1, num_heads=2, attention_dim=64), 4, 3, 64).layers[0].project.weight
    for matrix in weight.detach().split(64, dim=-1):
        torch.testing.assert_close(matrix.std(), torch.tensor((2 / (64 + 64)) ** 0.5), rtol=0.03, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"num_heads": 0}, "num_heads must be at least 1, got 0"),
        ({"attention_dim": 0}, "attention_dim must be at least 1, got 0"),
        ({"num_heads": 3}, "attention_dim 64 cannot be shared by num_heads 3; choose a divisor"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AutoIntConfig(**options)
