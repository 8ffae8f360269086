"""Top-k attention against a loop over rows: what is found, weights, pooled values, gradients, in every backend here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ctr_models.sequences import topk_attention as module
from ctr_models.sequences.topk_attention import Backend, TopKAttention, topk_attention, topk_attention_of_keys
from tests.ctr_models.sequences.naive_attention import Problem, drawn, gradients, naive

SHAPES = [(5, 5, 9), (5, 1, 9), (4, 4, 1), (1, 1, 30)]


def attend(problem: Problem, k: int, backend: Backend = "reference") -> TopKAttention:
    query, key_table, ids, value_table, mask, bias = problem
    return topk_attention(query, key_table, ids, value_table, mask, k, bias, backend=backend)


@pytest.mark.parametrize(("rows", "users", "length"), SHAPES)
@pytest.mark.parametrize("k", [1, 4, 12])
@pytest.mark.parametrize("bias", [True, False])
def test_the_reference_is_the_loop_over_rows(rows: int, users: int, length: int, k: int, bias: bool) -> None:
    problem = drawn(rows, users, length, bias=bias).to(torch.float64)
    pooled, weights, columns = naive(problem, k)
    found = attend(problem, k)
    assert found.indices.tolist() == columns
    torch.testing.assert_close(found.pooled, pooled, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.weights, weights, rtol=0, atol=1e-12)
    wanted = gradients(problem, pooled, weights)
    for mine, gradient in zip(gradients(problem, found.pooled, found.weights), wanted, strict=True):
        torch.testing.assert_close(mine, gradient, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_are_taken_in_float32(dtype: torch.dtype) -> None:
    problem = drawn(6, 6, 40, dims=(16, 16))
    pooled, weights, columns = naive(problem, 5)
    found = attend(problem.to(dtype), 5)
    assert (found.pooled.dtype, found.weights.dtype) == (torch.float32, torch.float32)
    assert found.indices.tolist() == columns
    torch.testing.assert_close(found.pooled.double(), pooled, rtol=0, atol=2e-6)
    torch.testing.assert_close(found.weights.double(), weights, rtol=0, atol=2e-6)


def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = drawn(5, 5, 50).to(torch.float64)
    whole = attend(problem, 4)
    monkeypatch.setattr(module, "TILE", 7)
    parts = attend(problem, 4)
    assert torch.equal(parts.indices, whole.indices)
    assert torch.equal(parts.pooled, whole.pooled)


@pytest.mark.parametrize("users", [5, 1])
def test_keys_that_are_there_already_give_what_tables_give(users: int) -> None:
    problem = drawn(5, users, 20).to(torch.float64)
    keys = problem.key_table[problem.ids].flatten(2).detach().requires_grad_()
    query, _, ids, values, mask, bias = problem
    found = topk_attention_of_keys(query, keys, ids, values, mask, 4, bias, backend="reference")
    wanted = attend(problem, 4)
    assert torch.equal(found.indices, wanted.indices)
    torch.testing.assert_close(found.pooled, wanted.pooled)
    (gradient,) = torch.autograd.grad(found.pooled.sum(), keys, retain_graph=True)
    reached = {(int(i), int(j)) for i, j in gradient.abs().sum(2).nonzero()}
    allowed = {(row if users > 1 else 0, int(j)) for row in range(5) for j in found.indices[row] if j >= 0}
    assert reached <= allowed
    of_table = torch.zeros_like(problem.key_table).index_put_((ids,), gradient.view(users, 20, 2, 4), accumulate=True)
    (wanted_gradient,) = torch.autograd.grad(wanted.pooled.sum(), problem.key_table)
    torch.testing.assert_close(of_table, wanted_gradient)


def test_what_was_not_found_gets_no_gradient() -> None:
    problem = drawn(1, 1, 8, fields=1).to(torch.float64)
    ids = torch.arange(1, 9).view(1, 8, 1)
    problem = problem._replace(ids=ids, mask=torch.ones(1, 8, dtype=torch.bool))
    found = attend(problem, 3)
    _, keys, values, bias = gradients(problem, found.pooled, found.weights)
    rows = sorted(ids[0, found.indices[0], 0].tolist())
    assert keys.abs().sum(1).nonzero().flatten().tolist() == rows
    assert values.abs().sum(1).nonzero().flatten().tolist() == rows
    assert bias[0].nonzero().flatten().tolist() == sorted(found.indices[0].tolist())


def test_sparse_gradients_are_the_dense_ones_and_hold_found_events_alone() -> None:
    problem = drawn(3, 3, 10).to(torch.float64)
    query, keys, ids, values, mask, bias = problem
    found = topk_attention(query, keys, ids, values, mask, 2, bias, backend="reference", sparse=True)
    sparse = gradients(problem, found.pooled, found.weights)
    again = attend(problem, 2)
    dense = gradients(problem, again.pooled, again.weights)
    for mine, wanted in zip(sparse[1:3], dense[1:3], strict=True):
        assert mine.is_sparse
        assert mine._nnz() == 3 * 2 * 2
        torch.testing.assert_close(mine.to_dense(), wanted)


def test_padding_never_wins_while_an_event_is_there() -> None:
    problem = drawn(2, 2, 6, fields=1)
    query = -problem.key_table[:2] * 100  # against the keys, so that every real score is very low
    ids = torch.tensor([[0, 0, 0, 0, 1, 2]] * 2).unsqueeze(2)
    found = attend(problem._replace(query=query, ids=ids, mask=ids[:, :, 0] > 0, bias=None), 3)
    assert [sorted(row) for row in found.indices.tolist()] == [[-1, 4, 5], [-1, 4, 5]]


@pytest.mark.parametrize("length", [0, 3])
def test_an_empty_history_gives_zeros_and_no_gradient(length: int) -> None:
    problem = drawn(2, 2, length, bias=length > 0).to(torch.float64)
    problem = problem._replace(mask=torch.zeros(2, length, dtype=torch.bool))
    found = attend(problem, 2)
    assert found.indices.tolist() == [[-1, -1]] * 2
    assert not found.pooled.any()
    assert not any(gradient.any() for gradient in gradients(problem, found.pooled, found.weights))


def test_columns_of_padding_on_the_left_change_nothing() -> None:
    problem = drawn(5, 5, 12).to(torch.float64)
    longer = problem._replace(
        ids=torch.nn.functional.pad(problem.ids, (0, 0, 7, 0)),
        mask=torch.nn.functional.pad(problem.mask, (7, 0)),
        bias=torch.nn.functional.pad(problem.bias, (7, 0), value=50.0),
    )
    found, wanted = attend(longer, 4), attend(problem, 4)
    assert torch.equal(found.pooled, wanted.pooled)
    assert torch.equal(found.indices, torch.where(wanted.indices < 0, -1, wanted.indices + 7))


def test_candidates_do_not_see_each_other() -> None:
    problem = drawn(6, 1, 25).to(torch.float64)
    together = attend(problem, 4)
    order = torch.tensor([3, 0, 5, 1])
    fewer = attend(problem._replace(query=problem.query[order]), 4)
    assert torch.equal(fewer.indices, together.indices[order])
    torch.testing.assert_close(fewer.pooled, together.pooled[order], rtol=0, atol=1e-12)


def test_a_bias_of_each_row_is_possible() -> None:
    problem = drawn(4, 1, 9).to(torch.float64)
    bias = torch.randn(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    together = attend(problem._replace(bias=bias), 3)
    for row in range(4):
        alone = attend(problem._replace(query=problem.query[row : row + 1], bias=bias[row : row + 1]), 3)
        torch.testing.assert_close(alone.pooled[0], together.pooled[row], rtol=0, atol=1e-12)


def test_auto_is_the_reference_on_a_cpu() -> None:
    problem = drawn(5, 5, 9).to(torch.float32)
    assert torch.equal(attend(problem, 4, "auto").pooled, attend(problem, 4).pooled)


def test_wrong_calls_say_what_to_do() -> None:
    problem = drawn(5, 5, 9)
    with pytest.raises(ValueError, match="^the query has 5 numbers but a key 8 .2 fields of 4.; give a query as wide"):
        attend(problem._replace(query=torch.zeros(5, 5, dtype=torch.float64)), 2)
    with pytest.raises(ValueError, match="^ids has 5 rows but the query 4; give as many, or one for all$"):
        attend(problem._replace(query=problem.query[:4]), 2)
    with pytest.raises(ValueError, match="^k must be at least 1, got 0$"):
        attend(problem, 0)
    with pytest.raises(ValueError, match="^backend 'triton': .*; use 'auto', which takes the kernel where it can run$"):
        attend(problem, 2, "triton")


def test_the_inference_path_can_be_exported() -> None:
    problem = drawn(6, 6, 30)

    class Attend(torch.nn.Module):
        def forward(self, query: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return attend(problem._replace(query=query, ids=ids, mask=mask), 5).pooled

    with torch.no_grad():
        given = (problem.query, problem.ids, problem.mask)
        program = torch.export.export(Attend(), given)
        torch.testing.assert_close(program.module()(*given), Attend()(*given))


def compare_compiled() -> None:
    """Results and gradients of the compiled reference."""
    problem = drawn(6, 6, 30).to(torch.float32)
    found, wanted = attend(problem, 4, "compile"), attend(problem, 4)
    assert torch.equal(found.indices, wanted.indices)
    torch.testing.assert_close(found.pooled, wanted.pooled, rtol=0, atol=1e-6)
    both = zip(
        gradients(problem, found.pooled, found.weights),
        gradients(problem, wanted.pooled, wanted.weights),
        strict=True,
    )
    for mine, gradient in both:
        torch.testing.assert_close(mine, gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.slow  # the first compilation takes a minute or two; it cannot see through the checks of shapes
def test_the_compiled_reference_is_the_reference() -> None:
    code = "from tests.ctr_models.sequences.test_topk_attention import compare_compiled; compare_compiled()"
    root = Path(__file__).parents[3]
    env = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=root)
    assert done.returncode == 0, done.stderr[-3000:]
