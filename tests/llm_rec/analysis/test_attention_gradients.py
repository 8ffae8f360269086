"""Gradients of two roles: statistics against loops, sparse as dense, and tables that stay one."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from llm_rec.analysis.attention_gradients import (
    GradientProbe,
    TiedTables,
    Watched,
    paired_parameters,
    probe_gradients,
)

ROWS, DIM = 7, 3


def gradients(steps=6, seed=0):
    """Pairs of gradients; each role touches about half of the rows."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        pair = torch.randn(2, ROWS, DIM, generator=generator)
        yield pair * (torch.rand(2, ROWS, 1, generator=generator) < 0.5)


def naive(pairs, first):
    norms, cosines, numbers = [], [], []
    seen, against = np.zeros(ROWS, dtype=int), np.zeros(ROWS, dtype=int)
    for step, pair in enumerate(pairs):
        sums, cosine, negative, touched = [0.0, 0.0], [], 0, 0
        for row in range(ROWS):
            a, r = pair[:, row].double().numpy()
            lengths = math.sqrt((a * a).sum()), math.sqrt((r * r).sum())
            touched += any(lengths)
            sums = [total + length for total, length in zip(sums, lengths, strict=True)]
            if all(lengths):
                cosine.append((a * r).sum() / lengths[0] / lengths[1])
                negative += (a * r).sum() < 0
                if step < first:
                    seen[row] += 1
                    against[row] += (a * r).sum() < 0
        norms.append([total / touched for total in sums])
        cosines.append(np.mean(cosine) if cosine else math.nan)
        numbers.append((len(cosine), negative))
    return np.array(norms), cosines, np.array(numbers), seen, against


@pytest.mark.parametrize("layout", ["dense", "sparse", "mixed"])
def test_statistics_equal_a_loop_over_rows(layout):
    pairs = list(gradients())
    probe = GradientProbe(ROWS, first=4)
    for attention, representation in pairs:
        probe.update(
            attention.to_sparse(1) if layout != "dense" else attention,
            representation.to_sparse(1) if layout == "sparse" else representation,
        )
    found = probe.report()
    norms, cosines, numbers, seen, against = naive(pairs, 4)
    assert np.allclose(found.attention_norm, norms[:, 0])
    assert np.allclose(found.representation_norm, norms[:, 1])
    assert np.allclose(found.cosine, cosines, equal_nan=True)
    assert found.pairs.tolist() == numbers[:, 0].tolist()
    assert found.negative_pairs.tolist() == numbers[:, 1].tolist()
    assert found.row_pairs.tolist() == seen.tolist()
    assert found.row_negative_pairs.tolist() == against.tolist()
    assert found.domination == pytest.approx(norms[:4, 1].mean() / norms[:4, 0].mean())
    assert found.conflict == pytest.approx(np.mean([c < 0 for c in cosines if not math.isnan(c)]))
    assert found.row_conflict == pytest.approx(numbers[:, 1].sum() / numbers[:, 0].sum())
    assert np.allclose(found.row_shares, against[seen > 0] / seen[seen > 0])
    assert found.means()["domination"] == found.domination


def test_sparse_gradients_with_repeated_rows_are_added_first():
    values = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 3.0, 0]])
    sparse = torch.sparse_coo_tensor(torch.tensor([[2, 2, 5]]), values, (ROWS, DIM), check_invariants=True)
    probe, other = GradientProbe(ROWS), GradientProbe(ROWS)
    probe.update(sparse, -sparse)
    other.update(sparse.to_dense(), -sparse.to_dense())
    assert probe.report().attention_norm.tolist() == other.report().attention_norm.tolist() == [2.5]
    assert probe.report().conflict == 1.0


def test_conflict_of_iterations_is_not_that_of_rows():
    """One strong agreement among many slight disagreements: the mean cosine is positive, most rows are negative."""
    attention = torch.ones(5, 1) @ torch.tensor([[1.0, 0.0]])
    representation = torch.tensor([[1.0, 0.0], *[[-0.1, 1.0]] * 4])
    probe = GradientProbe(5)
    probe.update(attention, representation)
    found = probe.report()
    assert found.conflict == 0.0
    assert found.row_conflict == 0.8


def test_an_iteration_without_a_common_row_has_no_cosine():
    probe = GradientProbe(ROWS)
    probe.update(torch.eye(ROWS)[:, :DIM], torch.zeros(ROWS, DIM))
    found = probe.report()
    assert math.isnan(found.cosine[0])
    assert math.isnan(found.conflict)
    assert math.isnan(found.row_conflict)
    assert math.isnan(found.means()["row_share_mean"])
    assert found.domination == 0.0


class TwoRoles(nn.Module):
    """Target attention over two embeddings of the same ids, and the same model with one."""

    def __init__(self, sparse=False, shared=False):
        super().__init__()
        torch.manual_seed(0)
        self.representation = nn.Embedding(ROWS, DIM, sparse=sparse)
        self.attention = self.representation if shared else nn.Embedding(ROWS, DIM, sparse=sparse)
        torch.manual_seed(1)
        self.head = nn.Linear(DIM, 1)

    def forward(self, target, history):
        scores = (self.attention(history) * self.attention(target)[:, None]).sum(2)
        pooled = (scores.softmax(1)[:, :, None] * self.representation(history)).sum(1)
        return self.head(pooled * self.representation(target))[:, 0]


def losses(model, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        history, target = (
            torch.randint(ROWS, (8, 4), generator=generator),
            torch.randint(ROWS, (8,), generator=generator),
        )
        labels = torch.rand(8, generator=generator).round()
        yield nn.functional.binary_cross_entropy_with_logits(model(target, history), labels)


OPTIMIZERS = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.05),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_tied_tables_stay_bit_equal_and_train_as_one(optimizer):
    model, one = TwoRoles(), TwoRoles(shared=True)
    probe = GradientProbe(ROWS)
    tied = TiedTables([(model.attention.weight, model.representation.weight)], Watched(probe))
    assert torch.equal(model.attention.weight, one.representation.weight)
    report = probe_gradients(tied, OPTIMIZERS[optimizer](model.parameters()), losses(model, 150))
    assert tied.equal()
    assert len(report.cosine) == 150
    assert report.row_pairs.max() <= 100
    assert report.domination > 1  # of these two roles, too
    single = OPTIMIZERS[optimizer](one.parameters())
    for loss in losses(one, 150):
        single.zero_grad()
        loss.backward()
        single.step()
    assert torch.allclose(model.attention.weight, one.representation.weight, atol=1e-4)
    assert not torch.equal(model.attention.weight, TwoRoles().representation.weight)


def test_sparse_tables_stay_bit_equal():
    model = TwoRoles(sparse=True)
    tied = TiedTables([(model.attention.weight, model.representation.weight)], Watched(GradientProbe(ROWS)))
    tables = torch.optim.SparseAdam([model.attention.weight, model.representation.weight], lr=0.01)
    report = probe_gradients(tied, tables, losses(model, 100))
    assert tied.equal()
    assert report.pairs.sum() > 0


@pytest.mark.parametrize("sparse", [False, True])
def test_only_the_watched_rows_are_shown(sparse):
    table, other = nn.Parameter(torch.zeros(ROWS, DIM)), nn.Parameter(torch.zeros(ROWS, DIM))
    probe = GradientProbe(3)
    tied = TiedTables(
        [(nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))), (table, other)], Watched(probe, slice(2, 5), 1)
    )
    gradient = torch.arange(ROWS * DIM, dtype=torch.float32).reshape(ROWS, DIM)
    table.grad, other.grad = (g.to_sparse(1) if sparse else g for g in (gradient, -gradient))
    tied.share()
    alone = GradientProbe(3)
    alone.update(gradient[2:5], -gradient[2:5])
    assert probe.report().attention_norm.tolist() == alone.report().attention_norm.tolist()
    assert probe.report().conflict == 1.0
    total = table.grad.to_dense() if sparse else table.grad
    assert torch.equal(total, torch.zeros(ROWS, DIM))


def test_a_role_without_a_gradient_counts_as_zero():
    table, other = nn.Parameter(torch.zeros(ROWS, DIM)), nn.Parameter(torch.ones(ROWS, DIM))
    tied = TiedTables([(table, other)])
    tied.share()
    assert table.grad is None
    other.grad = torch.ones(ROWS, DIM)
    tied.share()
    assert torch.equal(table.grad, torch.ones(ROWS, DIM))
    table.grad.zero_()
    assert torch.equal(other.grad, torch.ones(ROWS, DIM))  # not the same memory


def test_the_hook_ends_with_its_handle():
    table, other = nn.Parameter(torch.zeros(2, 1)), nn.Parameter(torch.zeros(2, 1))
    tied = TiedTables([(table, other)])
    optimizer = torch.optim.SGD([table, other], lr=1.0)
    handle = tied.attach(optimizer)
    other.grad = torch.ones(2, 1)
    optimizer.step()
    assert tied.equal()
    handle.remove()
    table.grad = None
    optimizer.step()
    assert not tied.equal()


def test_modules_of_one_build_are_paired_by_name():
    first, second = (nn.ModuleDict({"item": nn.Embedding(4, 2), "time": nn.Embedding(3, 2)}) for _ in range(2))
    (item, other), (time, _) = paired_parameters(first, second)
    assert item is first["item"].weight
    assert other is second["item"].weight
    assert time is first["time"].weight
    narrow = nn.ModuleDict({"item": nn.Embedding(4, 1), "time": nn.Embedding(3, 2)})
    message = r"the roles have other tables: attention item.weight \(4, 1\), time.weight \(3, 2\); representation item"
    with pytest.raises(ValueError, match=message):
        paired_parameters(narrow, second)


def test_refusals_name_the_value_and_the_repair():
    table = nn.Parameter(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="there are no tables to tie; give at least one pair"):
        TiedTables([])
    with pytest.raises(ValueError, match=r"pair 0 must be two tables of one shape, got \(3, 2\) and \(3, 1\)"):
        TiedTables([(table, nn.Parameter(torch.zeros(3, 1)))])
    with pytest.raises(ValueError, match="which are one parameter"):
        TiedTables([(table, table)])
    with pytest.raises(ValueError, match="must be at least 1, got num_rows 0 and first 100"):
        GradientProbe(0)
    with pytest.raises(ValueError, match="the probe has seen no gradients; call update after each backward"):
        GradientProbe(3).report()
    with pytest.raises(ValueError, match=r"must both have 3 rows of one width, got \(2, 2\) and \(2, 2\)"):
        GradientProbe(3).update(torch.zeros(2, 2), torch.zeros(2, 2))
    other = nn.Parameter(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="the tied tables have no probe; pass watched"):
        probe_gradients(TiedTables([(table, other)]), torch.optim.SGD([table], lr=1.0), [])
    tied = TiedTables([(table, other)], Watched(GradientProbe(3)))
    unlike = torch.optim.SGD([{"params": [table], "lr": 1.0}, {"params": [other], "lr": 0.1}])
    with pytest.raises(ValueError, match="tied tables have drifted apart; put both of a pair into one group"):
        probe_gradients(tied, unlike, (((table - 1) ** 2 + other).sum() for _ in range(1)))
    tied = TiedTables([(table, other)], Watched(GradientProbe(2), slice(0, 3, 2)))
    with pytest.raises(ValueError, match=r"watched rows must be neighbours, got slice\(0, 3, 2\)"):
        tied.share()
