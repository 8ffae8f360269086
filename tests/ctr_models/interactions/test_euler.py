"""EulerNet against complex powers, its identities, and its stability."""

import cmath

import pytest
import torch

from ctr_models.interactions.euler import EulerLayer, EulerNet, EulerNetConfig, to_polar


def normalised(values, weight, bias):
    centred = values - values.mean()
    return centred / (centred.square().mean() + 1e-5).sqrt() * weight + bias


def textbook(layer, number, real, imaginary):
    """Section 3.2 for one row: lists of (dim,) real and imaginary parts, one a field."""
    flat = [torch.cat(list(part)) for part in (real, imaginary)]
    weight, bias = layer.implicit.weight[number], layer.implicit.bias[number]
    implicit = [torch.clamp(part @ weight + bias, min=0).view(-1, real.shape[1]) for part in flat]
    results = [[], []]
    for k in range(layer.orders.shape[2]):
        modulus, angle = layer.shift[number, 0, 0, k], layer.shift[number, 1, 0, k]
        for j in range(len(real)):
            modulus = modulus + layer.orders[number, j, k] * 0.5 * torch.log(real[j] ** 2 + imaginary[j] ** 2 + 1e-8)
            angle = angle + layer.orders[number, j, k] * torch.atan2(imaginary[j], real[j])
        explicit = (modulus.exp() * angle.cos(), modulus.exp() * angle.sin())
        for part in (0, 1):
            out = implicit[part][k] + explicit[part]
            if layer.norm is not None:
                out = normalised(out, layer.norm.weight[number, part, 0, 0], layer.norm.bias[number, part, 0, 0])
            results[part].append(out)
    return torch.stack(results[0]), torch.stack(results[1])


@pytest.mark.parametrize(
    "config",
    [
        EulerNetConfig(num_orders=(3,), initial_orders="uniform"),
        EulerNetConfig(num_orders=(4, 2), layer_norm=False, scale=0.25, output="concat"),
    ],
)
def test_layers_equal_the_loop(build, agree, config):
    module = build(EulerNet, config, 2, 4, 3)

    def reference(number, row):
        modulus = module.modulus[number, 0, :, 0] * config.scale
        real = torch.stack([modulus[i] * row[i].cos() for i in range(4)])
        imaginary = torch.stack([modulus[i] * row[i].sin() for i in range(4)])
        for layer in module.layers:
            real, imaginary = textbook(layer, number, real, imaginary)
        if config.output == "sum":
            return (real + imaginary).flatten()
        return torch.cat([real.flatten(), imaginary.flatten()])

    agree(module, reference, (2, 3, 4, 3))


def test_explicit_part_is_a_product_of_complex_powers():
    layer = EulerLayer(EulerNetConfig(layer_norm=False), 1, 2, 1, 1).double()
    with torch.no_grad():
        layer.orders.copy_(torch.tensor([[[1.5], [-0.5]]]))
        layer.shift.copy_(torch.tensor([0.3, 0.7]).view(1, 2, 1, 1, 1))
    first, second = complex(0.8, 0.4), complex(1.2, -0.5)
    parts = torch.tensor([[first.real, second.real], [first.imag, second.imag]], dtype=torch.float64)
    expected = first**1.5 * second**-0.5 * cmath.exp(complex(0.3, 0.7))
    found = layer.explicit(parts.view(1, 2, 1, 2, 1)).flatten()
    torch.testing.assert_close(found, torch.tensor([expected.real, expected.imag], dtype=torch.float64))


def test_identity_orders_return_the_fields():
    layer = EulerLayer(EulerNetConfig(layer_norm=False), 2, 4, 4, 3).double()
    with torch.no_grad():
        layer.shift.zero_()
    parts = torch.randn(2, 2, 5, 4, 3, dtype=torch.float64)
    torch.testing.assert_close(layer.explicit(parts), parts, atol=1e-7, rtol=1e-6)


def test_released_orders_choose_about_one_field_each():
    torch.manual_seed(0)
    orders = EulerLayer(EulerNetConfig(), 3, 10, 6, 4).orders
    torch.testing.assert_close(orders.sum(1), torch.ones(3, 6))
    assert (orders.max(1).values > 0.9).float().mean() > 0.8
    assert torch.equal(EulerLayer(EulerNetConfig(), 2, 4, 4, 3).orders[1], torch.eye(4))
    assert EulerLayer(EulerNetConfig(initial_orders="uniform"), 1, 4, 4, 3).orders.eq(0.25).all()


def test_numbers_at_zero_have_finite_values_and_no_gradient():
    parts = torch.zeros(1, 2, 3, dtype=torch.float64, requires_grad=True)
    polar = to_polar(parts)
    polar.sum().backward()
    assert torch.equal(parts.grad, torch.zeros_like(parts))
    torch.testing.assert_close(polar[0, 0], torch.full((3,), -9.210340371976184, dtype=torch.float64))  # log(1e-8) / 2
    assert torch.equal(polar[0, 1], torch.zeros(3, dtype=torch.float64))


def test_dropout_falls_on_either_part():
    fields = torch.randn(1, 3, 4, 3)
    for option in ("explicit_dropout", "implicit_dropout"):
        module = EulerNet(EulerNetConfig(**{option: 0.5}), 1, 4, 3)
        assert not torch.equal(module(fields), module(fields))
        module.eval()
        assert torch.equal(module(fields), module(fields))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_orders": ()}, "num_orders must hold at least one size, each at least 1, got ()"),
        ({"num_orders": (3, 0)}, "num_orders must hold at least one size, each at least 1, got (3, 0)"),
        ({"explicit_dropout": 1.5}, "explicit_dropout must be in [0, 1), got 1.5"),
        ({"implicit_dropout": -1.0}, "implicit_dropout must be in [0, 1), got -1.0"),
        ({"scale": 0.0}, "scale must be above 0, got 0.0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError) as refusal:
        EulerNetConfig(**options)
    assert str(refusal.value) == message
