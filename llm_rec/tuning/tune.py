"""Tune an encoder on a catalog and its train events; the result is an adapter as an artefact.

``<folder>/adapter_config.json``, ``adapter_model.safetensors`` (peft's format), ``log.jsonl``, ``manifest.json``, and
while it trains ``checkpoints/``. The manifest is written last: a folder without it goes on when it is asked for again.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from llm_rec.artifacts import MANIFEST, Manifest, canonical_json, fingerprint, read_manifest, write_manifest
from llm_rec.codec import Plain, from_plain, identity, to_plain
from llm_rec.data.catalog import Catalog
from llm_rec.data.splits import Split
from llm_rec.encoders.adapters import KIND, Adapter, LoRAConfig, TunableEncoder, adapter_digest
from llm_rec.encoders.build import EncoderConfig, build_encoder
from llm_rec.encoders.hashing import HashingEncoderConfig
from llm_rec.errors import ArtifactError, ConfigError
from llm_rec.processes import is_first, wait_for_all
from llm_rec.training.checkpoint import differences
from llm_rec.training.random_state import generators_untouched, seed_generators
from llm_rec.training.trainer import OPERATIONAL, Trainer, TrainerConfig, TrainResult, Validate
from llm_rec.tuning.batches import PairBatches, PairsConfig, text_groups
from llm_rec.tuning.losses import InfoNCEConfig
from llm_rec.tuning.neighbours import CatalogVectors, neighbour_metrics
from llm_rec.tuning.task import PairTask


def _trainer() -> TrainerConfig:
    return TrainerConfig(
        epochs=10,
        learning_rate=5e-4,
        weight_decay=0.01,
        clip_norm=1.0,
        patience=2,
        monitor="recall@10",
        warmup_steps=20,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class TuningConfig:
    """How an encoder is tuned. `cached` is gradient caching: the memory of one chunk, for one more forward pass.

    Early stopping watches how many validation targets are among the nearest items of the item before them. At most
    `validation_targets`, drawn by the seed, are asked for, among their own items and those they are asked by, so that
    an epoch's validation encodes at most twice as many texts (None: all targets, among the whole catalog).
    """

    pairs: PairsConfig = field(default_factory=PairsConfig)
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    loss: InfoNCEConfig = field(default_factory=InfoNCEConfig)
    cached: bool = True
    validation_targets: int | None = 2000
    trainer: TrainerConfig = field(default_factory=_trainer)

    def __post_init__(self) -> None:
        if self.validation_targets is not None and self.validation_targets < 1:
            raise ValueError(f"validation_targets must be at least 1, or none, got {self.validation_targets}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TuningOutcome:
    """What a tuning came to; `before` are the validation metrics of the encoder as it was (empty without targets)."""

    before: dict[str, float]
    result: TrainResult


def tune_encoder(
    encoder: EncoderConfig,
    catalog: Catalog,
    split: Split,
    folder: Path,
    config: TuningConfig,
    *,
    overwrite: bool = False,
) -> TuningOutcome:
    """Train an adapter of `encoder` in `folder`, going on where an earlier call was stopped; see the module.

    Weights are float32 (`trainer.precision` chooses what products are computed in); the last bits depend on the machine
    and its threads. A finished adapter of the same settings and data is kept. Raises `ArtifactError` when `folder`
    holds an adapter of others (`overwrite` starts again), `TrainingError` when it holds a half-finished one of others,
    and `ConfigError` for an encoder that cannot be tuned.
    """
    if overwrite and is_first():
        shutil.rmtree(folder, ignore_errors=True)
    wait_for_all()
    model = _tunable(encoder, config.trainer)
    plan = _plan(model, catalog, split, config)
    known = _finished(folder, plan)
    if known is not None:
        return known
    with generators_untouched():
        seed_generators(config.trainer.seed)
        adapter = Adapter(model, config.lora, base_name=_name(encoder))
    validate = _validation(model, catalog, split, config) if len(split.validation) else None
    before = dict(validate()) if validate else {}
    result = Trainer(config.trainer, folder).fit(
        PairTask(model, adapter, config.loss, cached=config.cached),
        PairBatches(catalog, split, model, config.pairs, config.trainer.seed),
        validate=validate,
        inputs={name: canonical_json(value).decode() for name, value in plan.items() if name != "trainer"},
    )
    outcome = TuningOutcome(before=before, result=result)
    if is_first():
        _seal(folder, adapter, plan, outcome, catalog, split)
    wait_for_all()
    return outcome


def _validation(encoder: TunableEncoder, catalog: Catalog, split: Split, config: TuningConfig) -> Validate:
    """Metrics of the encoder as it is at the time of the call."""
    asked, candidates = split, None
    if config.validation_targets is not None and config.validation_targets < len(split.validation):
        rng = np.random.default_rng(config.trainer.seed)
        events = np.sort(rng.choice(split.validation, size=config.validation_targets, replace=False))
        asked, candidates = replace(split, validation=events), np.zeros(split.num_items + 1, dtype=bool)
        candidates[split.log.items[np.concatenate([events, events - 1])]] = True
    vectors = CatalogVectors(catalog, encoder, text_groups(catalog), candidates)

    def validate() -> Mapping[str, float]:
        return neighbour_metrics(vectors(), asked, "validation", candidates)

    return validate


def _tunable(config: EncoderConfig, trainer: TrainerConfig) -> TunableEncoder:
    if isinstance(config, HashingEncoderConfig):
        raise ConfigError("a hashing encoder has no weights to tune; choose a sentence or a causal encoder")
    if config.adapter is not None:
        raise ConfigError(f"the encoder has an adapter already ({config.adapter}); tune the model without it")
    encoder = build_encoder(replace(config, dtype="float32"), "cpu" if trainer.device == "cpu" else None)
    if not isinstance(encoder, TunableEncoder):
        raise TypeError(f"{type(encoder).__name__} cannot be tuned")
    return encoder


def _name(config: EncoderConfig) -> str:
    """What the adapter's files call the model it belongs to."""
    return "" if isinstance(config, HashingEncoderConfig) else config.model


def _plan(encoder: TunableEncoder, catalog: Catalog, split: Split, config: TuningConfig) -> dict[str, Plain]:
    """Everything the adapter depends on. How chunks are cut and cached belongs to it: the last bits do."""
    trainer = to_plain(config.trainer)
    settings = {k: v for k, v in trainer.items() if k not in OPERATIONAL} if isinstance(trainer, dict) else {}
    events = (split.train_ends.tobytes(), split.validation.tobytes())
    return {
        "catalog": catalog.fingerprint,
        "columns": fingerprint(canonical_json(catalog.columns)) if _columns(config) else "",
        "interactions": split.log.fingerprint,
        "split": fingerprint(*events),
        "encoder": encoder.fingerprint(),
        "pairs": identity(config.pairs),
        "lora": identity(config.lora),
        "loss": identity(config.loss),
        "cached": config.cached,
        "validation_targets": config.validation_targets,
        "trainer": settings,
    }


def _columns(config: TuningConfig) -> bool:
    """Whether views read columns of the catalog, which its fingerprint leaves out."""
    return config.pairs.views is not None and bool(config.pairs.views.columns)


def _finished(folder: Path, plan: dict[str, Plain]) -> TuningOutcome | None:
    """The outcome of the adapter in `folder`, when it is whole and of this plan."""
    if not (folder / MANIFEST).is_file():
        return None
    details = read_manifest(folder, KIND).details
    changes = differences(details.get("plan"), plan)
    if changes:
        raise ArtifactError(
            f"{folder} holds an adapter made otherwise ({'; '.join(changes)}); choose another name, or pass --overwrite"
        )
    if is_first():
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return from_plain(TuningOutcome, details.get("outcome"))


def _seal(
    folder: Path, adapter: Adapter, plan: dict[str, Plain], outcome: TuningOutcome, catalog: Catalog, split: Split
) -> None:
    """Write the adapter, then the manifest, then drop what only an unfinished run needs."""
    adapter.save(folder)
    manifest = Manifest(
        kind=KIND,
        fingerprint=adapter_digest(folder)[:16],
        inputs={"catalog": catalog.fingerprint, "interactions": split.log.fingerprint, "base": adapter.base},
        details={"plan": plan, "outcome": to_plain(outcome)},
    )
    write_manifest(folder, manifest)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
