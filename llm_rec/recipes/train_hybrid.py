"""``llm-rec train hybrid``: a dense and a generative run of a workspace as one evaluated, servable run."""

import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.table import Table

from llm_rec.artifacts import read_json, read_manifest, write_json
from llm_rec.codec import to_plain
from llm_rec.errors import ConfigError
from llm_rec.generative.model import GenerativeModel
from llm_rec.processes import is_first, wait_for_all
from llm_rec.recipes.console import say
from llm_rec.recipes.evaluation import EvaluationConfig
from llm_rec.recipes.hybrid import HybridMethodConfig, build_hybrid
from llm_rec.recipes.material import Material, MaterialConfig, open_material
from llm_rec.recipes.recipe import Recipe
from llm_rec.recipes.runs import (
    INPUTS,
    RunSettings,
    claim_run,
    finish_run,
    load_run_model,
    mapping_of,
    need_run,
    read_settings_of,
)
from llm_rec.recipes.workspace import Workspace
from llm_rec.report.report import REPORT, Report
from llm_rec.serving.models import DenseModel, kind_of

WEIGHTS = "weights.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class HybridJob:
    """Rank by two runs together. Nothing is trained; the weight between them is chosen by validation."""

    workspace: Path = Path("workspace")
    """Folder that all verbs share."""
    name: str = "hybrid"
    """Name of the run below workspace/runs."""
    method: HybridMethodConfig = field(default_factory=HybridMethodConfig)
    """Which runs, and how they are ranked together."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """How the hybrid is evaluated."""
    overwrite: bool = False
    """Throw away the run of that name and start again."""


def run(job: HybridJob) -> Report:
    """Write ``workspace/runs/<name>`` and print the weights that were tried and the test metrics by slice."""
    place, method = Workspace(job.workspace), job.method
    folder = place.run(job.name)
    finished = (folder / REPORT).is_file() and not job.overwrite
    models = None if finished else _models(place, method)
    common = _common(place, method)
    material = _material(place, method, common)
    settings = RunSettings(method=method, material=common, evaluation=job.evaluation, seed=0)
    if is_first():
        if job.overwrite:
            shutil.rmtree(folder, ignore_errors=True)
        claim_run(folder, to_plain(settings), material.inputs, read_settings_of)
    wait_for_all()
    if models is None:
        report = Report.load(folder)
    else:
        start = time.perf_counter()
        hybrid, tried = build_hybrid(method, *models, material)
        if is_first():
            write_json(
                folder / WEIGHTS, {"weight": hybrid.config.weight, "tried": [list(each) for each in tried.items()]}
            )
        report = finish_run(job.name, settings, material, folder, hybrid, seconds=time.perf_counter() - start)
    if is_first():
        say(_weights(folder, method.metric))
    say(report.table())
    return report


def _models(place: Workspace, method: HybridMethodConfig) -> tuple[DenseModel, GenerativeModel]:
    """Both sides; `ConfigError` for a run that cannot be what it is named for."""
    for name in (method.dense, method.generative):
        need_run(place.run(name), "ranking")
    dense, generative = (load_run_model(place, name) for name in (method.dense, method.generative))
    if not isinstance(dense, DenseModel):
        raise ConfigError(
            f"run {method.dense!r} is {kind_of(dense)}; method.dense needs a sequential run, or one of pad"
        )
    if not isinstance(generative, GenerativeModel):
        raise ConfigError(
            f"run {method.generative!r} is {kind_of(generative)}; method.generative needs a generative run"
        )
    return dense, generative


def _common(place: Workspace, method: HybridMethodConfig) -> MaterialConfig:
    """The split of both runs; what their models read beside it is kept in them."""
    dense, generative = (read_settings_of(place.run(name)).material.split for name in (method.dense, method.generative))
    if dense != generative:
        raise ConfigError(
            f"runs {method.dense!r} and {method.generative!r} were trained on different splits; train one of them again"
        )
    return MaterialConfig(split=dense, embeddings=None)


def _material(place: Workspace, method: HybridMethodConfig, common: MaterialConfig) -> Material:
    """Catalog and split, which both runs must have been made from; the runs are inputs like them."""
    material = open_material(place, common)
    marks = {}
    for name in (method.dense, method.generative):
        made_from = mapping_of(read_json(place.run(name) / INPUTS))
        for what in ("catalog", "interactions"):
            if made_from.get(what) != material.inputs[what]:
                raise ConfigError(
                    f"run {name!r} was made from another {what} than the workspace has now; train it again"
                )
        marks[name] = read_manifest(place.run(name) / "recommender" / "model").fingerprint
    named = {"dense": marks[method.dense], "generative": marks[method.generative]}
    return replace(material, inputs={**material.inputs, **named})


def _weights(folder: Path, metric: str) -> Table | str:
    """The validation metric by weight of the dense side, the chosen one marked."""
    found = mapping_of(read_json(folder / WEIGHTS))
    chosen, tried = found.get("weight"), found.get("tried")
    if not isinstance(tried, list) or not tried:
        return f"weight of the dense side: {chosen} (given)"
    table = Table("weight of the dense side", f"validation {metric}")
    for each in tried:
        if isinstance(each, list):
            weight, value = each
            table.add_row(f"{weight}{' *' if weight == chosen else ''}", f"{value:.4f}")
    return table


RECIPE = Recipe(
    verb="train hybrid",
    description="Rank by a dense and a generative run together, weighed by validation; evaluated and ready to serve.",
    job=HybridJob,
    presets={"default": HybridJob()},
    run=run,
)
