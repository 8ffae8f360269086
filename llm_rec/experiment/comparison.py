"""Paired tests between models of a grid, over the seeds that both have."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from llm_rec.artifacts import canonical_json
from llm_rec.codec import Plain
from llm_rec.errors import ConfigError
from llm_rec.experiment.cells import CellResult, Record
from llm_rec.metrics.significance import SeedTest, compare_seeds, holm

ESTABLISHED_SEEDS = 5  # fewer seeds than this and a row is labelled exploratory


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """`model` minus `baseline` on one metric over the seeds both have; p-values two-sided, None where no test exists.

    `holm_*` are corrected for all comparisons made together. `exploratory` (fewer than five seeds): five seeds are the
    least, and even then the sign-flip test of the seeds cannot go below 2 / 2^5 = .0625.
    """

    model: str
    baseline: str
    columns: dict[str, Plain]
    metric: str
    difference: float
    std: float | None
    seeds: int
    t_p: float | None
    sign_flip_p: float | None
    holm_t_p: float | None
    holm_sign_flip_p: float | None
    exploratory: bool


def compare(
    results: Sequence[CellResult], pairs: Sequence[tuple[str, str]], metrics: Sequence[str]
) -> list[Comparison]:
    """Paired tests of each (model, baseline) over the seeds both finished, for every metric and slice both report.

    Records pair up by seed and by their own columns; settings may differ (they belong to the model), so a model with
    several settings in `results` is ambiguous and a `ConfigError`.
    """
    values = _by_model(results)
    found = []
    for model, baseline in pairs:
        for (columns, metric), ours in values[model].items():
            theirs = values[baseline].get((columns, metric), {})
            shared = sorted(ours.keys() & theirs.keys())
            if metric in metrics and shared:
                sides = [ours[seed].value for seed in shared], [theirs[seed].value for seed in shared]
                found.append(_comparison(model, baseline, metric, ours[shared[0]].columns, *sides))
    t_p = _holm([c.t_p for c in found])
    flip_p = _holm([c.sign_flip_p for c in found])
    return [replace(c, holm_t_p=t, holm_sign_flip_p=f) for c, t, f in zip(found, t_p, flip_p, strict=True)]


TEST_COLUMNS = ("difference", "seeds", "t test p", "after Holm")


def comparison_cells(test: Comparison, digits: int = 4) -> list[str]:
    """A paired test as the cells of `TEST_COLUMNS`; `*` at the seeds marks an exploratory one."""
    return [
        f"{test.difference:+.{digits}f}" + ("" if test.std is None else f" ± {test.std:.{digits}f}"),
        f"{test.seeds}{'*' if test.exploratory else ''}",
        "" if test.t_p is None else f"{test.t_p:.4f}",
        "" if test.holm_t_p is None else f"{test.holm_t_p:.4f}",
    ]


def _by_model(results: Sequence[CellResult]) -> dict[str, dict[tuple[bytes, str], dict[int, Record]]]:
    values: dict[str, dict[tuple[bytes, str], dict[int, Record]]] = defaultdict(lambda: defaultdict(dict))
    for result in results:
        model, seed = result.cell.model, result.cell.seed
        for record in result.records:
            by_seed = values[model][canonical_json(record.columns), record.metric]
            if seed in by_seed:
                raise ConfigError(
                    f"{model} has several settings for seed {seed}; keep the results of one before comparing"
                )
            by_seed[seed] = record
    return values


def _varies(test: SeedTest) -> bool:
    """Whether a t test says anything: where counts are few, seeds may differ by one equal amount, and t is infinite."""
    return test.difference == 0 or test.std > 1e-9 * abs(test.difference)


def _comparison(
    model: str, baseline: str, metric: str, columns: dict[str, Plain], ours: list[float], theirs: list[float]
) -> Comparison:
    test = compare_seeds(theirs, ours) if len(ours) > 1 else None
    return Comparison(
        model=model,
        baseline=baseline,
        columns=columns,
        metric=metric,
        difference=test.difference if test else ours[0] - theirs[0],
        std=test.std if test else None,
        seeds=len(ours),
        t_p=test.p_t if test is not None and _varies(test) else None,
        sign_flip_p=test.p_sign if test else None,
        holm_t_p=None,
        holm_sign_flip_p=None,
        exploratory=len(ours) < ESTABLISHED_SEEDS,
    )


def _holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction of the p-values that exist; None stays None."""
    there = [i for i, p in enumerate(p_values) if p is not None]
    corrected: list[float | None] = [None] * len(p_values)
    for i, p in zip(there, holm([cast(float, p_values[i]) for i in there]), strict=True):
        corrected[i] = float(p)
    return corrected
