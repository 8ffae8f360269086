"""Losses of domains and tasks beside hand values."""

import math

import pytest
import torch
from torch.nn import functional as F

from ctr_models.domains.losses import domain_mean_bce, task_bce

LOGITS = torch.tensor([0.0, 2.0, -1.0, 0.5, 3.0], dtype=torch.float64)
LABELS = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0], dtype=torch.float64)
DOMAINS = torch.tensor([0, 0, 2, 0, 2])


def by_loop(logits, labels, domains, num_domains):
    total = logits.new_zeros(())
    for domain in range(num_domains):
        rows = domains == domain
        if rows.any():
            total = total + F.binary_cross_entropy_with_logits(logits[rows], labels[rows])
    return total


def test_the_hand_value():
    first = (math.log(2) + math.log(1 + math.exp(2)) + math.log(1 + math.exp(-0.5))) / 3
    last = (math.log(1 + math.exp(1)) + math.log(1 + math.exp(3))) / 2
    assert float(domain_mean_bce(LOGITS, LABELS, DOMAINS, 3)) == pytest.approx(first + last, abs=1e-12)


def test_it_equals_the_loop_over_domains_forward_and_backward():
    logits = LOGITS.clone().requires_grad_()
    found, wanted = domain_mean_bce(logits, LABELS, DOMAINS, 4), by_loop(logits, LABELS, DOMAINS, 4)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(torch.autograd.grad(found, logits), torch.autograd.grad(wanted, logits))


def test_an_absent_domain_adds_exactly_nothing():
    logits = LOGITS.clone().requires_grad_()
    loss = domain_mean_bce(logits, LABELS, DOMAINS, 30)
    assert torch.equal(loss, domain_mean_bce(logits, LABELS, DOMAINS, 3))
    assert torch.isfinite(torch.autograd.grad(loss, logits)[0]).all()


def test_rows_given_twice_leave_the_loss_as_it_is():
    twice = torch.cat([torch.arange(5), torch.tensor([2, 4])])
    torch.testing.assert_close(
        domain_mean_bce(LOGITS[twice], LABELS[twice], DOMAINS[twice], 3), domain_mean_bce(LOGITS, LABELS, DOMAINS, 3)
    )


def test_positives_are_weighted():
    weighted = domain_mean_bce(LOGITS, LABELS, DOMAINS, 3, pos_weight=3.0)
    plain = domain_mean_bce(LOGITS, LABELS, DOMAINS, 3)
    positives = (math.log(2) + math.log(1 + math.exp(-0.5))) / 3 + math.log(1 + math.exp(1)) / 2
    assert float(weighted - plain) == pytest.approx(2 * positives, abs=1e-12)


def test_no_rows_give_zero():
    empty = torch.zeros(0, requires_grad=True)
    loss = domain_mean_bce(empty, torch.zeros(0), torch.zeros(0, dtype=torch.int64), 3)
    assert loss.detach() == 0
    assert torch.equal(task_bce(torch.zeros(0, 2), torch.zeros(0, 2)), torch.zeros(()))


def test_tasks_are_summed_with_their_weights():
    logits, labels = LOGITS[:4].view(2, 2), LABELS[:4].view(2, 2)
    each = [F.binary_cross_entropy_with_logits(logits[:, t], labels[:, t]) for t in range(2)]
    torch.testing.assert_close(task_bce(logits, labels), each[0] + each[1])
    weights = torch.tensor([0.5, 2.0], dtype=torch.float64)
    torch.testing.assert_close(task_bce(logits, labels, weights), 0.5 * each[0] + 2 * each[1])
