"""Comparison of a module with a textbook loop, forward and gradient."""

import pytest
import torch


@pytest.fixture(name="build")
def fixture_build():
    """Builds a float64 module whose parameters leave their symmetric starting values."""

    def build(kind, *arguments):
        torch.manual_seed(0)
        module = kind(*arguments).double()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        return module

    return build


@pytest.fixture(name="agree")
def fixture_agree():
    """Checks a module against `reference`, which maps one set's number and one row's (fields, dim) to its result."""

    def agree(module, reference, shape):
        torch.manual_seed(1)
        fields = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
        out = module(fields)
        expected = torch.stack(
            [torch.stack([reference(number, row) for row in rows]) for number, rows in enumerate(fields)]
        )
        torch.testing.assert_close(out, expected)
        weights, leaves = torch.randn_like(out), [fields, *module.parameters()]
        found = torch.autograd.grad((out * weights).sum(), leaves)
        wanted = torch.autograd.grad((expected * weights).sum(), leaves)
        torch.testing.assert_close(found, wanted)

    return agree
