"""Linear maps and norms per embedding set."""

import torch

from ctr_models.layers import SetMLP, TableBatchNorm, TableLayerNorm, TableLinear, xavier


def test_linear_takes_any_number_of_axes():
    linear = TableLinear(3, 4, 2).double()
    torch.nn.init.normal_(linear.bias)
    x = torch.randn(3, 5, 6, 4, dtype=torch.float64)
    expected = torch.stack([x[m] @ linear.weight[m] + linear.bias[m, 0] for m in range(3)])
    torch.testing.assert_close(linear(x), expected)
    torch.testing.assert_close(linear(x[:, :, 0]), expected[:, :, 0])


def test_stacked_matrices_keep_the_variance_of_one():
    torch.manual_seed(0)
    bound = (6 / (10 + 10)) ** 0.5
    for matrices in (xavier(741, inputs=10, outputs=10), xavier(4, inputs=10, outputs=740, parts=74)):
        assert matrices.abs().max() <= bound
        torch.testing.assert_close(matrices.std(), torch.tensor(bound / 3**0.5), rtol=0.02, atol=0)


def test_layer_norm_is_torch_layer_norm_per_set():
    norm, x = TableLayerNorm(2, 1, 5), torch.randn(2, 3, 5)
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    for m in range(2):
        expected = torch.nn.functional.layer_norm(x[m], (5,), norm.weight[m, 0], norm.bias[m, 0])
        torch.testing.assert_close(norm(x)[m], expected)


def test_batch_norm_is_torch_batch_norm_per_set():
    norm = TableBatchNorm(2, 3)
    torch.manual_seed(0)
    single = [torch.nn.BatchNorm1d(3) for _ in range(2)]
    for _ in range(3):
        x = torch.randn(2, 7, 3) * 3 + 1
        torch.testing.assert_close(norm(x), torch.stack([single[m](x[m]) for m in range(2)]))
    norm.eval()
    torch.testing.assert_close(norm(x), torch.stack([single[m].eval()(x[m]) for m in range(2)]))


def test_mlp_ends_with_a_relu_or_without():
    torch.manual_seed(0)
    x = torch.randn(2, 50, 4)
    assert SetMLP(2, 4, (6, 3))(x).min() == 0
    assert SetMLP(2, 4, (6, 3), last_relu=False)(x).min() < 0
    names = [type(layer).__name__ for layer in SetMLP(2, 4, (6, 3), batch_norm=True, last_relu=False).layers]
    assert names == ["TableLinear", "TableBatchNorm", "ReLU", "Dropout", "TableLinear"]
