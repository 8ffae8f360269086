import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_rec.pad.mmd import (
    PAPER_ALPHAS,
    MultiKernelMMDConfig,
    RandomFeatureMMDConfig,
    linear_mmd,
    mkmmd,
    rff_mmd,
)


def normal(rows: int, dim: int, seed: int, *, shift: float = 0.0, dtype=torch.float64):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=dtype) + shift


def naive(x, y, config):
    """Double loops over all pairs, straight from the definition."""
    z = [*x, *y]

    def distance(a, b):
        return (a - b).abs().sum() if config.kernel == "laplacian" else (a - b).square().sum()

    with torch.no_grad():
        pairs = torch.stack([torch.stack([distance(a, b) for b in z]) for a in z])
        upper = pairs[torch.triu(torch.ones_like(pairs, dtype=torch.bool), 1)]
        s = {"mean": pairs.mean(), "median": upper.median(), "fixed": torch.tensor(config.fixed_bandwidth)}[
            config.bandwidth
        ]

    def kernel(a, b):
        factor = 1 if config.kernel == "laplacian" else 2
        return sum(torch.exp(-distance(a, b) / (factor * alpha * s)) for alpha in config.alphas)

    def total(first, second, *, diagonal):
        return sum(kernel(a, b) for i, a in enumerate(first) for j, b in enumerate(second) if diagonal or i != j)

    n, m = len(x), len(y)
    cross = 2 * total(x, y, diagonal=True) / (n * m)
    if config.estimator == "biased":
        value = total(x, x, diagonal=True) / n**2 + total(y, y, diagonal=True) / m**2 - cross
    else:
        value = total(x, x, diagonal=False) / (n * (n - 1)) + total(y, y, diagonal=False) / (m * (m - 1)) - cross
    value = value / len(config.alphas) if config.reduce == "mean" else value
    return value + 1 / (n - 1) + 1 / (m - 1) if config.estimator == "official" else value


CONFIGS = [
    MultiKernelMMDConfig(kernel=kernel, bandwidth=bandwidth, estimator=estimator, reduce=reduce, alphas=alphas)
    for kernel in ("gaussian", "laplacian")
    for bandwidth, reduce, alphas in (
        ("mean", "sum", PAPER_ALPHAS),
        ("median", "mean", (0.3, 1.0)),
        ("fixed", "sum", (1.0,)),
    )
    for estimator in ("biased", "unbiased", "official")
]


@pytest.mark.parametrize(
    "config", CONFIGS, ids=lambda c: f"{c.kernel}-{c.bandwidth}-{c.estimator}-{c.reduce}-{len(c.alphas)}"
)
def test_value_and_gradient_equal_a_double_loop(config, monkeypatch):
    monkeypatch.setattr("llm_rec.pad.mmd._CPU_BLOCK", 13)  # several blocks of rows, the last one not full
    x, y = normal(5, 3, 0).requires_grad_(), normal(6, 3, 1, shift=0.5).requires_grad_()
    ours, slow = mkmmd(x, y, config), naive(x, y, config)
    torch.testing.assert_close(ours, slow, rtol=1e-10, atol=1e-12)
    for mine, theirs in zip(torch.autograd.grad(ours, (x, y)), torch.autograd.grad(slow, (x, y)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_gradient_check_in_float64():
    config = MultiKernelMMDConfig(bandwidth="fixed", fixed_bandwidth=3.0)
    x, y = normal(4, 3, 0).requires_grad_(), normal(5, 3, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: mkmmd(a, b, config), (x, y))


@pytest.mark.parametrize(("alphas", "offset"), [((1.0,), 0.019), (PAPER_ALPHAS, -0.065)])
def test_released_estimator_gives_its_known_offset_on_identical_sets(alphas, offset):
    x = normal(64, 128, 0)
    official = mkmmd(x, x, MultiKernelMMDConfig(estimator="official", alphas=alphas))
    assert float(official) == pytest.approx(offset, abs=5e-4)
    assert float(mkmmd(x, x, MultiKernelMMDConfig(alphas=alphas))) == pytest.approx(0.0, abs=1e-12)


def test_released_estimator_has_the_gradient_of_the_unbiased_one():
    x, y = normal(7, 3, 0).requires_grad_(), normal(7, 3, 1)
    grads = [
        torch.autograd.grad(mkmmd(x, y, MultiKernelMMDConfig(estimator=estimator)), x)[0]
        for estimator in ("official", "unbiased")
    ]
    torch.testing.assert_close(grads[0], grads[1])


@given(st.integers(2, 12), st.integers(2, 12), st.integers(1, 5), st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_biased_estimate_is_symmetric_and_never_negative(rows, others, dim, seed):
    x, y = normal(rows, dim, seed), normal(others, dim, seed + 1)
    forth, back = mkmmd(x, y, MultiKernelMMDConfig()), mkmmd(y, x, MultiKernelMMDConfig())
    torch.testing.assert_close(forth, back)
    assert float(forth) >= -1e-12


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian"])
def test_grows_with_a_mean_shift(kernel):
    x, y = normal(60, 4, 0), normal(60, 4, 1)
    config = MultiKernelMMDConfig(bandwidth="fixed", fixed_bandwidth=8.0, kernel=kernel)
    values = [float(mkmmd(x, y + shift, config)) for shift in (0.0, 0.5, 1.0, 2.0)]
    assert values == sorted(values)
    assert values[3] > 10 * values[0]


def test_sees_a_difference_of_spread_that_the_linear_kernel_misses():
    x = normal(400, 4, 0)
    x = x - x.mean(0)
    assert float(linear_mmd(x, 3 * x)) == pytest.approx(0.0, abs=1e-20)
    assert float(mkmmd(x, 3 * x, MultiKernelMMDConfig())) > 0.05


@pytest.mark.parametrize(
    "config", CONFIGS, ids=lambda c: f"{c.kernel}-{c.bandwidth}-{c.estimator}-{c.reduce}-{len(c.alphas)}"
)
def test_masked_rows_change_neither_value_nor_gradient(config):
    x, y = normal(5, 3, 0), normal(6, 3, 1)
    plain = x.clone().requires_grad_()
    expected = mkmmd(plain, y, config)
    padded = torch.cat([normal(2, 3, 9), x, normal(1, 3, 8)]).requires_grad_()
    mask = torch.tensor([False, False, True, True, True, True, True, False])
    others = torch.cat([y, torch.full((3, 3), 50.0, dtype=y.dtype)])
    value = mkmmd(padded, others, config, mask, torch.arange(9) < 6)
    torch.testing.assert_close(value, expected)
    (grad,), (reference,) = torch.autograd.grad(value, padded), torch.autograd.grad(expected, plain)
    torch.testing.assert_close(grad[mask], reference)
    assert float(grad[~mask].abs().sum()) == 0.0


@pytest.mark.parametrize("estimator", ["biased", "unbiased", "official"])
def test_identical_rows_and_empty_masks_give_finite_numbers(estimator):
    config = MultiKernelMMDConfig(estimator=estimator)
    z = torch.ones(3, 2, requires_grad=True)
    value = mkmmd(z, z.detach(), config)
    assert torch.isfinite(value)
    assert torch.isfinite(torch.autograd.grad(value, z)[0]).all()
    if estimator == "biased":
        assert float(mkmmd(z.detach(), z.detach(), config, *torch.zeros(2, 3, dtype=torch.bool))) == 0.0


def test_is_computed_in_float32_under_autocast():
    x, y = normal(20, 8, 0, dtype=torch.float32), normal(20, 8, 1, dtype=torch.float32)
    expected = mkmmd(x, y, MultiKernelMMDConfig())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = mkmmd(x, y, MultiKernelMMDConfig())
    assert inside.dtype == torch.float32
    assert torch.equal(inside, expected)


def test_far_from_the_origin_keeps_its_precision():
    x, y = normal(20, 4, 0, dtype=torch.float32), normal(20, 4, 1, dtype=torch.float32)
    near, far = mkmmd(x, y, MultiKernelMMDConfig()), mkmmd(x + 1000, y + 1000, MultiKernelMMDConfig())
    torch.testing.assert_close(near, far, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("bandwidth", ["mean", "fixed"])
def test_random_features_approach_the_exact_value(bandwidth):
    x, y = normal(80, 6, 0), normal(90, 6, 1, shift=0.4)
    exact = mkmmd(x, y, MultiKernelMMDConfig(bandwidth=bandwidth, fixed_bandwidth=5.0))
    config = RandomFeatureMMDConfig(bandwidth=bandwidth, fixed_bandwidth=5.0, num_features=20_000)
    estimate = rff_mmd(x, y, config, generator=torch.Generator().manual_seed(0))
    assert float(estimate) == pytest.approx(float(exact), rel=0.03)


def test_random_feature_gradient_points_along_the_exact_one():
    x, y = normal(40, 4, 0).requires_grad_(), normal(40, 4, 1, shift=1.0)
    config = RandomFeatureMMDConfig(num_features=8192, reduce="mean")
    estimate = rff_mmd(x, y, config, generator=torch.Generator().manual_seed(0))
    exact = mkmmd(x, y, MultiKernelMMDConfig(reduce="mean"))
    grads = [torch.autograd.grad(value, x)[0].flatten() for value in (estimate, exact)]
    assert float(torch.cosine_similarity(grads[0], grads[1], dim=0)) > 0.97


def test_random_features_ignore_masked_rows():
    x, y = normal(5, 3, 0), normal(6, 3, 1)
    config = RandomFeatureMMDConfig(num_features=64)
    expected = rff_mmd(x, y, config, generator=torch.Generator().manual_seed(0))
    padded, mask = torch.cat([x, normal(2, 3, 5)]), torch.arange(7) < 5
    value = rff_mmd(padded, y, config, mask, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(value, expected)


def test_linear_kernels_equal_the_distance_of_means():
    x, y = normal(5, 3, 0), normal(6, 3, 1)
    torch.testing.assert_close(linear_mmd(x, y), (x.mean(0) - y.mean(0)).square().sum())
    unit = [v / v.norm(dim=1, keepdim=True) for v in (x, y)]
    expected = (unit[0].mean(0) - unit[1].mean(0)).square().sum()
    torch.testing.assert_close(linear_mmd(x, y, cosine=True), expected)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MultiKernelMMDConfig(alphas=()), r"alphas must be positive and at least one, got \(\)"),
        (
            lambda: MultiKernelMMDConfig(alphas=(1.0, -2.0)),
            r"alphas must be positive and at least one, got \(1.0, -2.0",
        ),
        (lambda: RandomFeatureMMDConfig(fixed_bandwidth=0.0), "fixed_bandwidth must be positive, got 0.0"),
        (lambda: RandomFeatureMMDConfig(num_features=0), "num_features must be at least 1, got 0"),
    ],
)
def test_wrong_settings_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
