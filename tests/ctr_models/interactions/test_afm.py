"""AFM against a loop over pairs, and its chunks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr_models.interactions import afm
from ctr_models.interactions.afm import AFM, AFMConfig


def test_pooling_equals_the_loop_over_pairs(build, agree):
    module = build(AFM, AFMConfig(attention_dim=3), 2, 4, 5)

    def reference(number, row):
        products = [row[i] * row[j] for i in range(4) for j in range(i + 1, 4)]
        weight, bias, query = (p[number] for p in (module.hidden.weight, module.hidden.bias, module.query.weight))
        scores = torch.stack([(query[:, 0] * torch.clamp(p @ weight + bias, min=0)).sum() for p in products])
        weights = scores.exp() / scores.exp().sum()
        return sum(weight * product for weight, product in zip(weights, products, strict=True))

    agree(module, reference, (2, 3, 4, 5))


def test_chunks_change_neither_values_nor_gradients(build, monkeypatch):
    module, leaves = build(AFM, AFMConfig(), 2, 6, 4), []
    fields = torch.randn(2, 11, 6, 4, dtype=torch.float64, requires_grad=True)
    for large in (1 << 24, 700):
        monkeypatch.setattr(afm, "LARGE", large)
        out = module(fields)
        leaves.append((out, *torch.autograd.grad(out.square().sum(), [fields, *module.parameters()])))
    torch.testing.assert_close(leaves[0], leaves[1])


def test_chunks_keep_products_out_of_the_saved_graph(build, monkeypatch):
    module, saved = build(AFM, AFMConfig(), 1, 6, 4), []
    fields = torch.randn(1, 8, 6, 4, dtype=torch.float64, requires_grad=True)
    for large in (1 << 24, 64):
        monkeypatch.setattr(afm, "LARGE", large)
        saved.append(0)

        def count(tensor):
            saved[-1] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            module(fields)
    assert saved[0] > 8 * 15 * 4
    assert saved[1] <= fields.numel()


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(5)))
def test_the_order_of_fields_does_not_matter(order):
    torch.manual_seed(0)
    module, fields = AFM(AFMConfig(), 2, 5, 6).double(), torch.randn(2, 3, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(module(fields[:, :, order]), module(fields))


def test_equal_weights_give_the_mean_of_all_products():
    module = AFM(AFMConfig(), 1, 3, 2)
    with torch.no_grad():
        module.query.weight.zero_()
    fields = torch.tensor([[[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]]])
    # means of the products 3, 5, 15 and 8, 12, 24
    torch.testing.assert_close(module(fields), torch.tensor([[[23 / 3, 44 / 3]]]))


def test_refusals():
    with pytest.raises(ValueError, match="AFM needs at least 2 fields to pair, got 1"):
        AFM(AFMConfig(), 1, 1, 4)
    with pytest.raises(ValueError, match="attention_dim must be at least 1, got 0"):
        AFMConfig(attention_dim=0)
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got -0.1"):
        AFMConfig(dropout=-0.1)
