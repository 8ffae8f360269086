"""The plan of an encode job: what the bytes of its store depend on, and whether a folder was begun by it."""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llm_rec.artifacts import MANIFEST, Manifest, read_json, read_manifest, write_json
from llm_rec.codec import Plain
from llm_rec.data.catalog import Catalog
from llm_rec.encoders.protocol import TextEncoder
from llm_rec.encoders.shard_job import EncodeConfig, batch_tokens
from llm_rec.errors import ArtifactError
from llm_rec.store import KIND, PLAN, ShardLayout, seal


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderFacts:
    """What a job must know of an encoder that may live in another process."""

    dim: int
    fingerprint: str
    tokens_per_batch: int
    environment: Mapping[str, Plain]

    @classmethod
    def of(cls, encoder: TextEncoder, config: EncodeConfig) -> "EncoderFacts":
        return cls(
            dim=encoder.dim,
            fingerprint=encoder.fingerprint(),
            tokens_per_batch=batch_tokens(encoder, config),
            environment=dict(encoder.environment()),
        )


def encode_plan(catalog: Catalog, encoder: EncoderFacts, config: EncodeConfig) -> dict[str, Plain]:
    """Everything the bytes of the store depend on."""
    return {
        "layout": {"num_items": len(catalog), "shard_rows": config.shard_rows},
        "inputs": {"catalog": catalog.fingerprint, "encoder": encoder.fingerprint},
        "batches": {"tokens_per_batch": encoder.tokens_per_batch, "texts_per_batch": config.texts_per_batch},
        "environment": dict(encoder.environment),
    }


def prepare_folder(folder: Path, plan: dict[str, Plain], *, overwrite: bool) -> None:
    """Leave a finished store of this plan, or a folder with this plan and no stray files of a killed run."""
    if (folder / MANIFEST).is_file():
        differences = _differences(_plan_of(read_manifest(folder, KIND)), plan, skip="environment")
        if not differences and not overwrite:
            _remove([*folder.glob("draft-*"), *_strays(folder)], folder / PLAN)
            return
        if not overwrite:
            raise ArtifactError(
                f"{folder} holds a finished store made otherwise ({'; '.join(differences)}); "
                "choose another folder, or pass --overwrite"
            )
    ours = (folder / PLAN).is_file() or (folder / MANIFEST).is_file()
    if folder.exists() and not ours and any(folder.iterdir()):
        raise ArtifactError(f"{folder} is not empty and holds no embedding store; choose another folder")
    if overwrite and folder.exists():
        if (folder / MANIFEST).is_file():
            read_manifest(folder, KIND)
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _remove(_strays(folder))
    if not (folder / PLAN).is_file():
        write_json(folder / PLAN, plan)


def require_plan(folder: Path, plan: dict[str, Plain]) -> None:
    """`ArtifactError` naming what differs when the half-finished folder was begun by another plan."""
    begun = read_json(folder / PLAN)
    if not isinstance(begun, dict):
        raise ArtifactError(f"{folder / PLAN} is damaged; encode again with --overwrite")
    differences = _differences(begun, plan)
    if differences:
        raise ArtifactError(
            f"{folder} is half finished and was begun otherwise, so going on would mix vectors: "
            f"{'; '.join(differences)}. Use the same settings, or pass --overwrite to encode from the start"
        )


def _plan_of(manifest: Manifest) -> dict[str, Plain]:
    """The plan that a finished store was made by."""
    details = manifest.details
    layout: dict[str, Plain] = {"num_items": details.get("num_items"), "shard_rows": details.get("shard_rows")}
    inputs: dict[str, Plain] = dict(manifest.inputs)
    return {"layout": layout, "inputs": inputs, "batches": details.get("batches")}


def _differences(there: dict[str, Plain], here: dict[str, Plain], *, skip: str = "") -> list[str]:
    """``threads: 1 there, 2 here`` for each setting that differs."""
    found = []
    for part, value in here.items():
        other = there.get(part)
        old = other if isinstance(other, dict) else {}
        new = value if isinstance(value, dict) else {}
        names = [] if part == skip else list(dict.fromkeys([*new, *old]))
        found += [f"{n}: {old.get(n)} there, {new.get(n)} here" for n in names if old.get(n) != new.get(n)]
    return found


def seal_store(folder: Path, catalog: Catalog, encoder: EncoderFacts, config: EncodeConfig) -> None:
    """Write the manifest of a folder whose shards are all there, and remove drafts and plan."""
    plan = encode_plan(catalog, encoder, config)
    inputs = {"catalog": catalog.fingerprint, "encoder": encoder.fingerprint}
    details: dict[str, Plain] = {"batches": plan["batches"], "environment": plan["environment"]}
    layout = ShardLayout(num_items=len(catalog), shard_rows=config.shard_rows)
    seal(folder, layout, encoder.dim, inputs=inputs, details=details)
    _remove(folder.glob("draft-*"), folder / PLAN)


def _strays(folder: Path) -> list[Path]:
    """Half-written files of a killed run: ours, and those that safetensors writes and renames itself."""
    return [*folder.glob(".*.partial-*"), *folder.glob(".tmp*")]


def _remove(files: Iterable[Path], *more: Path) -> None:
    for file in [*files, *more]:
        file.unlink(missing_ok=True)
