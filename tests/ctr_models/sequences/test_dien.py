"""DIEN against textbook steps, the GRU of torch, and a loop over the terms of its loss."""

import pytest
import torch

from ctr_models.sequences.dien import DIEN, DIENConfig, GatedScan
from tests.ctr_models.sequences import textbook
from tests.ctr_models.sequences.histories import TABLES, WIDTH, agree, build, rows, sequence


def gru_states(scan, table, inputs, strengths):
    """Eqs. 2 to 5 and 15, 16 of the paper, one step after another."""
    inward, recurrent = (weight[table].split(WIDTH, 1) for weight in (scan.inward.weight, scan.recurrent))
    bias = scan.inward.bias[table].split(WIDTH)
    state, states = torch.zeros(WIDTH, dtype=torch.float64), []
    for given, strength in zip(inputs, strengths, strict=True):
        update = torch.sigmoid(given @ inward[0] + state @ recurrent[0] + bias[0])
        reset = torch.sigmoid(given @ inward[1] + state @ recurrent[1] + bias[1])
        new = torch.tanh(given @ inward[2] + reset * (state @ recurrent[2]) + bias[2])
        state = (1 - strength * update) * state + strength * update * new
        states.append(state)
    return states


def test_dien_equals_the_loop():
    module = build(DIEN, DIENConfig())

    def reference(table, target, events, row):
        if not len(events):
            return torch.zeros(1, WIDTH, dtype=torch.float64)
        interests = gru_states(module.extract, table, events, [1.0] * len(events))
        weights = textbook.softmax([h @ module.match.weight[table] @ target for h in interests])
        return gru_states(module.evolve, table, interests, weights)[-1].unsqueeze(0)

    agree(module, reference)


def test_strength_one_is_the_gru_of_torch():
    torch.manual_seed(0)
    scan = GatedScan(1, 6).double()
    peer = torch.nn.GRU(6, 6, batch_first=True).double()
    order = [1, 0, 2]  # torch: reset, update, new; its update gate keeps the old state
    signs = torch.tensor([1.0, -1.0, 1.0]).repeat_interleave(6).double()
    with torch.no_grad():
        for own, weight in ((scan.inward.weight[0], peer.weight_ih_l0), (scan.recurrent[0], peer.weight_hh_l0)):
            parts = own.T.split(6)
            weight.copy_(torch.cat([parts[number] for number in order]) * signs.unsqueeze(1))
        parts = scan.inward.bias[0].split(6)
        peer.bias_ih_l0.copy_(torch.cat([parts[number] for number in order]) * signs)
        peer.bias_hh_l0.zero_()
    inputs = torch.randn(1, 3, 9, 6, dtype=torch.float64)
    torch.testing.assert_close(scan(inputs, torch.ones(1, 3, 9, dtype=torch.float64))[0], peer(inputs[0])[0])


def test_strength_zero_keeps_the_state():
    torch.manual_seed(0)
    scan = GatedScan(1, 4)
    inputs = torch.randn(1, 1, 3, 4)
    states = scan(inputs, torch.tensor([[[0.0, 1.0, 0.0]]]))[0, 0]
    assert torch.count_nonzero(states[0]) == 0
    assert torch.equal(states[1], states[2])
    torch.testing.assert_close(states[1], scan(inputs[:, :, 1:2], torch.ones(1, 1, 1))[0, 0, 0])


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_loss_is_the_sum_over_sets_of_means_over_steps(weight):
    module, given = build(DIEN, DIENConfig(next_event_weight=weight)).train(), sequence(gradient=True)
    total, steps = torch.zeros((), dtype=torch.float64), 0
    for row, real in enumerate(given.mask):
        columns = real.nonzero().flatten().tolist()
        steps += max(len(columns) - 1, 0)
        for table in range(TABLES):
            states = gru_states(module.extract, table, given.events[table, row][real], [1.0] * len(columns))
            for state, column in zip(states, columns[1:], strict=False):
                total = total - torch.sigmoid(state @ given.events[table, row, column]).log()
                same = given.event_ids[row - 1, column, 0] == given.event_ids[row, column, 0]
                if given.mask[row - 1, column] and not same:
                    total = total - (1 - torch.sigmoid(state @ given.events[table, row - 1, column])).log()
    expected, found = weight * total / steps, module(given).loss
    torch.testing.assert_close(found, expected)
    leaves = [given.events, *module.extract.parameters()]
    torch.testing.assert_close(torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves))


def test_loss_leaves_the_second_gru_and_the_candidate_alone():
    module, given = build(DIEN, DIENConfig()).train(), sequence(gradient=True)
    module(given).loss.backward()
    assert given.target.grad is None
    assert all(parameter.grad is None for parameter in [*module.evolve.parameters(), module.match.weight])


def test_a_batch_of_one_row_has_no_negatives_and_no_next_event_no_loss():
    module, given = build(DIEN, DIENConfig()).train(), sequence()
    assert torch.isfinite(module(rows(given, [0])).loss)
    assert module(rows(given, [1, 3])).loss == 0


def test_the_loss_can_be_off_and_its_weight_is_checked():
    assert build(DIEN, DIENConfig(next_event_weight=0.0)).train()(sequence()).loss is None
    with pytest.raises(ValueError, match="next_event_weight must be at least 0, got -0.5"):
        DIENConfig(next_event_weight=-0.5)
