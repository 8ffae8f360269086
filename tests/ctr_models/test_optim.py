"""Row optimisers against dense references on the touched rows; what they leave alone; what they write."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ctr_models.optim import LazyAdam, RowSums, RowWiseAdagrad, clip_gradient_norm_, scale_gradients_

ROWS, WIDTH = 12, 4


def _table(rows=ROWS, width=WIDTH, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return nn.Parameter(torch.randn(rows, width, generator=generator, dtype=dtype))


def _batches(count=6, size=9, rows=ROWS):
    """Ids with repeats, rows 10 and 11 never among them, and a gradient for each lookup."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        ids = torch.randint(0, rows - 2, (size,), generator=generator)
        yield ids, torch.randn(size, WIDTH, generator=generator, dtype=torch.float64)


def _backward(weight, ids, gradients, sparse=True):
    weight.grad = None
    F.embedding(ids, weight, sparse=sparse).backward(gradients.to(weight.dtype))


def _sums(ids, gradients):
    """Gradient by row, in a loop."""
    sums = {}
    for row, gradient in zip(ids.tolist(), gradients, strict=True):
        sums[row] = sums.get(row, 0) + gradient
    return sums


@given(st.lists(st.integers(0, ROWS - 1), max_size=40))
@settings(max_examples=50, deadline=None)
def test_gradients_of_equal_rows_are_summed_once(ids):
    weight, sums = _table(), RowSums()
    gradients = torch.arange(float(len(ids) * WIDTH), dtype=torch.float64).reshape(-1, WIDTH)
    for _ in range(2):  # the second time over what the first left behind
        _backward(weight, torch.tensor(ids, dtype=torch.int64), gradients)
        rows, values = sums(weight)
        assert sorted(rows.tolist()) == sorted(set(ids))
        for row, value in zip(rows.tolist(), values, strict=True):
            assert torch.equal(value, _sums(torch.tensor(ids), gradients)[row])
        dense = torch.zeros(ROWS, WIDTH, dtype=torch.float64)
        dense.index_add_(0, torch.tensor(ids, dtype=torch.int64), gradients)
        torch.testing.assert_close(sums.norm(weight), dense.norm())


@pytest.mark.parametrize("num_tables", [1, 2, 4])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_rowwise_adagrad_equals_a_loop_over_rows(num_tables, weight_decay):
    weight, expected = _table(), _table().detach()
    optimizer = RowWiseAdagrad([weight], lr=0.1, weight_decay=weight_decay, num_tables=num_tables)
    totals = torch.zeros(ROWS, num_tables, dtype=torch.float64)
    for ids, gradients in _batches():
        _backward(weight, ids, gradients)
        optimizer.step()
        for row, gradient in _sums(ids, gradients).items():
            gradient = gradient + weight_decay * expected[row]
            for number, part in enumerate(gradient.chunk(num_tables)):
                totals[row, number] += part.square().mean()
                place = slice(number * len(part), (number + 1) * len(part))
                expected[row, place] -= 0.1 * part / (totals[row, number].sqrt() + 1e-8)
    torch.testing.assert_close(weight.detach(), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(optimizer.state[weight]["sum"], totals, rtol=0, atol=1e-12)


def test_rowwise_adagrad_moves_by_numbers_computed_by_hand():
    """g = (3, 4): mean square 12.5, so w = 1 - 0.1 g / sqrt(12.5); then g = (0, 5): a = 25, w_2 moves 0.1 * 5 / 5."""
    weight = nn.Parameter(torch.ones(1, 2, dtype=torch.float64))
    optimizer = RowWiseAdagrad([weight], lr=0.1, eps=0.0)
    for gradient in ([[1.0, 1.0], [2.0, 3.0]], [[0.0, 5.0], [0.0, 0.0]]):
        _backward(weight, torch.tensor([0, 0]), torch.tensor(gradient))
        optimizer.step()
    expected = [1 - 0.3 / math.sqrt(12.5), 1 - 0.4 / math.sqrt(12.5) - 0.1]
    torch.testing.assert_close(weight.detach(), torch.tensor([expected], dtype=torch.float64))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_each_row_of_lazy_adam_is_torch_adam_over_the_steps_that_touch_it(weight_decay):
    weight = _table()
    optimizer = LazyAdam([weight], lr=0.1, weight_decay=weight_decay)
    rows = [nn.Parameter(row.clone()) for row in _table().detach()]
    dense = [torch.optim.Adam([row], lr=0.1, weight_decay=weight_decay) for row in rows]
    for ids, gradients in _batches():
        _backward(weight, ids, gradients)
        optimizer.step()
        for row, gradient in _sums(ids, gradients).items():
            rows[row].grad = gradient
            dense[row].step()
    torch.testing.assert_close(weight.detach(), torch.stack([row.detach() for row in rows]), rtol=0, atol=1e-12)


def test_lazy_adam_with_global_correction_equals_sparse_adam_of_torch():
    ours, theirs = _table(), _table()
    # SparseAdam adds eps before the correction of the second moment: without eps both are the same.
    one = LazyAdam([ours], lr=0.1, eps=1e-300, bias_correction="global")
    other = torch.optim.SparseAdam([theirs], lr=0.1, eps=1e-300)
    for ids, gradients in _batches():
        for weight, optimizer in ((ours, one), (theirs, other)):
            _backward(weight, ids, gradients)
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_a_row_seen_late_first_moves_by_one_rate_or_by_three():
    def first_move(bias_correction):
        weight = nn.Parameter(torch.zeros(2, 1, dtype=torch.float64))
        optimizer = LazyAdam([weight], lr=1.0, eps=1e-300, bias_correction=bias_correction)
        for row in (0, 1):
            _backward(weight, torch.tensor([row]), torch.full((1, 1), 5.0))
            optimizer.step()
            if bias_correction == "global":
                optimizer.state[weight]["step"].fill_(1e5)  # as after many steps without row 1
        return -weight[1].item()

    assert first_move("row") == pytest.approx(1.0)
    assert first_move("global") == pytest.approx(0.1 / math.sqrt(0.001), rel=1e-4)


def _optimizers():
    return [
        lambda p: RowWiseAdagrad(p, weight_decay=0.1),
        lambda p: RowWiseAdagrad(p, num_tables=2),
        lambda p: LazyAdam(p, weight_decay=0.1),
        lambda p: LazyAdam(p, bias_correction="global"),
    ]


@pytest.mark.parametrize("build", _optimizers())
def test_untouched_rows_and_their_state_keep_every_bit(build):
    weight = _table(dtype=torch.float32)
    before = weight.detach().clone()
    optimizer = build([weight])
    for ids, gradients in _batches():
        _backward(weight, ids, gradients)
        optimizer.step()
    assert torch.equal(weight[-2:], before[-2:])
    assert (weight[:-2] != before[:-2]).all()
    for value in optimizer.state[weight].values():
        assert value.ndim == 0 or not value[-2:].any()


@pytest.mark.parametrize("build", _optimizers())
def test_results_do_not_depend_on_the_run_or_the_order_of_other_rows(build):
    def train(flip):
        weight = _table(dtype=torch.float32)
        optimizer = build([weight])
        for ids, gradients in _batches():
            order = torch.argsort(ids, stable=True, descending=True) if flip else torch.arange(len(ids))
            _backward(weight, ids[order], gradients[order])  # sums of one row keep their order
            optimizer.step()
        return weight.detach()

    assert torch.equal(train(False), train(False))
    assert torch.equal(train(False), train(True))


@pytest.mark.parametrize("build", _optimizers())
def test_state_saved_and_loaded_goes_on_bit_for_bit(build):
    batches = list(_batches(count=8))

    def steps(weight, optimizer, chosen):
        for ids, gradients in chosen:
            _backward(weight, ids, gradients)
            optimizer.step()

    alone = _table(dtype=torch.float32)
    first = build([alone])
    steps(alone, first, batches[:4])
    resumed = nn.Parameter(alone.detach().clone())
    second = build([resumed])
    stored = {key: value.clone() for key, value in first.state_dict()["state"][0].items()}
    second.load_state_dict({**first.state_dict(), "state": {0: stored}})
    steps(alone, first, batches[4:])
    steps(resumed, second, batches[4:])
    assert torch.equal(alone, resumed)


@pytest.mark.parametrize("build", _optimizers())
def test_an_empty_batch_and_a_missing_gradient_change_nothing(build):
    weight = _table()
    before = weight.detach().clone()
    optimizer = build([weight])
    optimizer.step()
    _backward(weight, torch.empty(0, dtype=torch.int64), torch.empty(0, WIDTH))
    optimizer.step()
    assert torch.equal(weight, before)


class Work(TorchDispatchMode):
    """Counts the numbers that operations make, and those they change in place, gathers and scatters by their rows."""

    IN_PLACE = ("index_copy_", "scatter_", "index_add_")  # write as many numbers as their last argument holds

    def __init__(self):
        super().__init__()
        self.numbers, self.waits = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("item", "_local_scalar_dense", "nonzero", "unique", "_unique2", "sort"):
            self.waits.append(name)
        views = name in ("view", "detach", "_indices", "_values", "unsqueeze", "squeeze", "select", "t", "empty")
        if name in self.IN_PLACE:
            self.numbers += args[-1].numel()
        elif isinstance(out, torch.Tensor) and not views:
            self.numbers += out.numel() if not out.is_sparse else out._values().numel()
        return out


@pytest.mark.parametrize("build", _optimizers())
def test_work_of_an_update_does_not_depend_on_the_vocabulary(build):
    def work(rows):
        weight = _table(rows, dtype=torch.float32)
        optimizer = build([weight])
        counts = []
        for ids, gradients in _batches(count=3):
            with Work() as counted:
                _backward(weight, ids, gradients)
                optimizer.step()
                clip_gradient_norm_([weight], 1.0, optimizer.sums)
            counts.append(counted.numbers)
            assert set(counted.waits) <= {"nonzero"}  # on a CPU alone, where nothing waits
        return counts[1:]  # the first update makes the state

    small, large = work(ROWS), work(100_000)
    assert small == large
    assert max(large) < 3000  # 9 lookups of 4 numbers, some 40 operations; the table has 400000


@pytest.mark.parametrize("max_norm", [0.1, 1e6])
def test_clipping_sparse_and_dense_together_equals_torch_on_dense_gradients(max_norm):
    ids, gradients = next(_batches())
    sparse, dense, other, same = _table(), _table(), _table(3, seed=2), _table(3, seed=2)
    _backward(sparse, ids, gradients)
    _backward(dense, ids, gradients, sparse=False)
    other.grad, same.grad = other.detach().clone(), same.detach().clone()
    found = clip_gradient_norm_([sparse, other, _table()], max_norm, RowSums())
    expected = nn.utils.clip_grad_norm_([dense, same], max_norm)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(sparse.grad.to_dense(), dense.grad)
    torch.testing.assert_close(other.grad, same.grad)
    assert clip_gradient_norm_([_table()], 1.0, RowSums()) == 0.0


def test_gradients_of_two_tables_that_are_added_are_scaled_once_each():
    """Their gradients share memory, which scaling in place would scale twice."""
    one, other, alone = _table(), _table(seed=3), nn.Parameter(torch.ones(2, dtype=torch.float64))
    ids, gradients = next(_batches())
    (F.embedding(ids, one, sparse=True) + F.embedding(ids, other, sparse=True)).backward(gradients)
    alone.grad = torch.ones(2, dtype=torch.float64)
    assert one.grad._values().data_ptr() == other.grad._values().data_ptr()
    scale_gradients_([one, other, alone, _table()], 0.5)
    for weight in (one, other):
        assert torch.equal(weight.grad._values(), gradients / 2)
    assert torch.equal(alone.grad, torch.full((2,), 0.5, dtype=torch.float64))


def test_lazy_l2_is_not_the_l2_of_dense_adam():
    """Dense Adam with weight_decay moves rows that no batch holds; lazy L2 leaves them: another algorithm."""
    lazy, dense = _table(), _table()
    steps = [LazyAdam([lazy], weight_decay=0.1), torch.optim.Adam([dense], weight_decay=0.1, fused=True)]
    ids, gradients = next(_batches())
    for weight, step in zip((lazy, dense), steps, strict=True):
        _backward(weight, ids, gradients, sparse=weight is lazy)
        step.step()
    touched = ids.unique()
    torch.testing.assert_close(lazy[touched], dense[touched])
    assert torch.equal(lazy[-2:], _table()[-2:])
    assert (dense[-2:] != _table()[-2:]).all()


def test_settings_out_of_range_and_dense_gradients_are_refused():
    weight = _table()
    with pytest.raises(ValueError, match="lr, eps and weight_decay must not be negative, got -1.0, 1e-08 and 0.0"):
        RowWiseAdagrad([weight], lr=-1.0)
    with pytest.raises(ValueError, match=r"betas must lie in \[0, 1\), got \(0.9, 1.0\)"):
        LazyAdam([weight], betas=(0.9, 1.0))
    with pytest.raises(ValueError, match="num_tables must divide the table's width 4, got 3"):
        RowWiseAdagrad([weight], num_tables=3)
    _backward(weight, torch.tensor([1]), torch.ones(1, WIDTH), sparse=False)
    for optimizer in (RowWiseAdagrad([weight]), LazyAdam([weight])):
        with pytest.raises(
            ValueError, match=r"a table of shape \(12, 4\) has a dense gradient, and its optimiser takes"
        ):
            optimizer.step()


@pytest.mark.parametrize("build", _optimizers())
def test_the_form_for_a_gpu_with_a_row_for_each_lookup_gives_the_same_table(build):
    one, other = _table(), _table()
    steps = [build([one]), build([other])]
    steps[1].sums = RowSums(distinct=False)
    for ids, gradients in _batches():
        for weight, step in zip((one, other), steps, strict=True):
            _backward(weight, ids, gradients)
            step.step()
        rows, values = steps[1].sums(other)
        assert torch.equal(rows, ids)
        for row, value in zip(rows.tolist(), values, strict=True):
            assert torch.equal(value, _sums(ids, gradients)[row])
    assert torch.equal(one, other)


@pytest.mark.gpu
@pytest.mark.parametrize("build", _optimizers())
def test_on_a_gpu_nothing_waits_and_the_table_is_that_of_a_cpu(build):
    one, other = _table(), nn.Parameter(_table().detach().cuda())
    steps = [build([one]), build([other])]
    for number, (ids, gradients) in enumerate(_batches()):
        _backward(one, ids, gradients)
        steps[0].step()
        ids, gradients = ids.cuda(), gradients.cuda()
        torch.cuda.set_sync_debug_mode("error" if number else "default")  # the first update makes the state
        try:
            _backward(other, ids, gradients)
            clip_gradient_norm_([other], 1e9, steps[1].sums)
            steps[1].step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(other.cpu(), one)
