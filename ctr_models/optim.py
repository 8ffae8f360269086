"""Optimisers of large tables: an update reads and writes the rows of the batch alone, whatever the vocabulary.

They take the gradients of tables built with ``sparse=True``: an id and a gradient for each lookup, ids repeated. Equal
ids are summed first (`RowSums`), then each touched row moves once. Nothing waits for the device. Results are
deterministic on a CPU, for any number of threads; on a GPU sums of equal ids use atomics, and are deterministic under
``torch.use_deterministic_algorithms(True)``.

All of this is another algorithm than Adam over a dense gradient, where momentum and L2 move every row in every step;
dense exactness costs a pass over three tables a step and is had from `torch.optim.Adam` with ``sparse=False`` tables.
`weight_decay` here is lazy L2: ``weight_decay * row`` is added to the gradients of touched rows alone, so that rare
rows are regularised less.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.optim import Optimizer

Parameters = Iterable[nn.Parameter] | Iterable[dict[str, Any]]  # groups of torch hold values of any type


class RowGradients(NamedTuple):
    """Gradients of table rows. On a CPU each row occurs once; on a GPU, where that would mean waiting for a count, a
    row may be repeated, each time with its whole gradient: assigning rows is right in both cases, adding is not.
    """

    rows: Int64[Tensor, "touched"]
    values: Float[Tensor, "touched width"]


class RowSums:
    """Sums the gradients of equal rows without sorting them.

    Each lookup writes its position into a table of positions at its row; what it then reads there, the position of one
    lookup of that row, is the same for all lookups of the row. Only what was just written is read, so the table is
    never cleared: 4 bytes a row of memory, and time in the size of the batch. About twice as fast on a CPU as
    `Tensor.coalesce`, which sorts, and which waits for a GPU.
    """

    def __init__(self, *, distinct: bool | None = None) -> None:
        """`distinct`: give each row once, which a GPU must wait for (by default: on a CPU)."""
        self.distinct = distinct
        self._positions: dict[nn.Parameter, Tensor] = {}

    def __call__(self, parameter: nn.Parameter) -> RowGradients:
        """Of a parameter with a sparse gradient."""
        rows, values = _lookups(parameter)
        chosen = self._chosen(parameter, rows)
        if not (rows.device.type == "cpu" if self.distinct is None else self.distinct):
            sums = torch.zeros_like(values).index_add_(0, chosen, values)
            return RowGradients(rows, sums.index_select(0, chosen))
        first = chosen.eq(torch.arange(len(rows), device=rows.device))
        numbers = (first.cumsum(0) - 1).index_select(0, chosen)
        kept = rows.index_select(0, first.nonzero().squeeze(1))
        return RowGradients(kept, values.new_zeros(len(kept), values.shape[1]).index_add_(0, numbers, values))

    def norm(self, parameter: nn.Parameter) -> Float[Tensor, ""]:
        """The 2-norm of the gradient, as a scalar on its device."""
        rows, values = _lookups(parameter)
        chosen = self._chosen(parameter, rows)
        norm: Tensor = torch.linalg.vector_norm(torch.zeros_like(values).index_add_(0, chosen, values))
        return norm

    def _chosen(self, parameter: nn.Parameter, rows: Int64[Tensor, "lookups"]) -> Int64[Tensor, "lookups"]:
        positions = self._positions.get(parameter)
        if positions is None or positions.device != rows.device:
            positions = torch.empty(len(parameter), dtype=torch.int32, device=rows.device)
            self._positions[parameter] = positions
        places = torch.arange(len(rows), dtype=torch.int32, device=rows.device)
        return positions.scatter_(0, rows, places).index_select(0, rows).long()


class RowWiseAdagrad(Optimizer):
    """Adagrad with one accumulator a row and embedding set (FBGEMM's exact row-wise Adagrad, that of DLRM).

        a_r <- a_r + mean_k g_rk^2,    w_r <- w_r - lr * g_r / (sqrt(a_r) + eps)

    The cheapest in memory: one number a row, where `LazyAdam` keeps 2 dim + 1. `num_tables` is that of the table: each
    set has its own accumulator, as if it were a table alone. State: ``sum`` (rows, num_tables).
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-2,
        *,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        num_tables: int = 1,
        sums: RowSums | None = None,
    ) -> None:
        _check_settings(lr, eps, weight_decay)
        super().__init__(params, {"lr": lr, "eps": eps, "weight_decay": weight_decay, "num_tables": num_tables})
        for group in self.param_groups:
            for parameter in group["params"]:
                if group["num_tables"] < 1 or parameter.shape[-1] % group["num_tables"]:
                    raise ValueError(
                        f"num_tables must divide the table's width {parameter.shape[-1]}, got {group['num_tables']}"
                    )
        self.sums = sums or RowSums()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = _evaluate(closure)
        for group, parameter in _touched(self.param_groups):
            state = self.state[parameter]
            if not state:
                state["sum"] = parameter.new_zeros(len(parameter), group["num_tables"])
            rows, values = self.sums(parameter)
            old = parameter.index_select(0, rows)
            values = _with_decay(values, old, group["weight_decay"])
            values = values.view(len(rows), group["num_tables"], parameter.shape[1] // group["num_tables"])
            total = state["sum"].index_select(0, rows) + values.square().mean(-1)
            move = values / (total.sqrt() + group["eps"]).unsqueeze(-1)
            state["sum"].index_copy_(0, rows, total)
            parameter.index_copy_(0, rows, old.sub_(move.flatten(1), alpha=group["lr"]))
        return loss


class LazyAdam(Optimizer):
    """Adam whose moments move only in rows of the batch.

    `bias_correction` says which t Adam's 1 - beta^t takes:

    - "row" (our choice): how often the row was touched. Each row then follows Adam exactly over the steps that touch
      it, and the first move of a rare row is lr in size.
    - "global": steps of the whole table, as `torch.optim.SparseAdam` (equal to it but for eps, which it adds before the
      correction of the second moment) and TensorFlow's LazyAdam. The first move of a row first seen late is then
      lr * (1 - beta1) / sqrt(1 - beta2), 3.2 lr by default.

    State: ``exp_avg``, ``exp_avg_sq`` (the table's shape) and ``step`` (rows,), or a scalar for "global".
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        bias_correction: Literal["row", "global"] = "row",
        sums: RowSums | None = None,
    ) -> None:
        _check_settings(lr, eps, weight_decay)
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must lie in [0, 1), got {betas}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.bias_correction = bias_correction
        self.sums = sums or RowSums()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = _evaluate(closure)
        for group, parameter in _touched(self.param_groups):
            beta1, beta2 = group["betas"]
            state = self._state(parameter)
            rows, values = self.sums(parameter)
            old = parameter.index_select(0, rows)
            values = _with_decay(values, old, group["weight_decay"])
            mean = state["exp_avg"].index_select(0, rows).lerp_(values, 1 - beta1)
            square = state["exp_avg_sq"].index_select(0, rows).mul_(beta2).addcmul_(values, values, value=1 - beta2)
            state["exp_avg"].index_copy_(0, rows, mean)
            state["exp_avg_sq"].index_copy_(0, rows, square)
            times = self._times(state["step"], rows)
            size = group["lr"] / (1 - beta1**times)
            scale = (1 - beta2**times).sqrt().to(old.dtype)
            old.sub_(mean.mul_(size.to(old.dtype)).div_(square.sqrt_().div_(scale).add_(group["eps"])))
            parameter.index_copy_(0, rows, old)
        return loss

    def _state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            counts = len(parameter) if self.bias_correction == "row" else ()
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            state["step"] = torch.zeros(counts, dtype=torch.float32, device=parameter.device)
        return state

    def _times(self, step: Tensor, rows: Int64[Tensor, "touched"]) -> Float[Tensor, "*touched 1"]:
        """Counts this step; float64, since 1 - beta^t loses half its digits in float32."""
        if self.bias_correction == "global":
            return step.add_(1).double().unsqueeze(-1)
        times = step.index_select(0, rows).add_(1)
        step.index_copy_(0, rows, times)
        return times.double().unsqueeze(-1)


@torch.no_grad()
def clip_gradient_norm_(parameters: Sequence[nn.Parameter], max_norm: float, sums: RowSums) -> Float[Tensor, ""]:
    """`torch.nn.utils.clip_grad_norm_` for sparse and dense gradients together; returns the norm before.

    The norm of a sparse gradient is that of its sums by row, what the same table would have with a dense gradient.
    """
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    dense = [p.grad for p in trained if p.grad is not None and not p.grad.is_sparse]
    sparse = [p for p in trained if p.grad is not None and p.grad.is_sparse]
    norms = [*(torch._foreach_norm(dense) if dense else ()), *(sums.norm(parameter) for parameter in sparse)]
    if not norms:
        return torch.zeros(())
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    factor = (max_norm / (total + 1e-6)).clamp(max=1.0)
    scale_gradients_(parameters, factor)
    return total


@torch.no_grad()
def scale_gradients_(parameters: Sequence[nn.Parameter], factor: float | Float[Tensor, ""]) -> None:
    """Multiply all gradients, sparse and dense.

    Sparse ones are made anew: the gradients of two tables whose vectors are added may be one and the same memory.
    """
    dense = [p.grad for p in parameters if p.grad is not None and not p.grad.is_sparse]
    if dense:
        torch._foreach_mul_(dense, factor)
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            rows, values = _lookups(parameter)
            parameter.grad = torch.sparse_coo_tensor(
                rows.unsqueeze(0), values * factor, parameter.shape, check_invariants=False
            )


def _lookups(parameter: nn.Parameter) -> tuple[Int64[Tensor, "lookups"], Float[Tensor, "lookups width"]]:
    """Ids and gradients of a sparse gradient as they are, not summed."""
    gradient = parameter.grad
    if gradient is None or not gradient.is_sparse:
        raise ValueError(
            f"a table of shape {tuple(parameter.shape)} has a dense gradient, and its optimiser takes sparse ones; "
            "build it with sparse=True, or train it by a dense optimiser"
        )
    return gradient._indices()[0], gradient._values()


def _touched(groups: Iterable[dict[str, Any]]) -> Iterable[tuple[dict[str, Any], nn.Parameter]]:
    return ((group, p) for group in groups for p in group["params"] if p.grad is not None)


def _with_decay(values: Tensor, rows: Tensor, weight_decay: float) -> Tensor:
    return values.add(rows, alpha=weight_decay) if weight_decay else values


def _evaluate(closure: Callable[[], float] | None) -> float | None:
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def _check_settings(lr: float, eps: float, weight_decay: float) -> None:
    if lr < 0 or eps < 0 or weight_decay < 0:
        raise ValueError(f"lr, eps and weight_decay must not be negative, got {lr}, {eps} and {weight_decay}")
