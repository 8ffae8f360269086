"""What the table of semantic codes as click features needs beside its rows: data, codes of every seed, figures.

Two figures of Mixture-of-Codes (arXiv 2410.09560) need no click model or come after one. Discriminability is what codes
say about clicks (`llm_rec.analysis.mutual_information`). Dimension robustness is the singular spectrum of the trained
representation of all items: a matrix of items x (fields * dim), as it is (not centred), after the fusion. Codes are
fitted anew for every seed, so that differences over seeds hold the luck of the quantiser as well as that of training.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from ctr_models.model import CTRModel
from ctr_models.schema import RESERVED
from llm_rec.analysis.mutual_information import Discriminability, discriminability
from llm_rec.analysis.spectrum import (
    condition_number,
    effective_rank,
    information_abundance,
    participation_ratio,
    singular_values,
)
from llm_rec.artifacts import canonical_json, fingerprint, read_manifest
from llm_rec.codec import Plain, to_plain
from llm_rec.ctr.item_fields import semantic_vectors
from llm_rec.ctr.log_rows import ITEM, LABEL, LogRowsConfig, write_log_rows
from llm_rec.data.columns import ClickLog
from llm_rec.encoders import EncoderConfig
from llm_rec.encoders.transforms import PCAConfig, fit_transform
from llm_rec.experiment import Cell, CellResult, Record, Row, run_grid
from llm_rec.processes import one_thread
from llm_rec.recipes import index
from llm_rec.recipes.click_tables import open_log
from llm_rec.recipes.console import say
from llm_rec.recipes.tables import TableJob, prepare
from llm_rec.recipes.workspace import Workspace
from llm_rec.store import EmbeddingStore
from semantic_ids.health import CodeHealth
from semantic_ids.quantizers import QuantizerConfig

EMBEDDINGS = "text"
SPECTRUM = ("information_abundance", "effective_rank", "participation_ratio", "condition_number")
PLACES = (1, 2, 4, 8, 16, 32, 64, 128)  # singular values that are kept


@dataclass(frozen=True, kw_only=True, slots=True)
class SemanticData:
    """A log with an id for every item of its catalog, and the text vectors that adapters read."""

    log: Path
    adapter: Path


def prepare_semantics(
    data: Path, out: Path, encoder: EncoderConfig, rows: LogRowsConfig, *, adapter_dim: int
) -> SemanticData:
    """Catalog, interactions, text vectors, click rows, and the `adapter_dim` principal components of the text vectors,
    all in `out`; what is there already is kept. Raises `ConfigError` when `out` holds other data.
    """
    material = prepare(TableJob(data=data, out=out, rows=(), encoder=encoder, quantizers={}))
    place = Workspace(out)
    log = out / "logs" / f"rows-{fingerprint({'rows': to_plain(rows)})}"
    if not log.exists():
        write_log_rows(material.split, material.catalog, log, rows)
    adapter = place.embeddings(f"{EMBEDDINGS}-pca{adapter_dim}")
    if not adapter.exists():
        fit_transform(EmbeddingStore.open(place.embeddings(EMBEDDINGS)), [PCAConfig(dim=adapter_dim)], adapter)
    return SemanticData(log=log, adapter=adapter)


def codes_path(out: Path, name: str, quantizer: QuantizerConfig, seed: int) -> Path:
    """Where the codes of `quantizer`, fitted with `seed`, lie below `out`."""
    mark = fingerprint({"quantizer": to_plain(quantizer, tagged=True)})
    return Workspace(out).codes(f"{name}-{mark}-seed{seed}")


@dataclass(frozen=True, slots=True)
class CodeRunner:
    """Fits the quantiser of a cell where its codes are not there yet, and measures the codes. Picklable."""

    out: Path
    log: Path
    quantizers: Mapping[str, QuantizerConfig]

    def __call__(self, cell: Cell) -> list[Record]:
        with one_thread():
            quantizer = self.quantizers[cell.model]
            name = codes_path(self.out, cell.model, quantizer, cell.seed).name
            job = index.IndexJob(workspace=self.out, name=name, quantizer=quantizer, seed=cell.seed)
            table, figures = index.run(job)
            log = open_log(self.log)
            found = discriminability(table.items, *_rows(log, "train"), *_rows(log, "test"), seed=cell.seed)
        return [*information_records(found), *health_records(figures)]


def run_codes(
    out: Path, log: Path, quantizers: Mapping[str, QuantizerConfig], *, seeds: int, jobs: int = 1, quick: bool = False
) -> list[CellResult]:
    """Codes of every name and seed below `out`, and their figures; only what is missing is made."""
    cells = []
    for name, quantizer in quantizers.items():
        inputs = [read_manifest(path).fingerprint for path in (log, Workspace(out).embeddings(EMBEDDINGS))]
        plain: dict[str, Plain] = {"quantizer": to_plain(quantizer, tagged=True), "inputs": list(inputs)}
        setting: dict[str, Plain] = {"made_from": fingerprint(canonical_json(plain))}
        cells += [Cell(name, setting, seed) for seed in range(seeds)]
    runner = CodeRunner(out, log, dict(quantizers))
    return run_grid(cells, runner, out, context={"quick": quick, "figures": "codes"}, report=_tell, jobs=jobs)


def information_records(found: Discriminability) -> Iterator[Record]:
    """The curve over the first books (column `books`), and its bounds."""
    for entry in found.curve:
        columns: dict[str, Plain] = {"books": entry.books}
        figures = {**asdict(entry.in_sample), **asdict(entry)}
        for name, value in figures.items():
            if name not in ("books", "in_sample"):
                yield Record(name, value, columns)
    last: dict[str, Plain] = {"books": len(found.curve)}
    yield Record("label_entropy", found.label_entropy, last)
    yield Record("item_plug_in", found.item.plug_in, last)
    yield Record("item_corrected", found.item.corrected, last)
    yield Record("item_held_out", found.item_held_out, last)


def health_records(figures: CodeHealth) -> Iterator[Record]:
    """Collisions, the neighbours that codes keep, and how much the books of a pair share."""
    columns: dict[str, Plain] = {"books": len(figures.codebook_sizes)}
    yield Record("collision_rate", figures.collision_rate, columns)
    if figures.neighbour_overlap is not None:
        yield Record("neighbour_overlap", figures.neighbour_overlap, columns)
    pairs = list(combinations(range(len(figures.codebook_sizes)), 2))
    if pairs:
        shared = np.array([figures.nmi[a][b] for a, b in pairs])
        chance = np.array([figures.nmi_chance[a][b] for a, b in pairs])
        yield Record("nmi_mean", float(shared.mean()), columns)
        yield Record("nmi_largest", float(shared.max()), columns)
        yield Record("nmi_chance", float(chance.mean()), columns)


def spectrum_records(model: CTRModel, log: ClickLog) -> list[Record]:
    """Dimension robustness of the model's fields beside the item's id: nothing where it has none.

    Abundance, effective rank and participation ratio grow with the width: read them relative to it or to one book. A
    condition number that rounding cannot tell from infinity is left out. `singular_value` are shares of the largest.
    """
    vectors = semantic_vectors(model)
    if vectors is None:
        return []
    values = singular_values(vectors.detach().double().cpu())
    columns: dict[str, Plain] = {"slice": "all"}
    figures = {
        "width": float(vectors.shape[1]),
        "information_abundance": information_abundance(values),
        "effective_rank": effective_rank(values),
        "participation_ratio": participation_ratio(values),
        "condition_number": condition_number(values),
    }
    records = [Record(name, value, columns) for name, value in figures.items() if np.isfinite(value)]
    return records + [Record("singular_value", value, {"place": k}) for k, value in _kept(values)]


def relative_rows(rows: Sequence[Row], first: Mapping[str, str]) -> list[Row]:
    """For every mean of `SPECTRUM`, its ratio to that of the same backbone and method at scale 1.

    Rows carry the columns `backbone`, `method` and `scale`; `first` names the method of scale 1 that another's scales
    begin from. A method without a first scale in `rows` has no ratios.
    """
    means = {_spectrum_key(row): row.mean for row in rows if row.metric in SPECTRUM}
    found = []
    for row in rows:
        backbone, method, _, metric = _spectrum_key(row)
        base = means.get((backbone, first.get(str(method), str(method)), 1, metric))
        if metric in SPECTRUM and base:
            found.append(replace(row, metric=f"{metric} / 1x", mean=row.mean / base, std=None))
    return found


def _spectrum_key(row: Row) -> tuple[Plain, Plain, Plain, str]:
    columns = row.columns
    return columns.get("backbone"), columns.get("method"), columns.get("scale"), row.metric


def _kept(values: Float64[np.ndarray, "dim"]) -> Iterator[tuple[int, float]]:
    if values[0] > 0:
        yield from ((k, float(values[k - 1] / values[0])) for k in PLACES if k <= len(values))


def _rows(log: ClickLog, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Items (rows of the codes) and labels of a part."""
    columns = log.parts[part]
    items = columns.ids[:, log.schema.id_columns[ITEM].start].astype(np.int64) - RESERVED
    return items, columns.labels[:, log.schema.labels.index(LABEL)] >= 0.5


def _tell(result: CellResult) -> None:
    shown = {r.metric: r.value for r in result.records if r.metric in ("held_out", "control", "nmi_mean")}
    text = ", ".join(f"{name} {value:.4f}" for name, value in shown.items())
    say(f"codes {result.cell.model}, seed {result.cell.seed}, {result.seconds:.0f} s: {text or result.error}")
