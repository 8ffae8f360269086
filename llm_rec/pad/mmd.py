"""Maximum mean discrepancy (MMD) between two sets of vectors: zero exactly when the two distributions agree.

PAD (arXiv 2412.04107) aligns projected text vectors with item-id vectors by a squared MMD of several Gaussian kernels::

    K(x, y) = sum_a exp(-|x - y|^2 / (2 a s2)),   a in {2^-3, ..., 2^1},   s2 = mean squared distance of all pairs

It matches distributions, not pairs: a permuted alignment costs nothing here, the recommendation loss has to tie
each text to its own item. With `bandwidth="mean"` the value is free of scale, so it cannot be compared between batches
or runs; report with `bandwidth="fixed"`.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple, assert_never

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

PAPER_ALPHAS = (0.125, 0.25, 0.5, 1.0, 2.0)
_CPU_BLOCK = 2**18  # pairs that exist at one time: they stay in the cache of a core
_DEVICE_BLOCK = 2**25


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiKernelMMDConfig:
    """Exact multi-kernel MMD; quadratic in the rows. `weight` is PAD's gamma (hard-coded .2 in the released code).

    `biased` is the V-statistic: never negative, zero on identical sets. `unbiased` is the U-statistic: may be negative.
    `official` is the estimator of the released code, the U-statistic plus 2 / (rows - 1): the same gradient, but
    identical sets do not give 0. The released code sums the kernels (`reduce="sum"`). `laplacian` replaces the Gaussian
    kernels by exp(-|x - y|_1 / (a s)), s the mean of all pairwise L1 distances. The `median` bandwidth is our addition.
    """

    weight: float = 0.2
    kernel: Literal["gaussian", "laplacian"] = "gaussian"
    alphas: tuple[float, ...] = PAPER_ALPHAS
    bandwidth: Literal["mean", "median", "fixed"] = "mean"
    fixed_bandwidth: float = 1.0
    estimator: Literal["biased", "unbiased", "official"] = "biased"
    reduce: Literal["sum", "mean"] = "sum"

    def __post_init__(self) -> None:
        _check(self.alphas, self.fixed_bandwidth)


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomFeatureMMDConfig:
    """Gaussian multi-kernel MMD by random Fourier features: linear in the rows, error about 1 / sqrt(num_features).

    Prefer it to `MultiKernelMMDConfig` only when a step compares some ten thousand items or more: below, the exact
    form is both exact and quicker. Our addition.
    """

    weight: float = 0.2
    alphas: tuple[float, ...] = PAPER_ALPHAS
    bandwidth: Literal["mean", "fixed"] = "mean"
    fixed_bandwidth: float = 1.0
    reduce: Literal["sum", "mean"] = "sum"
    num_features: int = 1024

    def __post_init__(self) -> None:
        _check(self.alphas, self.fixed_bandwidth)
        if self.num_features < 1:
            raise ValueError(f"num_features must be at least 1, got {self.num_features}")


def _check(alphas: tuple[float, ...], fixed_bandwidth: float) -> None:
    if not alphas or min(alphas) <= 0:
        raise ValueError(f"alphas must be positive and at least one, got {alphas}")
    if fixed_bandwidth <= 0:
        raise ValueError(f"fixed_bandwidth must be positive, got {fixed_bandwidth}")


def mkmmd(
    x: Float[Tensor, "rows dim"],
    y: Float[Tensor, "others dim"],
    config: MultiKernelMMDConfig,
    x_mask: Bool[Tensor, "rows"] | None = None,
    y_mask: Bool[Tensor, "others"] | None = None,
) -> Float[Tensor, ""]:
    """Squared multi-kernel MMD of the rows of `x` and `y` where their masks are True.

    Pairwise distances by a matrix product serve all kernels; only blocks of them exist at a time, and nothing quadratic
    is kept for the backward pass. Computed in float32 at least, also under autocast. The bandwidth
    carries no gradient. Rows under a False mask change neither the value nor any gradient.

    >>> z = torch.tensor([[0.0], [1.0], [5.0]])
    >>> round(float(mkmmd(z, z, MultiKernelMMDConfig())), 6)
    0.0
    >>> round(float(mkmmd(z, z + 4, MultiKernelMMDConfig())), 3)
    2.298
    """
    with full_precision(x):
        both = _prepare(x, y, x_mask, y_mask, config)
        total = _gaussian(both, config) if config.kernel == "gaussian" else _laplacian(both, config)
        return total + _offset(both, config)


def rff_mmd(
    x: Float[Tensor, "rows dim"],
    y: Float[Tensor, "others dim"],
    config: RandomFeatureMMDConfig,
    x_mask: Bool[Tensor, "rows"] | None = None,
    y_mask: Bool[Tensor, "others"] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """The V-statistic of `mkmmd` estimated with fresh random frequencies: |mean phi(x) - mean phi(y)|^2.

    exp(-|x - y|^2 / (2 s)) = E cos(w (x - y)) over w ~ N(0, I / s) (Rahimi and Recht, 2007); all kernels share a draw.
    """
    with full_precision(x):
        both = _prepare(x, y, x_mask, y_mask, config)
        z, signed = torch.cat([both.x, both.y]), torch.cat([both.x_share, -both.y_share])
        draw = torch.randn(z.shape[1], config.num_features, dtype=z.dtype, device=z.device, generator=generator)
        angles = z @ draw
        total = z.new_zeros(())
        for alpha in config.alphas:
            scaled = angles / (alpha * both.bandwidth).sqrt()
            total = total + ((signed @ scaled.cos()).square() + (signed @ scaled.sin()).square()).mean()
        return total / len(config.alphas) if config.reduce == "mean" else total


def linear_mmd(
    x: Float[Tensor, "rows dim"],
    y: Float[Tensor, "others dim"],
    x_mask: Bool[Tensor, "rows"] | None = None,
    y_mask: Bool[Tensor, "others"] | None = None,
    *,
    cosine: bool = False,
) -> Float[Tensor, ""]:
    """MMD with k(x, y) = <x, y>: |mean x - mean y|^2; with `cosine`, of the vectors scaled to length 1.

    Matches first moments only, while `mkmmd` matches distributions.
    """
    with full_precision(x):
        x, y = _exact(x), _exact(y)
        if cosine:
            x, y = F.normalize(x, dim=1), F.normalize(y, dim=1)
        return (_shares(x, x_mask) @ x - _shares(y, y_mask) @ y).square().sum()


def full_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """No autocast inside, where the tensor's device knows it at all."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


class _Sets(NamedTuple):
    """Two sets of rows around their common mean, each row's share of its set (0 = masked), and the bandwidth."""

    x: Float[Tensor, "rows dim"]
    y: Float[Tensor, "others dim"]
    x_share: Float[Tensor, "rows"]
    y_share: Float[Tensor, "others"]
    bandwidth: Float[Tensor, ""]


def _shares(rows: Tensor, mask: Tensor | None) -> Float[Tensor, "rows"]:
    real = torch.ones_like(rows[:, 0]) if mask is None else mask.to(rows.dtype)
    return real / real.sum().clamp_min(1)


def _exact(rows: Tensor) -> Tensor:
    """At least float32."""
    return rows if rows.dtype == torch.float64 else rows.float()


def _prepare(
    x: Tensor,
    y: Tensor,
    x_mask: Tensor | None,
    y_mask: Tensor | None,
    config: MultiKernelMMDConfig | RandomFeatureMMDConfig,
) -> _Sets:
    """Both sets moved to their common mean: distances stay, rounding shrinks."""
    x, y = _exact(x), _exact(y)
    x_share, y_share = _shares(x, x_mask), _shares(y, y_mask)
    real = (torch.cat([x_share, y_share]) != 0).to(x.dtype)
    with torch.no_grad():
        both = torch.cat([x, y])
        centre = (real @ both) / real.sum().clamp_min(1)
        bandwidth = _bandwidth((both - centre) * real[:, None], real, config).clamp_min(1e-12)
    inside = [torch.where(share[:, None] != 0, rows - centre, 0.0) for rows, share in ((x, x_share), (y, y_share))]
    return _Sets(inside[0], inside[1], x_share, y_share, bandwidth)


def _bandwidth(z: Tensor, real: Tensor, config: MultiKernelMMDConfig | RandomFeatureMMDConfig) -> Float[Tensor, ""]:
    laplacian = isinstance(config, MultiKernelMMDConfig) and config.kernel == "laplacian"
    number = real.sum().clamp_min(1)
    match config.bandwidth:
        case "fixed":
            return torch.full((), config.fixed_bandwidth, dtype=z.dtype, device=z.device)
        case "mean" if not laplacian:  # the mean over all ordered pairs is twice the variance: no matrix needed
            return 2 * (real @ z.square().sum(1)) / number
        case "mean":
            return _sum_of_l1(z, real) / number.square()
        case "median":
            distances = torch.cdist(z, z, p=1) if laplacian else torch.cdist(z, z).square()
            pairs = (real[:, None] * real).bool().triu(1)
            return distances.masked_fill(~pairs, torch.nan).nanmedian().nan_to_num()
        case _:
            assert_never(config.bandwidth)


def _sum_of_l1(z: Float[Tensor, "rows dim"], shares: Float[Tensor, "rows"]) -> Float[Tensor, ""]:
    """sum_ij shares_i shares_j |z_i - z_j|_1, by a sort of each column: a row is added as often as others lie below it,
    and taken away as often as they lie above.
    """
    values, order = z.sort(0)
    weights = shares[order]
    below = weights.cumsum(0) - weights
    above = weights.sum(0) - below - weights
    return 2 * (values * weights * (below - above)).sum()


def _factors(both: _Sets, config: MultiKernelMMDConfig) -> tuple[Tensor, Tensor]:
    """Factor n / (n - 1) of each within-set mean once its diagonal is left out; 1 for the V-statistic."""
    numbers = torch.stack([(both.x_share != 0).sum(), (both.y_share != 0).sum()]).to(both.x.dtype)
    factors = torch.ones_like(numbers) if config.estimator == "biased" else numbers / (numbers - 1).clamp_min(1)
    factors = factors / len(config.alphas) if config.reduce == "mean" else factors
    return factors[0], factors[1]


def _offset(both: _Sets, config: MultiKernelMMDConfig) -> Tensor | float:
    """What the estimators differ by beside those factors: the diagonals (K(z, z) = 1), the constant of `official`."""
    if config.estimator == "biased":
        return 0.0
    kernels = len(config.alphas)
    x_factor, y_factor = _factors(both, config)
    offset = -kernels * (x_factor * both.x_share.square().sum() + y_factor * both.y_share.square().sum())
    if config.estimator == "official":
        for share in (both.x_share, both.y_share):
            offset = offset + 1 / ((share != 0).sum().to(share.dtype) - 1).clamp_min(1)
    return offset


def _gaussian(both: _Sets, config: MultiKernelMMDConfig) -> Float[Tensor, ""]:
    factors = torch.stack(_factors(both, config))
    cross = 2 / len(config.alphas) if config.reduce == "mean" else 2.0
    apply: Callable[..., Tensor] = _GaussianMMD.apply
    return apply(both.x, both.y, both.x_share, both.y_share, both.bandwidth, factors, cross, config.alphas)


def _laplacian(both: _Sets, config: MultiKernelMMDConfig) -> Float[Tensor, ""]:
    def mean(x: Tensor, x_share: Tensor, y: Tensor, y_share: Tensor) -> Tensor:
        distances = torch.cdist(x, y, p=1)
        kernel = torch.stack([(-distances / (alpha * both.bandwidth)).exp() for alpha in config.alphas]).sum(0)
        return x_share @ kernel @ y_share

    x_factor, y_factor = _factors(both, config)
    cross = 2 / len(config.alphas) if config.reduce == "mean" else 2.0
    within = x_factor * mean(both.x, both.x_share, both.x, both.x_share)
    within = within + y_factor * mean(both.y, both.y_share, both.y, both.y_share)
    return within - cross * mean(both.x, both.x_share, both.y, both.y_share)


class _GaussianMMD(torch.autograd.Function):
    """factor_x K_xx + factor_y K_yy - cross K_xy, where K_ab = sum_ij a_i b_j K(a_i, b_j).

    The result is one number, so its gradient, linear in size, is found on the way and nothing quadratic is kept:
    d K_ab / d a_i = 2 a_i sum_j b_j K'(d_ij) (a_i - b_j), with K' the derivative by the squared distance d_ij.
    """

    @staticmethod
    def forward(
        ctx: Any,  # torch types neither the context nor `apply`
        x: Tensor,
        y: Tensor,
        x_share: Tensor,
        y_share: Tensor,
        bandwidth: Tensor,
        factors: Tensor,
        cross: float,
        alphas: tuple[float, ...],
    ) -> Tensor:
        xx, x_grad, _ = _pair_sum(x, x_share, x, x_share, bandwidth, alphas, second=False)
        yy, y_grad, _ = _pair_sum(y, y_share, y, y_share, bandwidth, alphas, second=False)
        xy, x_pull, y_pull = _pair_sum(x, x_share, y, y_share, bandwidth, alphas)
        x_grad = 2 * factors[0] * x_grad - cross * x_pull
        y_grad = 2 * factors[1] * y_grad - cross * y_pull
        ctx.save_for_backward(x_grad, y_grad)
        return factors[0] * xx + factors[1] * yy - cross * xy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output: Tensor) -> tuple[Tensor, Tensor, None, None, None, None, None, None]:
        x_grad, y_grad = ctx.saved_tensors
        return output * x_grad, output * y_grad, None, None, None, None, None, None


def _pair_sum(
    x: Tensor,
    x_share: Tensor,
    y: Tensor,
    y_share: Tensor,
    bandwidth: Tensor,
    alphas: tuple[float, ...],
    *,
    second: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """sum_ij x_share_i y_share_j K(x_i, y_j) and its gradients by x and, if `second`, by y; blocks of rows in turn."""
    ordered = sorted(alphas, reverse=True)
    scale = 1 / (2 * ordered[0] * bandwidth)  # of the widest kernel; its powers are the others
    half = scale.sqrt()
    left, right = x * half, y * half
    left_norms, right_norms = left.square().sum(1), right.square().sum(1)
    weighted = torch.cat([y * y_share[:, None], y_share[:, None]], dim=1)
    total, x_grad, y_grad = x.new_zeros(()), torch.empty_like(x), torch.zeros_like(y)
    rows = max(1, (_CPU_BLOCK if x.device.type == "cpu" else _DEVICE_BLOCK) // max(1, len(y)))
    for part in (slice(start, start + rows) for start in range(0, len(x), rows)):
        exponents = torch.addmm(-left_norms[part, None] - right_norms, left[part], right.T, alpha=2).clamp_max_(0)
        value, slope = _kernels(exponents, y_share, ordered)
        total += x_share[part] @ value
        pulled = slope @ weighted
        x_grad[part] = x_share[part, None] * (pulled[:, -1:] * x[part] - pulled[:, :-1])
        if not second:
            continue
        back = slope.T @ torch.cat([x[part] * x_share[part, None], x_share[part, None]], dim=1)
        y_grad += y_share[:, None] * (back[:, -1:] * y - back[:, :-1])
    return total, -2 * scale * x_grad, -2 * scale * y_grad


def _kernels(exponents: Tensor, y_share: Tensor, ordered: list[float]) -> tuple[Tensor, Tensor]:
    """Sum of the kernels times `y_share`, and the sum of their slopes over the slope of the widest.

    Halving alpha squares a kernel, so with the usual alphas one `exp` serves all. Overwrites `exponents` where it can.
    """
    halves = all(narrow == wide / 2 for wide, narrow in pairwise(ordered))
    kernel = exponents.exp_() if halves else exponents.exp()
    value, slope = kernel @ y_share, kernel.clone()
    for alpha in ordered[1:]:
        kernel = kernel.square_() if halves else torch.exp(exponents * (ordered[0] / alpha))
        value += kernel @ y_share
        slope.add_(kernel, alpha=ordered[0] / alpha)
    return value, slope
