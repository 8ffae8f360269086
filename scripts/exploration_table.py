"""Off-policy values of exploring policies on Open Bandit, with intervals; and one-pass training on a drifting log.

    python scripts/exploration_table.py --data DATA/open-bandit --seeds 5 --out out/exploration

`--data` holds logs of two campaigns and two policies (`llm_rec.data.sources.open_bandit`). For every seed the random
policy's log is cut in halves at random; Bayesian logistic regression on context x item features is fitted on one half.
Policies over its beliefs are valued on the other half ("random") and on all rows of the other policy's log ("bts"), by
IPS, SNIPS, DM and DR. "bts by position" is what the other policy showed, as shares of items by position over its week:
the policy itself changes over time and its distribution is not in the data. The first table compares what each log
earned with what the other log says of the same policy, from whole logs: where propensities are true, intervals overlap.

Values are clicks per 1,000 rows. Ends of intervals are means over seeds; halves of different seeds share rows, so the
deviation over seeds is no standard error: the interval is what counts. `for 10 %` is how many rows of that log a normal
interval of the DR estimate needs to be as narrow as a tenth of the uniform policy's value on either side.

The last part trains a click model in one pass over a made-up log whose best ads change three times, every batch
predicted before it is learned from, beside the same model as the first windows left it, and beside the true rates; and
calibrates the one-pass predictions on their first half. A second made-up log, whose ads wear out with every exposure,
is passed with and without weights of repeated exposures (`llm_rec.ctr.repeated_exposure`), and with their correction.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np
from exploration_one_pass import one_pass_results, one_pass_text

from llm_rec.artifacts import fingerprint, write_bytes
from llm_rec.codec import Plain, to_plain
from llm_rec.data.sources.open_bandit import BanditLog, BanditPolicy, Campaign, OpenBanditConfig, open_bandit
from llm_rec.experiment import (
    Cell,
    CellResult,
    Record,
    Row,
    markdown_lines,
    run_grid,
    script_options,
    table,
    write_table,
)
from llm_rec.exploration.bandit_features import BanditBeliefs, BanditFeatures, fit_bandit, shown_shares
from llm_rec.exploration.logistic import BayesianLogistic
from llm_rec.exploration.policies import GreedyConfig, PolicyConfig, ThompsonConfig, UCBConfig, UniformConfig
from llm_rec.exploration.posterior import PosteriorConfig
from llm_rec.metrics.off_policy import Estimate, LoggedRounds, PolicyValue, logged_value, policy_value
from llm_rec.processes import one_thread
from llm_rec.recipes.console import say

CAMPAIGNS: tuple[Campaign, ...] = ("men", "women")
POLICIES: dict[str, PolicyConfig | None] = {
    "uniform": UniformConfig(),
    "greedy": GreedyConfig(),
    "UCB, beta 0.5": UCBConfig(beta=0.5),
    "UCB, beta 1": UCBConfig(beta=1.0),
    "UCB, beta 2": UCBConfig(beta=2.0),
    "Thompson, joint": ThompsonConfig(),
    "Thompson, by action": ThompsonConfig(joint=False),
    "bts by position": None,
}
PRIOR = PosteriorConfig(prior_precision=20.0)  # a row has about 20 indicators, so a logit moves by about 1 a priori
WHOLE = "whole logs"
CLIP = 100.0
PER = 1000.0  # values are clicks per so many rows
SAMPLES = 1000
ENDS = ("value", "low", "high", "normal_low", "normal_high", "clipping_bias")


@dataclass(frozen=True, slots=True)
class BanditCell:
    """Values one policy of one campaign on one split; the split of a seed is fitted once in a process."""

    data: Path
    samples: int = SAMPLES

    def __call__(self, cell: Cell) -> list[Record]:
        campaign = cast(Campaign, cell.setting["campaign"])
        with one_thread():
            if cell.model == WHOLE:
                return list(self.whole(campaign))
            return [
                record
                for name, log, beliefs in self.evaluated(campaign, cell.seed)
                for record in self.valued(cell, name, log, beliefs)
            ]

    def evaluated(self, campaign: Campaign, seed: int) -> Iterator[tuple[str, BanditLog, BanditBeliefs]]:
        """The logs that policies are valued on, with the beliefs of a model that saw none of their rows."""
        fitted = fitted_half(self.data, campaign, seed)
        random, bts = read(self.data, campaign, "random"), read(self.data, campaign, "bts")
        for name, log in (("random", random.select(fitted.held_out)), ("bts", bts)):
            yield name, log, BanditBeliefs.of(fitted.features, fitted.model, log)

    def valued(self, cell: Cell, name: str, log: BanditLog, beliefs: BanditBeliefs) -> Iterator[Record]:
        policy = POLICIES[cell.model]
        if policy is None:
            shares = shown_shares(read(self.data, cast(Campaign, cell.setting["campaign"]), "bts"))
            probabilities = shares[log.positions]
        else:
            probabilities = beliefs.probabilities(policy, cell.seed)
        rates, rounds = beliefs.click_rates(), rounds_of(log)
        for clip in (None, CLIP):
            found = policy_value(rounds, probabilities, model=rates, clip=clip, samples=self.samples, seed=cell.seed)
            yield from value_records(found, {"log": name, "clip": clip})

    def whole(self, campaign: Campaign) -> Iterator[Record]:
        """Both policies on both whole logs: what a log earned itself, and what the other one says."""
        logs = {name: read(self.data, campaign, name) for name in ("random", "bts")}
        target = {"random": np.full(len(logs["random"].items), 1 / len(logs["random"].items)), "bts": None}
        for name, log in logs.items():
            columns: dict[str, Plain] = {"policy": name, "log": name, "clip": None}
            yield Record("rounds", float(len(log)), columns)
            yield Record("clicks", float(log.clicks.sum()), columns)
            yield from estimate_records(logged_value(rounds_of(log), samples=self.samples), columns, "mean")
        for name, other in (("random", "bts"), ("bts", "random")):
            log, even = logs[other], target[name]
            shares = shown_shares(logs["bts"])[log.positions] if even is None else np.tile(even, (len(log), 1))
            found = policy_value(rounds_of(log), shares, samples=self.samples)
            yield from value_records(found, {"policy": name, "log": other, "clip": None})


@dataclass(frozen=True, slots=True, eq=False)
class FittedHalf:
    features: BanditFeatures
    model: BayesianLogistic
    held_out: np.ndarray


@lru_cache(maxsize=8)
def read(data: Path, campaign: Campaign, policy: BanditPolicy) -> BanditLog:
    return open_bandit(OpenBanditConfig(path=data, campaign=campaign, policy=policy))


@lru_cache(maxsize=2)
def fitted_half(data: Path, campaign: Campaign, seed: int) -> FittedHalf:
    """The model of a random half of the random policy's log, and the rows it did not see."""
    log = read(data, campaign, "random")
    order = np.random.default_rng(seed).permutation(len(log))
    train, held_out = (np.sort(part) for part in np.array_split(order, 2))
    seen = log.select(train)
    features = BanditFeatures.of(seen)
    return FittedHalf(features, fit_bandit(features, seen, PRIOR), held_out)


def rounds_of(log: BanditLog) -> LoggedRounds:
    return LoggedRounds(actions=log.actions, propensities=log.propensities, rewards=log.clicks)


def value_records(found: PolicyValue, columns: Mapping[str, Plain]) -> Iterator[Record]:
    for name, estimate in found.estimates.items():
        yield from estimate_records(estimate, columns, name)
    for metric in ("rounds", "effective_sample_size", "mean_weight", "max_weight", "rewarded_rounds"):
        yield Record(metric, float(to_mapping(found)[metric]), dict(columns))


def estimate_records(estimate: Estimate, columns: Mapping[str, Plain], estimator: str) -> Iterator[Record]:
    for metric in ENDS:
        yield Record(metric, PER * to_mapping(estimate)[metric], {**columns, "estimator": estimator})


def to_mapping(value: Estimate | PolicyValue) -> dict[str, float]:
    return cast(dict[str, float], to_plain(value))


def main() -> int:
    args = options().parse_args()
    if args.quick:
        args.seeds = 1
    results, passes = bandit_results(args), one_pass_results(args, tell)
    text = "\n\n".join(["# Exploration", *bandit_text(results), *one_pass_text(passes)]) + "\n"
    results = [*results, *passes]
    write_table(args.out / "table.json", table(results))
    write_bytes(args.out / "table.md", text.encode())
    print(text)
    return int(any(result.status == "failed" for result in results))


def options() -> argparse.ArgumentParser:
    parser = script_options(__doc__.splitlines()[0], out="out/exploration", seeds=5, data=False)
    parser.add_argument("--data", type=Path, required=True, help="folder of Open Bandit, in either layout")
    return parser


def bandit_results(args: argparse.Namespace) -> list[CellResult]:
    logs = [read(args.data, campaign, policy) for campaign in CAMPAIGNS for policy in ("random", "bts")]
    marks = [fingerprint(log.times.tobytes(), log.actions.tobytes(), log.propensities.tobytes()) for log in logs]
    cells = [Cell(WHOLE, {"campaign": campaign}, 0) for campaign in CAMPAIGNS]
    for seed in range(args.seeds):
        cells += [Cell(name, {"campaign": campaign}, seed) for campaign in CAMPAIGNS for name in POLICIES]
    context: dict[str, Plain] = {"logs": cast(Plain, marks), "quick": args.quick}
    return run_grid(
        cells, BanditCell(args.data, 100 if args.quick else SAMPLES), args.out, context=context, report=tell
    )


def tell(result: CellResult) -> None:
    error = (result.error or "").splitlines()[-1:]
    say(
        f"{result.cell.model}, {result.cell.setting}, seed {result.cell.seed}, {result.seconds:.0f} s {' '.join(error)}"
    )


# --- text ------------------------------------------------------------------------------------------------------------


class Figures:
    """Means over seeds by model, columns and metric."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.means = {self.key(row.model, row.metric, row.columns): row.mean for row in rows}

    @staticmethod
    def key(model: str, metric: str, columns: Mapping[str, Plain]) -> tuple[str, ...]:
        return (model, metric, *(f"{name}={columns[name]}" for name in sorted(columns)))

    def of(self, model: str, metric: str, **columns: Plain) -> float:
        return self.means[self.key(model, metric, columns)]

    def interval(self, model: str, **columns: Plain) -> str:
        value, low, high = (self.of(model, metric, **columns) for metric in ("value", "low", "high"))
        return f"{value:.1f} ({low:.1f} to {high:.1f})"


def bandit_text(results: Sequence[CellResult]) -> list[str]:
    """Sections of the markdown; rows whose cells failed are left out."""
    figures = Figures(table(results))
    failed = {(result.cell.model, result.cell.setting["campaign"]) for result in results if result.status == "failed"}
    parts = ["## What a log earned, and what the other log says of its policy", whole_table(figures, failed)]
    for campaign in CAMPAIGNS:
        names = [name for name in POLICIES if (name, campaign) not in failed]
        seeds = len({result.cell.seed for result in results})
        parts.append(f"## Policies, campaign {campaign}: clicks per 1,000 rows, 95 % intervals, {seeds} splits")
        parts += [policy_table(figures, campaign, log, names) for log in ("random", "bts")]
        parts.append(verdict(figures, campaign, names))
    return parts


def whole_table(figures: Figures, failed: set[tuple[str, Plain]]) -> str:
    head = ["campaign", "policy", "rows", "clicks", "earned", "other log, SNIPS", "other log, IPS", "ESS", "agree"]
    body = []
    for campaign in CAMPAIGNS:
        for policy, other in (("random", "bts"), ("bts", "random")):
            if (WHOLE, campaign) in failed:
                continue
            own: dict[str, Plain] = {"campaign": campaign, "policy": policy, "log": policy, "clip": None}
            far: dict[str, Plain] = {"campaign": campaign, "policy": policy, "log": other, "clip": None}
            earned, told = ends(figures, {**own, "estimator": "mean"}), ends(figures, {**far, "estimator": "snips"})
            body.append(
                [
                    campaign,
                    policy,
                    f"{figures.of(WHOLE, 'rounds', **own):,.0f}",
                    f"{figures.of(WHOLE, 'clicks', **own):.0f}",
                    figures.interval(WHOLE, **own, estimator="mean"),
                    figures.interval(WHOLE, **far, estimator="snips"),
                    figures.interval(WHOLE, **far, estimator="ips"),
                    f"{figures.of(WHOLE, 'effective_sample_size', **far):,.0f}",
                    "yes" if told[0] <= earned[1] and earned[0] <= told[1] else "no",
                ]
            )
    return markdown_lines(head, body)


def ends(figures: Figures, columns: Mapping[str, Plain]) -> tuple[float, float]:
    return figures.of(WHOLE, "low", **columns), figures.of(WHOLE, "high", **columns)


def policy_table(figures: Figures, campaign: str, log: str, names: Sequence[str]) -> str:
    head = [
        f"on the {log} log",
        "DR",
        f"DR, weights up to {CLIP:.0f}",
        "SNIPS",
        "IPS",
        "DM",
        "ESS",
        "clicks with weight",
        "for 10 %",
    ]
    body = []
    for name in names:
        columns: dict[str, Plain] = {"campaign": campaign, "log": log, "clip": None}
        shown = [figures.interval(name, **columns, estimator=estimator) for estimator in ("dr", "snips", "ips", "dm")]
        clipped = figures.interval(name, **{**columns, "clip": CLIP}, estimator="dr")
        body.append(
            [
                name,
                shown[0],
                clipped,
                *shown[1:],
                f"{figures.of(name, 'effective_sample_size', **columns):,.0f}",
                f"{figures.of(name, 'rewarded_rounds', **columns):.1f}",
                f"{needed(figures, name, columns):,.0f}",
            ]
        )
    return markdown_lines(head, body)


def needed(figures: Figures, name: str, columns: Mapping[str, Plain]) -> float:
    """Rows for a half width of a tenth of the uniform policy's value: widths fall with the root of the rows."""
    low, high = (figures.of(name, metric, **columns, estimator="dr") for metric in ("normal_low", "normal_high"))
    aim = 0.1 * figures.of("uniform", "value", **columns, estimator="dr")
    return figures.of(name, "rounds", **columns) * ((high - low) / 2 / aim) ** 2


def verdict(figures: Figures, campaign: str, names: Sequence[str]) -> str:
    """Which policies are told from the uniform one by intervals that do not meet, on either log."""
    apart: dict[str, list[str]] = defaultdict(list)
    for log in ("random", "bts"):
        columns: dict[str, Plain] = {"campaign": campaign, "log": log, "clip": None, "estimator": "dr"}
        even = [figures.of("uniform", end, **columns) for end in ("low", "high")]
        for name in names:
            low, high = (figures.of(name, end, **columns) for end in ("low", "high"))
            if name != "uniform" and (low > even[1] or high < even[0]):
                apart[log].append(f"{name} ({'above' if low > even[1] else 'below'})")
    found = "; ".join(f"on the {log} log: {', '.join(told)}" for log, told in apart.items())
    return (
        "Told from the uniform policy by DR intervals that do not meet (means of ends over splits): "
        f"{found or 'none'}. A policy with a handful of clicks with weight has an interval that is too narrow: "
        "the bootstrap cannot draw clicks that were not logged."
    )


if __name__ == "__main__":
    sys.exit(main())
