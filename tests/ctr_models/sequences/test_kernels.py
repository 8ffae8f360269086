"""The Triton kernels against the reference: on a GPU, and tiny in Triton's interpreter where it is installed."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ctr_models.sequences import kernels
from ctr_models.sequences.topk_attention import TopKAttention, topk_attention, topk_attention_of_keys
from tests.ctr_models.sequences.naive_attention import Problem, drawn, gradients

ROOT = Path(__file__).parents[3]
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1e-4}
# rows, users, events, fields, widths of keys and values a field, k
SHAPES = [
    (5, 5, 9, 2, (4, 3), 4),
    (5, 1, 200, 2, (16, 16), 20),
    (7, 7, 700, 3, (24, 8), 20),
    (3, 3, 1, 1, (5, 6), 2),
    (2, 1, 3000, 1, (192, 48), 64),
]


def both(problem: Problem, k: int, *, sparse: bool, ready: bool) -> tuple[TopKAttention, TopKAttention]:
    """By the kernel, and by the reference."""
    query, keys, ids, values, mask, bias = problem
    call = topk_attention_of_keys if ready else topk_attention
    kernel = call(query, keys, ids, values, mask, k, bias, backend="triton", sparse=sparse)
    return kernel, call(query, keys, ids, values, mask, k, bias, backend="reference", sparse=sparse)


def compare(problem: Problem, k: int, *, sparse: bool, ready: bool, tolerance: float) -> None:
    """Results and all gradients. Gradients of bfloat16 tensors are rounded once more: one part in 2^8."""
    kernel, reference = both(problem, k, sparse=sparse, ready=ready)
    assert torch.equal(kernel.indices, reference.indices)
    torch.testing.assert_close(kernel.pooled, reference.pooled, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(kernel.weights, reference.weights, rtol=tolerance, atol=tolerance)
    mine = gradients(problem, kernel.pooled, kernel.weights)
    single = problem.to(torch.float32, problem.query.device)  # the reference sums bfloat16 gradients in bfloat16
    exact = both(single, k, sparse=sparse, ready=ready)[1]
    for found, wanted in zip(mine, gradients(single, exact.pooled, exact.weights), strict=True):
        rounding = 2**-8 if found.dtype == torch.bfloat16 else 10 * tolerance
        close(found, wanted, rtol=rounding, atol=10 * tolerance)


def close(found: Tensor, wanted: Tensor, *, rtol: float, atol: float) -> None:
    dense = [part.to_dense() if part.is_sparse else part for part in (found.detach(), wanted.detach())]
    torch.testing.assert_close(dense[0].float(), dense[1], rtol=rtol, atol=atol)


def compare_all(dtype: torch.dtype, device: str, shapes: list[tuple[int, int, int, int, tuple[int, int], int]]) -> None:
    for rows, users, length, fields, dims, k in shapes:
        for bias in (True, False):
            problem = drawn(rows, users, length, fields, dims, bias=bias)
            scaled = problem._replace(query=problem.query / problem.query.shape[1] ** 0.5).to(dtype, device)
            keys = scaled.key_table[scaled.ids].flatten(2).detach().requires_grad_()
            compare(scaled, k, sparse=False, ready=False, tolerance=TOLERANCE[dtype])
            compare(scaled, k, sparse=True, ready=False, tolerance=TOLERANCE[dtype])
            compare(scaled._replace(key_table=keys), k, sparse=False, ready=True, tolerance=TOLERANCE[dtype])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_kernel_is_the_reference(
    dtype: torch.dtype, shape: tuple[int, int, int, int, tuple[int, int], int]
) -> None:
    compare_all(dtype, "cuda", [shape])


@pytest.mark.gpu
def test_auto_is_the_kernel_on_a_gpu_where_it_fits() -> None:
    query, keys, ids, values, mask, bias = drawn(5, 5, 50).to(torch.float32, "cuda")
    found = topk_attention(query, keys, ids, values, mask, 4, bias)
    assert found.pooled.grad_fn is not None
    assert "Fused" in found.pooled.grad_fn.name()
    large = topk_attention(query, keys, ids, values, mask, kernels.MAX_K + 1, bias)
    assert "Fused" not in str(large.pooled.grad_fn)


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernel_is_the_reference_in_tritons_interpreter() -> None:
    code = (
        "import torch\n"
        "from tests.ctr_models.sequences.test_kernels import SHAPES, compare_all\n"
        "compare_all(torch.float32, 'cpu', [SHAPES[0], SHAPES[3]])\n"
    )
    env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]


# --- what the kernel does not take ---------------------------------------------------------------------------------


@pytest.fixture
def _interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "INSTALLED", True)
    monkeypatch.setenv("TRITON_INTERPRET", "1")


def test_without_triton_or_gpu_the_kernel_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    two = torch.zeros(2, 4)
    monkeypatch.setattr(kernels, "INSTALLED", False)
    assert kernels.unfit(two, two, two, 3) == "triton is not installed"
    monkeypatch.setattr(kernels, "INSTALLED", True)
    assert kernels.unfit(two, two, two, 3) == "the query is on cpu, but the kernel runs on a GPU"


@pytest.mark.usefixtures("_interpreted")
def test_the_kernel_names_what_it_cannot_take() -> None:
    two = torch.zeros(2, 4)
    assert kernels.unfit(two, two, two, 128) is None
    assert kernels.unfit(two, two.double(), two, 3) == "the kernel has no float64"
    assert kernels.unfit(two, two, two, 129) == "k is 129, but the kernel keeps at most 128"
    reason = "128 vectors of 512 numbers are more than the 32768 that a program holds"
    assert kernels.unfit(two, two, torch.zeros(2, 300), 128) == reason


def test_constants_are_those_of_tables_and_of_keys() -> None:
    query, table, values = torch.zeros(5, 6), torch.zeros(12, 3), torch.zeros(12, 17)
    ids = torch.zeros(5, 9, 2, dtype=torch.int64)
    by_table = kernels.Operands(query, table, ids, values)
    assert kernels._constants(by_table, 20) == (20, 32, 1, 0, 2, 3, 4, 2, 17, 32)
    by_event = kernels.Operands(query, torch.zeros(1, 9, 6), ids[:1], values)
    assert kernels._constants(by_event, 1) == (1, 2, 0, 1, 1, 6, 8, 2, 17, 32)
