"""Maximum mean discrepancy (MMD) between two sets of vectors: zero exactly when the two distributions agree.

PAD (arXiv 2412.04107) aligns projected text vectors with item-id vectors by a squared MMD of several Gaussian kernels::

    K(x, y) = sum_a exp(-|x - y|^2 / (2 a s2)),   a in {2^-3, ..., 2^1},   s2 = mean squared distance of all pairs

It matches distributions, not pairs: a permuted alignment costs nothing here, the recommendation loss has to tie
each text to its own item. With `bandwidth="mean"` the value is free of scale, so it cannot be compared between batches
or runs; report with `bandwidth="fixed"`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, assert_never

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

PAPER_ALPHAS = (0.125, 0.25, 0.5, 1.0, 2.0)
_CHUNK = 4096  # rows of the pairwise matrix that exist at one time


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

    Prefer it to `MultiKernelMMDConfig` when a step has more than a few thousand distinct items. Our addition.
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

    One pairwise-distance matrix by a matrix product serves all kernels; memory is bounded by a block of its rows, and
    nothing quadratic is kept for the backward pass. Computed in float32 at least, also under autocast. The bandwidth
    carries no gradient. Rows under a False mask change neither the value nor any gradient.

    >>> z = torch.tensor([[0.0], [1.0], [5.0]])
    >>> round(float(mkmmd(z, z, MultiKernelMMDConfig())), 6)
    0.0
    >>> round(float(mkmmd(z, z + 4, MultiKernelMMDConfig())), 3)
    2.298
    """
    with torch.autocast(x.device.type, enabled=False):
        z, signed, bandwidth = _prepare(x, y, x_mask, y_mask, config)
        corrections = _corrections(signed, len(x), config.estimator)
        total = _pair_sum(z, signed, bandwidth, corrections, len(x), config)
        if config.reduce == "mean":
            total = total / len(config.alphas)
        if config.estimator == "official":
            real = (signed != 0).to(z.dtype)
            total = total + 1 / (real[: len(x)].sum() - 1).clamp_min(1) + 1 / (real[len(x) :].sum() - 1).clamp_min(1)
        return total


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
    with torch.autocast(x.device.type, enabled=False):
        z, signed, bandwidth = _prepare(x, y, x_mask, y_mask, config)
        draw = torch.randn(z.shape[1], config.num_features, dtype=z.dtype, device=z.device, generator=generator)
        angles = z @ draw
        total = z.new_zeros(())
        for alpha in config.alphas:
            scaled = angles / (alpha * bandwidth).sqrt()
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
    with torch.autocast(x.device.type, enabled=False):
        z, signed = _stack(x, y, x_mask, y_mask)
        if cosine:
            z = torch.nn.functional.normalize(z, dim=1)
        return (signed @ z).square().sum()


def _stack(
    x: Tensor, y: Tensor, x_mask: Tensor | None, y_mask: Tensor | None
) -> tuple[Float[Tensor, "both dim"], Float[Tensor, "both"]]:
    """Both sets one above the other, and each row's share in (mean of x) - (mean of y)."""
    z = torch.cat([x, y])
    z = z if z.dtype == torch.float64 else z.float()
    x_share = torch.ones_like(z[: len(x), 0]) if x_mask is None else x_mask.to(z.dtype)
    y_share = torch.ones_like(z[len(x) :, 0]) if y_mask is None else y_mask.to(z.dtype)
    signed = torch.cat([x_share / x_share.sum().clamp_min(1), -y_share / y_share.sum().clamp_min(1)])
    return z, signed


def _prepare(
    x: Tensor,
    y: Tensor,
    x_mask: Tensor | None,
    y_mask: Tensor | None,
    config: MultiKernelMMDConfig | RandomFeatureMMDConfig,
) -> tuple[Float[Tensor, "both dim"], Float[Tensor, "both"], Float[Tensor, ""]]:
    """Stacked rows moved to their common mean (distances stay, rounding shrinks), their shares, and the bandwidth."""
    z, signed = _stack(x, y, x_mask, y_mask)
    with torch.no_grad():
        real = (signed != 0).to(z.dtype)
        number = real.sum().clamp_min(1)
        centre = (real @ z) / number
    z = torch.where(real[:, None].bool(), z - centre, 0.0)
    bandwidth = _bandwidth(z.detach(), real, number, config)
    return z, signed, bandwidth.clamp_min(1e-12)


def _bandwidth(
    z: Tensor, real: Tensor, number: Tensor, config: MultiKernelMMDConfig | RandomFeatureMMDConfig
) -> Float[Tensor, ""]:
    laplacian = isinstance(config, MultiKernelMMDConfig) and config.kernel == "laplacian"
    match config.bandwidth:
        case "fixed":
            return z.new_tensor(config.fixed_bandwidth)
        case "mean" if not laplacian:  # the mean over all ordered pairs is twice the variance: no matrix needed
            return 2 * (real @ z.square().sum(1)) / number
        case "mean":
            return real @ torch.cdist(z, z, p=1) @ real / number.square()
        case "median":
            distances = torch.cdist(z, z, p=1) if laplacian else _squared_distances(z, z)
            pairs = (real[:, None] * real).bool().triu(1)
            median = distances.masked_fill(~pairs, torch.nan).nanmedian()
            return median.nan_to_num()
        case _:
            assert_never(config.bandwidth)


def _corrections(signed: Tensor, rows: int, estimator: str) -> Float[Tensor, "2"] | None:
    """Factors n / (n - 1) of the two within-set sums once their diagonals are left out; None for the V-statistic."""
    if estimator == "biased":
        return None
    real = signed != 0
    numbers = torch.stack([real[:rows].sum(), real[rows:].sum()]).to(signed.dtype)
    return numbers / (numbers - 1).clamp_min(1)


def _pair_sum(
    z: Tensor, signed: Tensor, bandwidth: Tensor, corrections: Tensor | None, rows: int, config: MultiKernelMMDConfig
) -> Tensor:
    match config.kernel:
        case "gaussian":
            apply: Callable[..., Tensor] = _GaussianPairSum.apply
            return apply(z, signed, bandwidth, corrections, rows, config.alphas)
        case "laplacian":
            distances = torch.cdist(z, z, p=1)
            kernel = torch.stack([(-distances / (alpha * bandwidth)).exp() for alpha in config.alphas]).sum(0)
            return (_pair_weights(signed, signed, corrections, rows, 0) * kernel).sum()
        case _:
            assert_never(config.kernel)


def _pair_weights(
    part: Tensor, signed: Tensor, corrections: Tensor | None, rows: int, start: int
) -> Float[Tensor, "chunk both"]:
    """Weight of every kernel value in the estimate, for the block of rows that begins at `start`."""
    weights = part[:, None] * signed
    if corrections is None:
        return weights
    first = (torch.arange(start, start + len(part), device=part.device) < rows)[:, None]
    weights[:, :rows] *= torch.where(first, corrections[0], 1.0)
    weights[:, rows:] *= torch.where(first, 1.0, corrections[1])
    weights.diagonal(start).zero_()
    return weights


def _squared_distances(x: Tensor, y: Tensor) -> Float[Tensor, "rows others"]:
    return torch.addmm(x.square().sum(1)[:, None] + y.square().sum(1), x, y.T, alpha=-2).clamp_min_(0)


class _GaussianPairSum(torch.autograd.Function):
    """sum_ij W_ij K(z_i, z_j). The result is one number, so its gradient, linear in size, is found on the way.

    d/dz_i = 4 sum_j W_ij K'(d_ij) (z_i - z_j), with K' the derivative by the squared distance d_ij and W symmetric.
    """

    @staticmethod
    def forward(
        ctx: Any,  # torch types neither the context nor `apply`
        z: Tensor,
        signed: Tensor,
        bandwidth: Tensor,
        corrections: Tensor | None,
        rows: int,
        alphas: tuple[float, ...],
    ) -> Tensor:
        needs_gradient = ctx.needs_input_grad[0]
        total, gradient = z.new_zeros(()), torch.empty_like(z)
        for start in range(0, len(z), _CHUNK):
            part = z[start : start + _CHUNK]
            distances = _squared_distances(part, z)
            distances.diagonal(start).zero_()
            weights = _pair_weights(signed[start : start + _CHUNK], signed, corrections, rows, start)
            value, slope = _kernels(distances, bandwidth, alphas)
            total += (weights * value).sum()
            if needs_gradient:
                slope *= weights
                gradient[start : start + _CHUNK] = 4 * (slope.sum(1, keepdim=True) * part - slope @ z)
        if needs_gradient:
            ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return output * gradient, None, None, None, None, None


def _kernels(distances: Tensor, bandwidth: Tensor, alphas: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """The sum of the kernels and its derivative by the distance. Halving alpha squares a kernel: one `exp` may do."""
    ordered = sorted(alphas, reverse=True)
    halves = all(b == a / 2 for a, b in pairwise(ordered))
    kernel = (distances / (-2 * ordered[0] * bandwidth)).exp_()
    value, slope = kernel.clone(), kernel / (-2 * ordered[0] * bandwidth)
    for alpha in ordered[1:]:
        kernel = kernel.square_() if halves else torch.exp(distances / (-2 * alpha * bandwidth))
        value += kernel
        slope += kernel / (-2 * alpha * bandwidth)
    return value, slope
