"""How sure a mean is, and whether two runs differ: intervals, paired tests, correction for many comparisons.

Two questions need two kinds of repetition. *Would other users have said the same?* resamples targets:
`bootstrap_intervals` for one run, `compare` for two runs on the same targets. *Would another training run have said the
same?* needs runs with several seeds: `compare_seeds`. A claim about a method rests on the second; the first alone holds
for one pair of trained models.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64

_WEIGHTS_AT_ONCE = 1 << 22  # resampling weights held at a time: 32 MiB of float64


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Run b minus run a on one slice and metric: mean with its interval, p-value, and p after Holm's correction."""

    slice: str
    metric: str
    count: int
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    p_value: float
    p_holm: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedTest:
    """Several seeds of a against the same seeds of b: mean and standard deviation of b - a, and two p-values."""

    seeds: int
    difference: float
    std: float
    t: float
    p_t: float  # paired t test: assumes normal differences
    p_sign: float  # exact sign-flip permutation: assumes only symmetry, but cannot fall below 2^(1 - seeds)


def bootstrap_intervals(
    values: Float64[np.ndarray, "targets metrics"], *, samples: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[Float64[np.ndarray, "metrics"], Float64[np.ndarray, "metrics"]]:
    """Percentile bootstrap of column means: (low, high). Targets are drawn with replacement, rows stay whole.

    A resample is a row of counts, so all metrics of many resamples are one matmul. Deterministic in `seed`.

    >>> low, high = bootstrap_intervals(np.array([[0.0], [1.0], [1.0], [0.0]]), seed=1)
    >>> bool(0.0 <= low[0] < 0.5 < high[0] <= 1.0)
    True
    """
    if len(values) < 1 or samples < 1 or not 0 < level < 1:
        raise ValueError(
            f"a bootstrap needs targets, samples >= 1 and a level between 0 and 1; got {len(values)} targets, "
            f"samples={samples}, level={level}"
        )
    tail = (1 - level) / 2
    low, high = np.quantile(bootstrap_means(values, samples=samples, seed=seed), [tail, 1 - tail], axis=0)
    return low, high


def bootstrap_means(
    values: Float64[np.ndarray, "targets metrics"], *, samples: int, seed: int
) -> Float64[np.ndarray, "samples metrics"]:
    """Column means of every resample, all columns of one resample from the same draws: for figures made of several."""
    number = len(values)
    if number < 1 or samples < 1:
        raise ValueError(f"resamples need rows and samples >= 1, got {number} rows and samples={samples}")
    rng = np.random.default_rng(seed)
    return np.concatenate([_resampled_means(values, rows, rng) for rows in _slabs(samples, number)])


def compare(
    per_target_a: Mapping[str, Float64[np.ndarray, "targets"]],
    per_target_b: Mapping[str, Float64[np.ndarray, "targets_b"]],
    slices: Mapping[str, Bool[np.ndarray, "targets"]],
    *,
    samples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> list[Difference]:
    """Paired comparison of two runs on the same targets, one record per slice and metric; empty slices are left out.

    The p-value is that of the sign-flip permutation test: under the null hypothesis a target's difference is as likely
    to have the other sign; p = (1 + flips at least as extreme) / (1 + flips), so it is never 0. The interval is a
    paired percentile bootstrap. `p_holm` corrects over all records returned. For a claim about a method rather than
    about two trained models use `compare_seeds`.
    """
    if list(per_target_a) != list(per_target_b):
        raise ValueError(f"the runs report different metrics: {list(per_target_a)} and {list(per_target_b)}")
    table_a, table_b = (np.stack(list(table.values()), axis=1) for table in (per_target_a, per_target_b))
    if table_a.shape != table_b.shape:
        raise ValueError(
            f"run a has {len(table_a)} targets and run b has {len(table_b)}; "
            "a paired comparison needs the same split and part for both"
        )
    drafts = []
    for name, mask in slices.items():
        if mask.any():
            drafts += _compare_slice(name, list(per_target_a), table_a[mask], table_b[mask], samples, level, seed)
    corrected = holm([draft.p_value for draft in drafts])
    return [replace(draft, p_holm=p) for draft, p in zip(drafts, corrected, strict=True)]


def sign_flip_p(differences: Float64[np.ndarray, "targets metrics"], *, samples: int, seed: int) -> list[float]:
    """Two-sided p-values of the column means under random signs, with the same flips for all columns.

    Up to 2^n <= samples all sign patterns are enumerated and the p-value is exact.
    """
    moved = differences[(differences != 0).any(axis=1)]
    observed = np.abs(moved.sum(axis=0))
    margin = 1e-12 * np.abs(moved).sum(axis=0)  # sums in another order differ in their last bits
    number = len(moved)
    if number < samples.bit_length():  # 2^n <= samples
        patterns = np.arange(2**number)[:, None] >> np.arange(number)
        extreme = np.abs((1.0 - 2.0 * (patterns & 1)) @ moved) >= observed - margin
        return [float(p) for p in extreme.mean(axis=0)]
    rng = np.random.default_rng(seed)
    hits = np.zeros(differences.shape[1])
    for rows in _slabs(samples, number):
        bits = np.unpackbits(rng.integers(0, 256, (rows, (number + 7) // 8), dtype=np.uint8), axis=1)[:, :number]
        hits += (np.abs((1.0 - 2.0 * bits) @ moved) >= observed - margin).sum(axis=0)
    return [float(p) for p in (1 + hits) / (1 + samples)]


def compare_seeds(a: Sequence[float], b: Sequence[float]) -> SeedTest:
    """Paired test over seeds: entry i of both comes from seed i (same data, same initial randomness).

    >>> test = compare_seeds([0.10, 0.11, 0.12], [0.13, 0.13, 0.16])
    >>> round(test.difference, 4), round(test.t, 3), round(test.p_t, 4), test.p_sign
    (0.03, 5.196, 0.0351, 0.25)
    """
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"a paired test needs the same seeds, at least 2, for both; got {len(a)} and {len(b)}")
    differences = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    number, mean, std = len(differences), float(differences.mean()), float(differences.std(ddof=1))
    if std == 0:  # every seed moved by the same amount
        t = 0.0 if mean == 0 else math.copysign(math.inf, mean)
    else:
        t = mean / (std / math.sqrt(number))
    p_sign = sign_flip_p(differences[:, None], samples=2**16, seed=0)[0]
    return SeedTest(seeds=number, difference=mean, std=std, t=t, p_t=student_t_two_sided(t, number - 1), p_sign=p_sign)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the chance of any false claim among all stays below the level (Holm, 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in corrected]


def student_t_two_sided(t: float, degrees: int) -> float:
    """P(|T| >= |t|) of Student's t, n degrees: regularised incomplete beta I_x(n / 2, 1 / 2) at x = n / (n + t^2).

    >>> round(student_t_two_sided(2.776445, 4), 6)  # the 97.5 % quantile at 4 degrees of freedom
    0.05
    """
    if degrees < 1:
        raise ValueError(f"Student's t needs at least 1 degree of freedom, got {degrees}")
    if math.isinf(t):
        return 0.0
    return _incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t))


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularised incomplete beta by its continued fraction, on the side where that converges quickly."""
    if x <= 0.0 or x >= 1.0:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1) / (a + b + 2):
        return 1.0 - _incomplete_beta(b, a, 1.0 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) / a * _beta_fraction(a, b, x)


def _beta_fraction(a: float, b: float, x: float) -> float:
    """1 / (1 + d1 / (1 + d2 / ...)), evaluated backwards from a depth that is far beyond double precision."""
    value = 1.0
    for m in range(300, 0, -1):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m - 1) * (a + b + m - 1) * x / ((a + 2 * m - 2) * (a + 2 * m - 1))
        value = 1.0 + odd / (1.0 + even / value)
    return 1.0 / value


def _slabs(samples: int, number: int) -> Iterator[int]:
    """Resamples to draw at a time, so that their weights stay within a fixed memory."""
    at_once = max(1, _WEIGHTS_AT_ONCE // max(number, 1))
    for start in range(0, samples, at_once):
        yield min(at_once, samples - start)


def _resampled_means(
    values: Float64[np.ndarray, "targets metrics"], rows: int, rng: np.random.Generator
) -> Float64[np.ndarray, "rows metrics"]:
    number = len(values)
    drawn = rng.integers(0, number, (rows, number)) + np.arange(rows)[:, None] * number
    counts = np.bincount(drawn.ravel(), minlength=rows * number).reshape(rows, number)
    means: np.ndarray = counts.astype(np.float64) @ values / number
    return means


def _compare_slice(
    name: str,
    metrics: Sequence[str],
    a: Float64[np.ndarray, "targets metrics"],
    b: Float64[np.ndarray, "targets metrics"],
    samples: int,
    level: float,
    seed: int,
) -> list[Difference]:
    low, high = bootstrap_intervals(b - a, samples=min(samples, 1000), level=level, seed=seed)
    p_values = sign_flip_p(b - a, samples=samples, seed=seed)
    return [
        Difference(
            slice=name,
            metric=metric,
            count=len(a),
            mean_a=float(a[:, i].mean()),
            mean_b=float(b[:, i].mean()),
            difference=float((b - a)[:, i].mean()),
            low=float(low[i]),
            high=float(high[i]),
            p_value=p_values[i],
            p_holm=p_values[i],
        )
        for i, metric in enumerate(metrics)
    ]
