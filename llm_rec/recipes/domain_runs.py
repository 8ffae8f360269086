"""Runs of models of domains or tasks: the same folder as a click run, so that the same verbs read it.

```
runs/<name>/config.yaml  run.json  inputs.json  phases/  model/  logits.npz  report.json
```
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from llm_rec.artifacts import read_json
from llm_rec.codec import from_plain, to_plain
from llm_rec.ctr.domain_evaluation import score_units
from llm_rec.ctr.domain_method import DomainMethodConfig
from llm_rec.ctr.domain_training import TrainedDomains, train_domains
from llm_rec.data.columns import KIND, ClickLog
from llm_rec.data.log_spec import Part
from llm_rec.errors import ArtifactError, ConfigError
from llm_rec.metrics.domains import Unit
from llm_rec.processes import is_first, wait_for_all
from llm_rec.recipes.click_runs import LOGITS, MODEL, ScoredRows, save_logits, scored_units
from llm_rec.recipes.runs import SETTINGS, claim_run, history_of, mapping_of, need_run
from llm_rec.recipes.workspace import Workspace
from llm_rec.report.report import REPORT, Report
from llm_rec.serving.domains import save_domain_model


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainRunEvaluationConfig:
    """ECE is over `num_buckets` buckets of equally many rows; `samples` bootstrap resamples make the 95 % intervals."""

    num_buckets: int = 45
    samples: int = 200
    batch_size: int = 16384

    def __post_init__(self) -> None:
        for name, value in (("num_buckets", self.num_buckets), ("samples", self.samples)):
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {self.batch_size}")


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainRunSettings:
    """Everything a run's numbers depend on beside its log; `task` tells it from runs of other kinds."""

    task: Literal["domains"] = "domains"
    log: str
    method: DomainMethodConfig
    evaluation: DomainRunEvaluationConfig
    seed: int = 0


def open_domain_log(place: Workspace, name: str) -> ClickLog:
    """The click log of a run; `ArtifactError` when it is not there."""
    path = place.clicks(name)
    place.need(path, KIND, f"llm-rec clicks --name {name}")
    return ClickLog.load(path)


def train_domain_run(name: str, settings: DomainRunSettings, log: ClickLog, folder: Path) -> Report:
    """Train, evaluate and save; what is already there is not done again. A run of other settings or data is refused.

    Several processes (``accelerate launch``) train together; the first one evaluates and writes, all get the report.
    """
    if is_first():
        claim_run(folder, to_plain(settings), {"log": log.fingerprint}, read_domain_settings)
    wait_for_all()
    start = time.perf_counter()
    trained = train_domains(settings.method, log, seed=settings.seed, folder=folder / "phases")
    seconds = time.perf_counter() - start
    if is_first() and not (folder / REPORT).is_file():  # written last
        _finish(name, settings, log, folder, trained, seconds)
    wait_for_all()
    return Report.load(folder)


def score_domains(
    model: nn.Module, by: Unit, log: ClickLog, part: Part, config: DomainRunEvaluationConfig
) -> ScoredRows:
    """Logits of every row of `part`, a row once for each task by task; slices are domains or tasks."""
    return scored_units(score_units(model, log, log.part(part), by, batch_size=config.batch_size), by)


def read_domain_settings(folder: Path) -> DomainRunSettings:
    """The settings a run was made with."""
    need_run(folder, "domains")
    try:
        return from_plain(DomainRunSettings, read_json(folder / SETTINGS))
    except ConfigError as error:
        raise ArtifactError(f"{folder / SETTINGS}: {error}; train the run again with --overwrite") from error


def _finish(
    name: str, settings: DomainRunSettings, log: ClickLog, folder: Path, trained: TrainedDomains, seconds: float
) -> None:
    start = time.perf_counter()
    save_domain_model(folder / MODEL, trained.model, settings.method, log, overwrite=True)
    parts: list[Part] = [part for part in ("validation", "test") if part in log.rows]
    if not parts:
        raise ConfigError(f"{log.path} has neither validation nor test rows; encode it with such a part")
    unit = settings.method.model.by
    found = {part: score_domains(trained.model, unit, log, part, settings.evaluation) for part in parts}
    report = Report.of(
        name,
        {part: rows.summary(settings.evaluation) for part, rows in found.items()},
        config=mapping_of(to_plain(settings)),
        fingerprints={"log": log.fingerprint},
        seeds={"seed": settings.seed},
        timings={"train": seconds, "evaluate": time.perf_counter() - start},
        history=history_of(trained.results),
        task="clicks",
    )
    save_logits(folder / LOGITS, found[parts[-1]])
    report.save(folder)
