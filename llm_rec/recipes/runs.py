"""Runs: a trained method with its evaluation, as a folder that other verbs read.

```
runs/<name>/config.yaml  run.json  inputs.json  phases/  recommender/  targets.npz  report.json
```
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float64

from llm_rec.artifacts import read_json, replacing, write_bytes, write_json
from llm_rec.codec import Plain, from_plain, to_plain
from llm_rec.config import flatten, to_yaml
from llm_rec.errors import ArtifactError, ConfigError
from llm_rec.metrics.ranking import Part
from llm_rec.processes import is_first, wait_for_all
from llm_rec.recipes.evaluation import Evaluation, EvaluationConfig, evaluate
from llm_rec.recipes.hybrid import HybridMethodConfig
from llm_rec.recipes.material import Material, MaterialConfig
from llm_rec.recipes.methods import MethodConfig, Trained, train_method
from llm_rec.recipes.workspace import Workspace
from llm_rec.report.report import REPORT, Report
from llm_rec.serving.models import Model, load_model
from llm_rec.serving.recommender import KIND, Recommender
from llm_rec.training.trainer import TrainResult

RunKind: TypeAlias = Literal["ranking", "clicks", "domains"]
RUN_WORDS: dict[RunKind, str] = {
    "ranking": "a recommender",
    "clicks": "a click model",
    "domains": "a model of domains or tasks",
}
SETTINGS = "run.json"
INPUTS = "inputs.json"
TARGETS = "targets.npz"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """Everything a run's numbers depend on beside its material."""

    method: MethodConfig | HybridMethodConfig
    material: MaterialConfig
    evaluation: EvaluationConfig
    seed: int


def train_run(name: str, settings: RunSettings, material: Material, folder: Path) -> tuple[Report, Trained]:
    """Train, evaluate and save; what is already there is not done again. A run of other settings or data is refused.

    Several processes (``accelerate launch``) train and rank together; the first one writes, and all get the report.
    """
    if isinstance(settings.method, HybridMethodConfig):
        raise TypeError("a hybrid trains nothing; llm_rec.recipes.train_hybrid makes its run")
    if is_first():
        claim_run(folder, to_plain(settings), material.inputs, read_settings_of)
    wait_for_all()
    start = time.perf_counter()
    trained = train_method(settings.method, material, seed=settings.seed, folder=folder / "phases")
    seconds = time.perf_counter() - start
    history = history_of(trained.results)
    return finish_run(name, settings, material, folder, trained.model, seconds=seconds, history=history), trained


def finish_run(
    name: str,
    settings: RunSettings,
    material: Material,
    folder: Path,
    model: Model,
    *,
    seconds: float,
    history: Sequence[Mapping[str, float]] = (),
) -> Report:
    """Save and evaluate `model`, whose training took `seconds`; a report that is there already is read instead."""
    if (folder / REPORT).is_file():  # written last
        return Report.load(folder)
    start = time.perf_counter()
    if is_first():
        recommender = Recommender(model, material.catalog, material.split.log)
        recommender.save(folder / "recommender", overwrite=True)
    parts: tuple[Part, ...] = ("validation", "test") if len(material.split.validation) else ("test",)
    found = {part: evaluate(model, material, part, settings.evaluation) for part in parts}
    report = Report.of(
        name,
        {part: evaluation.summary for part, evaluation in found.items()},
        config=mapping_of(to_plain(settings)),
        fingerprints=material.inputs,
        seeds={"seed": settings.seed},
        timings={"train": seconds, "evaluate": time.perf_counter() - start},
        history=history,
    )
    if is_first():
        save_targets(folder / TARGETS, found["test"])
        report.save(folder)
    return report


def history_of(results: Mapping[str, TrainResult]) -> list[dict[str, float]]:
    """One flat record an epoch over all phases, `epoch` counted on; `phase` numbers them from 1."""
    records: list[dict[str, float]] = []
    for number, result in enumerate(results.values(), start=1):
        for entry in result.history:
            losses, metrics = mapping_of(entry.get("losses")), mapping_of(entry.get("metrics"))
            figures = {**{f"loss/{k}": v for k, v in losses.items()}, **metrics, "seconds": entry.get("seconds")}
            numbers = {k: float(v) for k, v in figures.items() if isinstance(v, int | float)}
            records.append({"epoch": len(records) + 1.0, "phase": float(number), **numbers})
    return records


def read_settings_of(folder: Path) -> RunSettings:
    """The settings a run was made with."""
    path = folder / SETTINGS
    need_run(folder, "ranking")
    try:
        return from_plain(RunSettings, read_json(path))
    except ConfigError as error:
        raise ArtifactError(f"{path}: {error}; train the run again with --overwrite") from error


def load_run_model(place: Workspace, name: str) -> Model:
    """The trained recommender of a run; `ArtifactError` names the verb that makes it when it is not there."""
    folder = place.run(name) / "recommender"
    place.need(folder, KIND, f"llm-rec train --name {name}")
    return load_model(folder / "model")


def save_targets(path: Path, evaluation: Evaluation) -> None:
    """Metrics and slices of every test target: what paired tests between runs need."""
    metrics = {f"metric:{name}": values for name, values in evaluation.per_target.items()}
    slices = {f"slice:{name}": mask for name, mask in evaluation.slices.items()}
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, targets=evaluation.targets, **metrics, **slices)


def load_targets(
    folder: Path,
) -> tuple[dict[str, Float64[np.ndarray, "targets"]], dict[str, Bool[np.ndarray, "targets"]]]:
    """Metrics and slices of every test target of a run, as `save_targets` wrote them."""
    path = folder / TARGETS
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; run `llm-rec train --name {folder.name}` again")
    with np.load(path, allow_pickle=False) as arrays:
        metrics = {name.removeprefix("metric:"): arrays[name] for name in arrays if name.startswith("metric:")}
        slices = {name.removeprefix("slice:"): arrays[name] for name in arrays if name.startswith("slice:")}
    return metrics, slices


def run_task(folder: Path) -> RunKind:
    """Whether `folder` holds a run of a sequential recommender, of a click model, or of a model of domains or tasks."""
    path = folder / SETTINGS
    if not path.is_file():
        raise ArtifactError(f"{folder} holds no run ({SETTINGS} is missing); train one with `llm-rec train`")
    task = mapping_of(read_json(path)).get("task")
    known: dict[Plain, RunKind] = {"clicks": "clicks", "domains": "domains"}
    return known.get(task, "ranking") if isinstance(task, str) else "ranking"


def need_run(folder: Path, kind: RunKind) -> None:
    """`ConfigError` when `folder` holds a run of another kind."""
    found = run_task(folder)
    if found != kind:
        raise ConfigError(
            f"{folder} holds a run of {RUN_WORDS[found]}, not of {RUN_WORDS[kind]}; choose another --name"
        )


def claim_run(folder: Path, settings: Plain, inputs: Mapping[str, str], read: Callable[[Path], object]) -> None:
    """Take an empty folder, or one that holds a run of the same settings and data (which then goes on).

    `read` gives the settings of a run that is there.
    """
    if (folder / SETTINGS).is_file():
        changed = _changes(to_plain(read(folder)), settings)
        if changed:
            raise ConfigError(
                f"{folder} holds a run with other settings ({changed}); "
                "choose another --name, or pass --overwrite to start again"
            )
        if not (folder / INPUTS).is_file():
            raise ArtifactError(f"{folder / INPUTS} is missing; train the run again with --overwrite")
        changed = _changes(read_json(folder / INPUTS), to_plain(inputs))
        if changed:
            raise ConfigError(
                f"{folder} holds a run made from other data ({changed}); "
                "choose another --name, or pass --overwrite to start again"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / INPUTS, inputs)
    write_json(folder / SETTINGS, settings)
    write_bytes(folder / "config.yaml", to_yaml(settings).encode())


def _changes(there: Plain, here: Plain) -> str:
    """``seed: 0 there, 1 here`` for the first few values that differ; empty when all are the same."""
    old, new = flatten(there), flatten(here)
    changes = [f"{k}: {old.get(k)} there, {new.get(k)} here" for k in {**old, **new} if old.get(k) != new.get(k)]
    more = f"; {len(changes) - 3} more" if len(changes) > 3 else ""
    return "; ".join(changes[:3]) + more


def mapping_of(value: Plain) -> dict[str, Plain]:
    """A JSON object, or an empty one where there is none."""
    return value if isinstance(value, dict) else {}
