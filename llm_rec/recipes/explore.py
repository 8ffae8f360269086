"""``llm-rec explore``: candidates ranked by a click run that knows how sure it is."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from llm_rec.artifacts import read_manifest, replacing
from llm_rec.ctr.batches import ClickBatchConfig, ClickBatches, to_batch
from llm_rec.data.columns import KIND as LOG_KIND
from llm_rec.data.columns import ClickColumns, ClickLog
from llm_rec.errors import ArtifactError, ConfigError
from llm_rec.exploration.last_layer import click_beliefs, fit_posterior
from llm_rec.exploration.policies import PolicyConfig, ThompsonConfig, action_scores
from llm_rec.exploration.posterior import LastLayerPosterior, LogitBeliefs, PosteriorConfig
from llm_rec.recipes.click_runs import MODEL, read_click_settings
from llm_rec.recipes.console import facts, say
from llm_rec.recipes.recipe import Recipe
from llm_rec.recipes.workspace import Workspace
from llm_rec.serving.clicks import KIND, ClickScorer, load_click_model

if TYPE_CHECKING:
    import pandas as pd

POSTERIOR = "posterior"
ADDED = ("probability", "deviation", "score", "rank")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExploreJob:
    """Rank candidate rows by what a trained click model believes of them, with its uncertainty.

    The uncertainty is that of the last layer, from the train rows of the run's log; it is computed once and kept in the
    run's folder. Models need a tower with a linear head (not FM and its kin, nor FinalMLP).
    """

    workspace: Path = Path("workspace")
    """Folder that all verbs share."""
    name: str = "dcn_v2"
    """Which click run."""
    rows: Path = Path("candidates.csv")
    """Candidates, a parquet or csv file with the raw columns that the log was made from."""
    group: str | None = None
    """Column of the file whose equal values are candidates of one request; all rows are one request without it."""
    policy: PolicyConfig = field(default_factory=ThompsonConfig)
    """What ranks: greedy, ucb, thompson or uniform."""
    posterior: PosteriorConfig = field(default_factory=PosteriorConfig)
    """The prior of the last layer."""
    top: int = 10
    """So many candidates of each request are written."""
    seed: int = 0
    """Seed of what the policy draws; another seed is another draw."""
    out: Path | None = None
    """The csv file that is written; explored.csv in the run's folder by default. A file that is there is replaced."""

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ConfigError(f"top must be at least 1, got {self.top}")


def run(job: ExploreJob) -> "pd.DataFrame":
    """Write the best candidates of every request, best first, and print the first few.

    Columns after those of the file: `probability` (of a click), `deviation` (of its log odds), `score` (what ranked),
    `rank` (from 1 within the request).
    """
    from llm_rec.data import tables

    place = Workspace(job.workspace)
    folder = place.run(job.name)
    settings = read_click_settings(folder)
    place.need(folder / MODEL, KIND, f"llm-rec train ctr --name {job.name}")
    scorer = load_click_model(folder / MODEL)
    frame = tables.read_table(job.rows, tables.file_format(job.rows))
    tables.require_columns(frame.columns, [*scorer.columns, *([job.group] if job.group else [])], str(job.rows))
    taken = [name for name in ADDED if name in frame.columns]
    if taken:
        raise ConfigError(f"{job.rows} has a column {taken[0]!r}, which is what this verb adds; rename it")
    columns = scorer.encode(frame)
    posterior = _posterior(job, folder, place, settings.log, scorer)
    beliefs = _beliefs(scorer, posterior, columns)
    scores = action_scores(job.policy, beliefs, torch.Generator().manual_seed(job.seed))[0].numpy()
    found = _ranked(job, frame, beliefs, scores)
    path = job.out or folder / "explored.csv"
    with replacing(path) as partial:
        found.to_csv(partial, index=False)
    say(found.head(20).to_string(index=False))
    say(facts("explored", {"candidates": len(frame), "features": posterior.dim, "written": str(path)}))
    return found


def _posterior(
    job: ExploreJob, folder: Path, place: Workspace, log_name: str, scorer: ClickScorer
) -> LastLayerPosterior:
    """The one kept in the run's folder, or a new one when there is none of this model and prior."""
    model = read_manifest(folder / MODEL, KIND)
    inputs = {"model": model.fingerprint, **model.inputs}
    if (folder / POSTERIOR).exists():
        kept = LastLayerPosterior.load(folder / POSTERIOR)
        if kept.config == job.posterior and read_manifest(folder / POSTERIOR).inputs == inputs:
            return kept
    path = place.clicks(log_name)
    place.need(path, LOG_KIND, f"llm-rec clicks --name {log_name}")
    log = ClickLog.load(path)
    if log.fingerprint != model.inputs.get("log"):
        raise ArtifactError(
            f"{folder / MODEL} was trained on another log than {path} is now; train the run again with --overwrite"
        )
    rows = ClickBatches(log, "train", ClickBatchConfig(shuffle="none"), history_length=scorer.history_length)
    posterior = fit_posterior(scorer.model, scorer.loss, rows.epoch(1), job.posterior)
    posterior.save(folder / POSTERIOR, inputs, overwrite=True)
    return posterior


def _beliefs(scorer: ClickScorer, posterior: LastLayerPosterior, columns: ClickColumns) -> LogitBeliefs:
    """All rows as the actions of one round, so that joint draws are of the same weights for all."""
    parts = [
        click_beliefs(scorer.model, scorer.loss, posterior, to_batch(columns.select(slice(start, start + 4096))))
        for start in range(0, len(columns), 4096)
    ]
    mean, std = (torch.cat(column).unsqueeze(0) for column in ([p.mean for p in parts], [p.std for p in parts]))
    roots = [part.root for part in parts if part.root is not None]
    return LogitBeliefs(mean, std, torch.cat(roots).unsqueeze(0))


def _ranked(job: ExploreJob, frame: "pd.DataFrame", beliefs: LogitBeliefs, scores: np.ndarray) -> "pd.DataFrame":
    """Rows of each request by falling score, requests in the order of the file."""
    import pandas as pd

    found = frame.assign(
        probability=torch.sigmoid(beliefs.mean[0]).numpy(), deviation=beliefs.std[0].numpy(), score=scores
    )
    request = np.zeros(len(frame), dtype=np.int64) if job.group is None else pd.factorize(frame[job.group])[0]
    order = np.lexsort((-scores, request))
    found, request = found.iloc[order], request[order]
    first = np.flatnonzero(np.r_[True, np.diff(request) != 0])
    rank = np.arange(len(found)) - np.repeat(first, np.diff(first, append=len(found))) + 1
    return found.assign(rank=rank)[rank <= job.top].reset_index(drop=True)


RECIPE = Recipe(
    verb="explore",
    description="Rank candidate rows by a click run and its uncertainty: Thompson sampling, UCB or greedy.",
    job=ExploreJob,
    presets={"default": ExploreJob()},
    run=run,
)
