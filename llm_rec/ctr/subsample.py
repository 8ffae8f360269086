"""A click log with fewer train rows of one class: sparsity made by leaving rows out, not by weights.

For the experiments of arXiv 2403.14144, whose separate knob leaves out negatives of the train part.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from llm_rec.artifacts import fingerprint, write_artifact
from llm_rec.codec import Plain, to_plain
from llm_rec.data.columns import KIND, ClickColumns, ClickLog, ClickWriter
from llm_rec.data.log_spec import PARTS, Part
from llm_rec.errors import ConfigError, DataError

_CHUNK = 1 << 18  # rows copied at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class SubsampleConfig:
    """Shares of the positives (first label at least 0.5) and of the negatives of `parts` to keep, to the nearest row.

    The rows kept of a class depend on the seed alone, and a smaller share is a part of a larger one. By default only
    train rows are left out, so that all shares are evaluated on the same rows.
    """

    positives: float = 1.0
    negatives: float = 1.0
    parts: tuple[Part, ...] = ("train",)
    seed: int = 42

    def __post_init__(self) -> None:
        for name, value in (("positives", self.positives), ("negatives", self.negatives)):
            if not 0 < value <= 1:
                raise ConfigError(f"{name} is a share to keep, above 0 and at most 1, got {value}")


def subsample_log(log: ClickLog, path: Path | str, config: SubsampleConfig, *, overwrite: bool = False) -> ClickLog:
    """Write `log` with the rows that `config` keeps, in their order, as the click log `path`.

    Encoders stay as they were fitted on all train rows: ids keep their meaning, and values that are left without a
    train row have embeddings at their initialisation. `DataError` when a class would have no row left.
    """
    kept: dict[Part, np.ndarray] = {part: _kept(log, part, config) for part in PARTS if part in log.rows}
    details: dict[str, Plain] = {"log": log.fingerprint, "subsample": to_plain(config)}
    name = fingerprint(KIND, log.fingerprint, {"subsample": to_plain(config)})
    with write_artifact(Path(path), kind=KIND, fingerprint=name, details=details, overwrite=overwrite) as folder:
        sizes = {part: len(rows) for part, rows in kept.items()}
        with ClickWriter(folder, log.schema, log.columns, sizes, events=log.events) as writer:
            for part, rows in kept.items():
                for chunk in _chunks(log.part(part), rows):
                    writer.append(part, chunk)
        details.update(writer.details())
    return ClickLog.load(path)


def _kept(log: ClickLog, part: Part, config: SubsampleConfig) -> Int64[np.ndarray, "rows"]:
    """Rows of a part to keep, ascending."""
    positive = log.part(part).labels[:, 0] >= 0.5
    if part not in config.parts:
        return np.arange(len(positive))
    found = []
    for place, (rows, share) in enumerate(
        ((np.flatnonzero(positive), config.positives), (np.flatnonzero(~positive), config.negatives))
    ):
        number = round(share * len(rows))
        if not number:
            what = ("positives", "negatives")[place]
            raise DataError(f"{log.path}: a share of {share} of {len(rows)} {what} of {part} is no row; keep more")
        order = np.random.default_rng([config.seed, place, PARTS.index(part)]).permutation(len(rows))
        found.append(rows[order[:number]])
    return np.sort(np.concatenate(found))


def _chunks(columns: ClickColumns, rows: Int64[np.ndarray, "rows"]) -> Iterator[ClickColumns]:
    for start in range(0, len(rows), _CHUNK):
        yield columns.select(rows[start : start + _CHUNK])
