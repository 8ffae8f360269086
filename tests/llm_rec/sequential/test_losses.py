import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llm_rec.sequential import losses

SIGMOID = torch.sigmoid


def logits(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()


def agree(ours, naive, inputs):
    """Same value and same gradients."""
    assert ours.item() == pytest.approx(naive.item(), abs=1e-12)
    for one, other in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(naive, inputs), strict=True):
        assert torch.allclose(one, other, atol=1e-12)


def mean(terms):
    return sum(terms) / len(terms)


def test_bce_is_the_sum_of_two_means():
    positive, negative = logits(5), logits(5, 3, seed=1)
    naive = mean([-SIGMOID(s).log() for s in positive]) + mean([-(1 - SIGMOID(s)).log() for s in negative.flatten()])
    agree(losses.bce(positive, negative), naive, [positive, negative])


def test_gbce_equals_the_published_sum():
    positive, negative = logits(4), logits(4, 3, seed=1)
    rate, t = 3 / 10, 0.75
    beta = rate * (t * (1 - 1 / rate) + 1 / rate)
    terms = [
        -((SIGMOID(s) ** beta).log() + sum((1 - SIGMOID(n)).log() for n in row)) / 4
        for s, row in zip(positive, negative, strict=True)
    ]
    agree(losses.gbce(positive, negative, num_items=11, t=t), mean(terms), [positive, negative])
    assert losses.gbce_beta(3, num_items=11, t=t) == pytest.approx(beta)


def test_gbce_without_calibration_is_plain_bce_over_all_logits():
    positive, negative = logits(4), logits(4, 3, seed=1)
    plain = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.cat([positive[:, None], negative], 1), torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64).expand(4, 4)
    )
    agree(losses.gbce(positive, negative, num_items=100, t=0.0), plain, [positive, negative])


def test_sampled_softmax_equals_a_loop_with_corrections_and_hits():
    positive, negative = logits(4), logits(4, 3, seed=1)
    pos_q, neg_q = logits(4, seed=2).detach() - 3, logits(3, seed=3).detach() - 3
    hits = torch.tensor([[0, 1, 0], [0, 0, 0], [1, 1, 0], [0, 0, 0]], dtype=torch.bool)
    terms = []
    for row in range(4):
        top = (positive[row] - pos_q[row]).exp()
        rest = sum((negative[row, k] - neg_q[k]).exp() for k in range(3) if not hits[row, k])
        terms.append(-(top / (top + rest)).log())
    ours = losses.sampled_softmax(positive, negative, pos_log_q=pos_q, neg_log_q=neg_q, hits=hits)
    agree(ours, mean(terms), [positive, negative])


def test_a_row_whose_negatives_are_all_hits_costs_nothing_and_has_no_gradient():
    positive, negative = logits(2), logits(2, 2, seed=1)
    hits = torch.tensor([[True, True], [False, False]])
    loss = losses.sampled_softmax(positive, negative, hits=hits)
    gradient = torch.autograd.grad(loss, [positive, negative])
    assert gradient[0][0] == 0
    assert (gradient[1][0] == 0).all()
    assert loss.item() == pytest.approx(losses.sampled_softmax(positive[1:], negative[1:]).item() / 2)


def test_uniform_correction_of_both_sides_changes_nothing():
    positive, negative = logits(4), logits(4, 3, seed=1)
    q = torch.full((4,), -math.log(50), dtype=torch.float64)
    both = losses.sampled_softmax(positive, negative, pos_log_q=q, neg_log_q=q[:3])
    agree(both, losses.sampled_softmax(positive, negative), [positive, negative])


def test_correcting_every_item_drawn_in_proportion_recovers_the_full_softmax():
    """Item i drawn exactly k q_i times: the corrected sum over draws is the sum over the catalog."""
    scores, q = logits(3), torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    drawn = torch.tensor([0, 0, 1, 2])
    estimate = (scores[drawn] - q[drawn].log() - math.log(4)).exp().sum()
    assert estimate.item() == pytest.approx(scores.exp().sum().item())
    positive = logits(1, seed=4)
    loss = losses.sampled_softmax(positive, scores[drawn][None], neg_log_q=(q[drawn].log() + math.log(4)))
    naive = -(positive.exp() / (positive.exp() + scores.exp().sum())).log().squeeze()
    agree(loss, naive, [positive, scores])


@pytest.mark.parametrize("max_logits", [1, 7, 20, 10_000])
@pytest.mark.parametrize("corrected", [False, True])
def test_shared_softmax_equals_sampled_softmax_of_the_products(max_logits, corrected):
    """The id of the third and the fifth target is that of every negative of one draw, which leaves them none."""
    states, vectors, positive = logits(5, 4), logits(3, 4, seed=1), logits(5, seed=2)
    targets, drawn = torch.tensor([2, 9, 4, 6, 4]), torch.tensor([4, 4, 4])
    for ids in (drawn, torch.tensor([9, 4, 9])):
        q = {"pos_log_q": logits(5, seed=3).detach(), "neg_log_q": logits(3, seed=4).detach()} if corrected else {}
        hits = ids == targets[:, None]
        plain = losses.sampled_softmax(positive, states @ vectors.T, hits=hits, **q)
        ours = losses.shared_softmax(
            states, positive, vectors, target_ids=targets, negative_ids=ids, max_logits=max_logits, **q
        )
        agree(3 * ours, 3 * plain, [states, positive, vectors])


def test_shared_softmax_without_ids_keeps_every_negative_and_needs_no_gradients():
    states, vectors, positive = logits(5, 4), logits(3, 4, seed=1), logits(5, seed=2)
    plain = losses.sampled_softmax(positive, states @ vectors.T)
    agree(losses.shared_softmax(states, positive, vectors), plain, [states, positive, vectors])
    alone = losses.shared_softmax(states.detach(), positive.detach(), vectors.detach())
    assert alone.item() == pytest.approx(plain.item(), abs=1e-12)


@pytest.mark.parametrize("max_logits", [1, 9, 25, 10_000])
def test_chunked_cross_entropy_equals_the_plain_one_for_any_chunk(max_logits):
    states, items = logits(7, 4), logits(9, 4, seed=1)
    targets = torch.tensor([1, 8, 3, 3, 2, 5, 1])
    plain = torch.nn.functional.cross_entropy((states @ items.T)[:, 1:], targets - 1)
    agree(losses.cross_entropy(states, items, targets, max_logits=max_logits), plain, [states, items])


def test_chunked_cross_entropy_scales_its_gradient_with_the_loss():
    states, items, targets = logits(3, 4), logits(5, 4, seed=1), torch.tensor([1, 4, 2])
    one = torch.autograd.grad(losses.cross_entropy(states, items, targets), [states, items])
    three = torch.autograd.grad(3 * losses.cross_entropy(states, items, targets), [states, items])
    assert all(torch.allclose(3 * a, b) for a, b in zip(one, three, strict=True))


def test_chunked_cross_entropy_without_gradients():
    states, items, targets = logits(3, 4).detach(), logits(5, 4, seed=1).detach(), torch.tensor([1, 4, 2])
    plain = torch.nn.functional.cross_entropy((states @ items.T)[:, 1:], targets - 1)
    assert losses.cross_entropy(states, items, targets).item() == pytest.approx(plain.item())


class LargestTensor(TorchDispatchMode):
    """Remembers the largest tensor any operation returned."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


def test_shared_softmax_never_holds_more_logits_than_allowed():
    states, vectors, positive = logits(200, 4), logits(100, 4, seed=1), logits(200, seed=2)
    with LargestTensor() as largest:
        losses.shared_softmax(states, positive, vectors, max_logits=1000).backward()
    assert largest.numel == 1000
    with LargestTensor() as plain:
        losses.sampled_softmax(positive, states @ vectors.T).backward()
    assert plain.numel == 20_000


def test_chunked_cross_entropy_never_holds_more_logits_than_allowed():
    states, items = logits(200, 4), logits(100, 4, seed=1)
    targets = torch.arange(200) % 99 + 1
    with LargestTensor() as largest:
        losses.cross_entropy(states, items, targets, max_logits=1000).backward()
    assert largest.numel == 1000
    with LargestTensor() as plain:
        torch.nn.functional.cross_entropy(states @ items.T, targets).backward()
    assert plain.numel == 20_000
