import pytest
import torch

from ctr_models.dropout import Dropout


def test_share_mean_and_scale_are_those_of_dropout():
    torch.manual_seed(0)
    kept = Dropout(0.3)(torch.ones(1000, 333))
    assert (kept == 0).float().mean().item() == pytest.approx(0.3, abs=0.003)
    assert kept.mean().item() == pytest.approx(1, abs=0.005)
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.7], abs=1e-4)


def test_neighbours_that_share_a_draw_are_dropped_independently():
    torch.manual_seed(0)
    dropped = (Dropout(0.5)(torch.ones(100_000, 4)) == 0).double()
    correlation = torch.corrcoef(dropped.T) - torch.eye(4)
    assert correlation.abs().max() < 0.015


def test_gradient_flows_where_values_were_kept():
    torch.manual_seed(0)
    values = torch.ones(7, requires_grad=True)
    out = Dropout(0.5)(values)
    out.sum().backward()
    assert torch.equal(values.grad, out.detach())


def test_evaluation_and_zero_change_nothing():
    values = torch.randn(3, 5)
    assert Dropout(0.5).eval()(values) is values
    assert Dropout(0.0)(values) is values


def test_the_global_seed_decides():
    def drawn(seed):
        torch.manual_seed(seed)
        return Dropout(0.5)(torch.ones(100))

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_p_out_of_range_is_named():
    with pytest.raises(ValueError, match=r"dropout must lie in 0..1 \(1 excluded\), got 1.0"):
        Dropout(1.0)
