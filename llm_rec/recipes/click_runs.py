"""Runs of click models: a trained method with its evaluation, as a folder that other verbs read.

```
runs/<name>/config.yaml  run.json  inputs.json  phases/  model/  logits.npz  report.json
```
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from ctr_models.losses import ClickLossConfig
from ctr_models.model import CTRModel
from llm_rec.artifacts import read_json, read_manifest, replacing
from llm_rec.codec import from_plain, to_plain
from llm_rec.ctr.domain_evaluation import UnitRows, unit_rows
from llm_rec.ctr.evaluation import ClickEvaluationConfig, click_logits, row_slices
from llm_rec.ctr.item_fields import ItemTables, item_positives
from llm_rec.ctr.method import ClickMethodConfig, TrainedClicks, train_clicks
from llm_rec.data.columns import KIND, ClickLog
from llm_rec.data.log_spec import Part
from llm_rec.errors import ArtifactError, ConfigError
from llm_rec.metrics.click_intervals import summarise_clicks
from llm_rec.metrics.domains import Unit, with_means
from llm_rec.metrics.summary import SliceSummary
from llm_rec.processes import is_first, wait_for_all
from llm_rec.recipes.material import CODES_FILE, CODES_KIND, open_store
from llm_rec.recipes.runs import SETTINGS, claim_run, history_of, mapping_of, need_run
from llm_rec.recipes.workspace import Workspace
from llm_rec.report.report import REPORT, Report
from llm_rec.serving.clicks import save_click_model
from semantic_ids.code_table import CodeTable

LOGITS = "logits.npz"
MODEL = "model"


@dataclass(frozen=True, kw_only=True, slots=True)
class ClickRunEvaluationConfig:
    """`slice_field`: rows are cut by how many train rows hold their value of this field (an item, a user): unseen,
    fewer than 5, warm, and so on. Without it slices are the domains of the log, or there is one slice, "all".
    `slice_by` "positives" counts only train rows with a click; None does so for rows made of interactions, whose
    negatives are sampled. ECE is over `num_buckets` buckets of equally many rows; `samples` bootstrap resamples make
    the 95 % intervals.
    """

    slice_field: str | None = None
    slice_by: Literal["rows", "positives"] | None = None
    num_buckets: int = 45
    samples: int = 200
    batch_size: int = 16384

    def __post_init__(self) -> None:
        ClickEvaluationConfig(num_buckets=self.num_buckets, batch_size=self.batch_size)
        if self.samples < 1:
            raise ConfigError(f"samples must be at least 1, got {self.samples}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClickRunSettings:
    """Everything a run's numbers depend on beside its data; `task` tells it from runs of sequential recommenders."""

    task: Literal["clicks"] = "clicks"
    log: str
    method: ClickMethodConfig
    evaluation: ClickRunEvaluationConfig
    codes: str | None = None
    embeddings: str | None = None
    seed: int = 0


@dataclass(frozen=True, eq=False)
class ClickMaterial:
    """A click log and, for a method with item fields, what its items have. `inputs` names fingerprints."""

    log: ClickLog
    items: ItemTables | None
    inputs: dict[str, str]


@runtime_checkable
class Sampling(Protocol):
    """How figures are made: buckets of calibration, resamples of intervals."""

    @property
    def num_buckets(self) -> int: ...

    @property
    def samples(self) -> int: ...


@dataclass(frozen=True, eq=False)
class ScoredRows:
    """Rows of one part as a run scored them: what paired tests and calibration need."""

    logits: Float64[np.ndarray, "rows"]
    labels: Float32[np.ndarray, "rows"]
    groups: Int64[np.ndarray, "rows"] | None
    slices: dict[str, Bool[np.ndarray, "rows"]]

    def summary(self, config: Sampling) -> dict[str, SliceSummary]:
        """Figures by slice with their intervals, and their means where slices are domains or tasks."""
        found = summarise_clicks(
            self.logits,
            self.labels,
            self.slices,
            self.groups,
            num_buckets=config.num_buckets,
            samples=config.samples,
        )
        return with_means(found)


def train_click_run(name: str, settings: ClickRunSettings, material: ClickMaterial, folder: Path) -> Report:
    """Train, evaluate and save; what is already there is not done again. A run of other settings or data is refused.

    Several processes (``accelerate launch``) train together; the first one evaluates and writes, all get the report.
    """
    if is_first():
        claim_run(folder, to_plain(settings), material.inputs, read_click_settings)
    wait_for_all()
    start = time.perf_counter()
    trained = train_clicks(
        settings.method,
        material.log,
        seed=settings.seed,
        folder=folder / "phases",
        items=material.items,
        inputs={name: mark for name, mark in material.inputs.items() if name != "log"},
    )
    seconds = time.perf_counter() - start
    if is_first() and not (folder / REPORT).is_file():  # written last
        _finish(name, settings, material, folder, trained, seconds)
    wait_for_all()
    return Report.load(folder)


def open_click_material(place: Workspace, settings: ClickRunSettings) -> ClickMaterial:
    """Read what `settings` name; `ArtifactError` when something is missing or belongs to another catalog."""
    path = place.clicks(settings.log)
    manifest = place.need(path, KIND, f"llm-rec clicks --name {settings.log}")
    log = ClickLog.load(path)
    inputs = {"log": log.fingerprint}
    config = settings.method.item_fields
    if config is None:
        for option, given in (("codes", settings.codes), ("embeddings", settings.embeddings)):
            if given is not None:
                raise ConfigError(
                    f"--{option} {given} is read by method.item_fields, which this method lacks; take --preset "
                    "dcn_v2-codes or dcn_v2-texts, or set method.item_fields in a file"
                )
        return ClickMaterial(log, None, inputs)
    catalog = place.load_catalog()
    manifest.require_input("catalog", catalog.fingerprint, where=path)
    codes, embeddings = None, None
    if settings.codes is not None:
        source = place.codes(settings.codes)
        made = place.need(source, CODES_KIND, f"llm-rec index --name {settings.codes}")
        made.require_input("catalog", catalog.fingerprint, where=source)
        codes, inputs["codes"] = CodeTable.load(source / CODES_FILE), made.fingerprint
    if settings.embeddings is not None:
        store = open_store(place.embeddings(settings.embeddings), catalog)
        embeddings, inputs["embeddings"] = np.asarray(store.all()), store.fingerprint
    return ClickMaterial(log, ItemTables(item_positives(log, config.field), codes, embeddings), inputs)


def score_part(
    model: CTRModel, loss: ClickLossConfig, log: ClickLog, part: Part, config: ClickRunEvaluationConfig
) -> ScoredRows:
    """Logits of every row of `part`, and the slices that have rows: domains, where the log has them and no
    `slice_field` is set.
    """
    columns = log.part(part)
    logits = click_logits(model, loss, columns, batch_size=config.batch_size)
    if log.schema.domain is not None and config.slice_field is None:
        return scored_units(unit_rows(logits[:, None], log, columns, "domain"), "domain")
    label = None if config.slice_field is None else _counted_label(log, config)
    found = row_slices(log, columns, config.slice_field, label=label)
    slices = {name: mask for name, mask in found.items() if mask.any()}
    groups = None if columns.groups is None else np.asarray(columns.groups)
    return ScoredRows(logits, np.asarray(columns.labels[:, 0]), groups, slices)


def scored_units(rows: UnitRows, unit: Unit) -> ScoredRows:
    """Scored rows whose slices are domains or tasks."""
    return ScoredRows(rows.logits, rows.labels, rows.groups, rows.slices(unit))


def _counted_label(log: ClickLog, config: ClickRunEvaluationConfig) -> str | None:
    """The label whose train rows make an item warm; None: all rows do."""
    sampled = "interactions" in read_manifest(log.path, KIND).inputs
    by = config.slice_by or ("positives" if sampled else "rows")
    return log.schema.labels[0] if by == "positives" else None


def read_click_settings(folder: Path) -> ClickRunSettings:
    """The settings a click run was made with."""
    need_run(folder, "clicks")
    try:
        return from_plain(ClickRunSettings, read_json(folder / SETTINGS))
    except ConfigError as error:
        raise ArtifactError(f"{folder / SETTINGS}: {error}; train the run again with --overwrite") from error


def save_logits(path: Path, rows: ScoredRows) -> None:
    """What `load_logits` reads, written atomically."""
    slices = {f"slice:{name}": mask for name, mask in rows.slices.items()}
    groups = {} if rows.groups is None else {"groups": rows.groups}
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, logits=rows.logits, labels=rows.labels, **groups, **slices)


def load_logits(folder: Path) -> ScoredRows:
    """Scored test rows of a run."""
    path = folder / LOGITS
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; run `llm-rec train ctr --name {folder.name}` again")
    with np.load(path, allow_pickle=False) as arrays:
        slices = {name.removeprefix("slice:"): arrays[name] for name in arrays if name.startswith("slice:")}
        groups = arrays.get("groups")
        return ScoredRows(arrays["logits"], arrays["labels"], groups, slices)


def _finish(
    name: str,
    settings: ClickRunSettings,
    material: ClickMaterial,
    folder: Path,
    trained: TrainedClicks,
    seconds: float,
) -> None:
    start = time.perf_counter()
    method, log = settings.method, material.log
    save_click_model(folder / MODEL, trained.model, method, log, material.items, overwrite=True)
    parts: list[Part] = [part for part in ("validation", "test") if part in log.rows]
    if not parts:
        raise ConfigError(f"{log.path} has neither validation nor test rows; encode it with such a part")
    found = {part: score_part(trained.model, method.loss, log, part, settings.evaluation) for part in parts}
    report = Report.of(
        name,
        {part: rows.summary(settings.evaluation) for part, rows in found.items()},
        config=mapping_of(to_plain(settings)),
        fingerprints=material.inputs,
        seeds={"seed": settings.seed},
        timings={"train": seconds, "evaluate": time.perf_counter() - start},
        history=history_of({"train": trained.result}),
        task="clicks",
    )
    save_logits(folder / LOGITS, found[parts[-1]])
    report.save(folder)
