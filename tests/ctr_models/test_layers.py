import pytest
import torch
from torch import nn

from ctr_models.layers import (
    MLP,
    MLPConfig,
    TableBatchNorm,
    TableLayerNorm,
    TableLinear,
    TablePReLU,
    activate,
    use_batch_statistics,
    xavier,
)


def test_tables_of_a_linear_layer_equal_a_loop_over_linear_layers() -> None:
    layer = TableLinear(3, 4, 5).double()
    nn.init.normal_(layer.bias)
    inputs = torch.randn(3, 7, 4, dtype=torch.float64)
    expected = [nn.functional.linear(inputs[m], layer.weight[m].T, layer.bias[m]) for m in range(3)]
    torch.testing.assert_close(layer(inputs), torch.stack(expected), rtol=1e-12, atol=1e-12)


def test_linear_takes_any_number_of_axes() -> None:
    linear = TableLinear(3, 4, 2).double()
    nn.init.normal_(linear.bias)
    x = torch.randn(3, 5, 6, 4, dtype=torch.float64)
    expected = torch.stack([x[m] @ linear.weight[m] + linear.bias[m] for m in range(3)])
    torch.testing.assert_close(linear(x), expected)
    torch.testing.assert_close(linear(x[:, :, 0]), expected[:, :, 0])


def test_stacked_matrices_keep_the_variance_of_one() -> None:
    torch.manual_seed(0)
    for matrices in (xavier(741, inputs=10, outputs=10), xavier(4, inputs=10, outputs=740, parts=74)):
        torch.testing.assert_close(matrices.std(), torch.tensor((2 / (10 + 10)) ** 0.5), rtol=0.02, atol=0)


def test_layer_norm_is_torch_layer_norm_per_set() -> None:
    norm, x = TableLayerNorm(2, 1, 5), torch.randn(2, 3, 5)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    for m in range(2):
        expected = nn.functional.layer_norm(x[m], (5,), norm.weight[m, 0], norm.bias[m, 0])
        torch.testing.assert_close(norm(x)[m], expected)


def test_every_parameter_and_buffer_starts_with_the_sets() -> None:
    mlp = MLP(MLPConfig(widths=(6, 2), batch_norm=True, input_batch_norm=True), 3, 5)
    assert {len(value) for value in mlp.state_dict().values()} == {3}


def test_every_matrix_starts_xavier_normal_by_its_own_sizes() -> None:
    torch.manual_seed(0)
    stds = TableLinear(50, 60, 40).weight.std((1, 2))
    expected = torch.empty(60, 40)
    nn.init.xavier_normal_(expected)
    assert (stds - 0.02**0.5).abs().max() < 0.01  # sqrt(2 / (60 + 40)), where torch's rule gives .02 for 3 axes
    assert abs(float(expected.std()) - 0.02**0.5) < 0.01


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_of_sets_equals_one_norm_a_set(training: bool) -> None:
    torch.manual_seed(0)
    together, apart = TableBatchNorm(3, 4), [nn.BatchNorm1d(4) for _ in range(3)]
    inputs = torch.randn(3, 9, 4) * 2 + 1
    for _ in range(2):
        together(inputs), [norm(inputs[m]) for m, norm in enumerate(apart)]
    together.train(training)
    expected = torch.stack([norm.train(training)(inputs[m]) for m, norm in enumerate(apart)])
    torch.testing.assert_close(together(inputs), expected, rtol=0, atol=1e-6)


def test_mlp_of_sets_equals_torch_networks_in_value_and_gradient() -> None:
    torch.manual_seed(0)
    mlp = MLP(MLPConfig(widths=(6, 2), batch_norm=True, input_batch_norm=True), 2, 5).double()
    inputs = torch.randn(2, 8, 5, dtype=torch.float64, requires_grad=True)
    out = mlp(inputs)
    parts = []
    for m in range(2):
        x = nn.functional.batch_norm(inputs[m], None, None, training=True)
        for layer in mlp.layers:
            x = nn.functional.linear(x, layer.linear.weight[m].T, layer.linear.bias[m])
            x = nn.functional.batch_norm(x, None, None, training=True).relu()
        parts.append(x)
    expected = torch.stack(parts)
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    leaves = [inputs, *(layer.linear.weight for layer in mlp.layers)]
    found = torch.autograd.grad(out.square().sum(), leaves, retain_graph=True)
    for mine, theirs in zip(found, torch.autograd.grad(expected.square().sum(), leaves), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-8)


def test_an_mlp_without_hidden_layers_gives_its_inputs() -> None:
    mlp = MLP(MLPConfig(widths=()), 1, 3)
    inputs = torch.randn(1, 2, 3)
    assert mlp.width == 3
    assert torch.equal(mlp(inputs), inputs)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("relu", 0.0), ("gelu", -0.1587), ("silu", -0.2689), ("tanh", -0.7616), ("sigmoid", 0.2689), ("none", -1.0)],
)
def test_activations_at_minus_one(name, expected: float) -> None:
    assert activate(torch.tensor([-1.0]), name).item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": (4, 0)}, r"^widths must be at least 1 each, got \(4, 0\)$"),
        ({"widths": (4,), "dropout": 1.0}, r"^dropout must be in \[0, 1\), got 1.0$"),
        ({"widths": (4,), "input_dropout": -0.1}, r"^input_dropout must be in \[0, 1\), got -0.1$"),
    ],
)
def test_wrong_settings_are_named(settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MLPConfig(**settings)


def test_prelu_has_one_slope_a_set() -> None:
    prelu, x = TablePReLU(2).double(), torch.randn(2, 3, 4, 5, dtype=torch.float64)
    assert prelu.weight.tolist() == [0.25, 0.25]
    nn.init.normal_(prelu.weight)
    expected = torch.stack([torch.where(x[m] > 0, x[m], prelu.weight[m] * x[m]) for m in range(2)])
    torch.testing.assert_close(prelu(x), expected)


def test_each_hidden_layer_with_prelu_has_slopes_of_its_own() -> None:
    mlp = MLP(MLPConfig(widths=(4, 2), activation="prelu"), 3, 5).double()
    slopes = {name: value for name, value in mlp.named_parameters() if "prelu" in name}
    assert {name: tuple(value.shape) for name, value in slopes.items()} == {
        "layers.0.prelu.weight": (3,),
        "layers.1.prelu.weight": (3,),
    }
    x = torch.randn(3, 6, 5, dtype=torch.float64)
    (mlp(x).square().sum()).backward()
    assert all(value.grad is not None and (value.grad != 0).all() for value in slopes.values())


def test_evaluation_by_statistics_of_the_batch_gives_the_numbers_of_training_and_keeps_the_running_ones() -> None:
    mlp, x = MLP(MLPConfig(widths=(4, 2), batch_norm=True, input_batch_norm=True), 2, 5), torch.randn(2, 6, 5)
    trained = mlp.train()(x)
    mlp.eval()
    kept = {name: value.clone() for name, value in mlp.state_dict().items()}
    running = mlp(x)
    use_batch_statistics(mlp)
    torch.testing.assert_close(mlp(x), trained)
    assert all(torch.equal(value, kept[name]) for name, value in mlp.state_dict().items())
    use_batch_statistics(mlp, False)
    assert torch.equal(mlp(x), running)
    assert not torch.allclose(running, trained)
