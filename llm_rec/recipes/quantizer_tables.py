"""What the table of quantisers needs beside its rows: collaborative vectors, who gets more seeds, one table of all."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from llm_rec.artifacts import canonical_json, fingerprint, read_manifest
from llm_rec.codec import identity
from llm_rec.errors import ConfigError
from llm_rec.experiment import CellResult, markdown_lines, table
from llm_rec.processes import one_thread
from llm_rec.recipes.compare_codes import HEAD, ComparedCodes
from llm_rec.recipes.material import Material
from llm_rec.recipes.methods import SequentialMethodConfig, train_method
from llm_rec.recipes.run_vectors import item_vectors, save_item_vectors
from llm_rec.recipes.tables import TableRow
from llm_rec.recipes.workspace import Workspace

COLLABORATIVE = "collaborative"
SHOWN = (("recall@10", "all"), ("recall@10", "lt5"), ("recall@10", "unseen"), ("ndcg@10", "all"))


def collaborative_vectors(out: Path, material: Material, method: SequentialMethodConfig) -> None:
    """Item vectors of `method`, trained with seed 0, as the embeddings `collaborative` of `out`; kept once they are
    there. Raises `ConfigError` when those there are of another method.
    """
    path = Workspace(out).embeddings(COLLABORATIVE)
    mark = fingerprint(canonical_json({"method": identity(method), "log": material.inputs["interactions"]}))
    if path.exists():
        if read_manifest(path).details.get("method") != mark:
            raise ConfigError(f"{path} are vectors of another model; choose another --out")
        return
    with one_thread():
        trained = train_method(method, material, seed=0, folder=out / "runs" / COLLABORATIVE)
    inputs = {"catalog": material.inputs["catalog"], "interactions": material.inputs["interactions"]}
    save_item_vectors(item_vectors(trained.model), material.split, path, inputs=inputs, details={"method": mark})


def best_rows(results: Sequence[CellResult], number: int, controls: Sequence[str]) -> set[str]:
    """The controls, and the `number` other rows with the best validation figure of seed 0."""
    scores = {
        result.cell.model: record.value
        for result in results
        for record in result.records
        if record.metric == "validation" and result.cell.seed == 0 and result.cell.model not in controls
    }
    return {*controls, *sorted(scores, key=lambda name: -scores[name])[:number]}


def with_seeds(rows: Sequence[TableRow], names: set[str], seeds: int) -> tuple[TableRow, ...]:
    """`rows`, those called `names` with so many seeds."""
    return tuple(replace(row, seeds=max(row.seeds, seeds)) if row.name in names else row for row in rows)


def combined(rows: Sequence[TableRow], compared: Sequence[ComparedCodes], results: Sequence[CellResult]) -> str:
    """A line a row: ranking metrics (mean and, over several seeds, deviation) beside the health of its codes."""
    figures = {(row.model, row.metric, row.columns["slice"]): row for row in table(results)}
    health = {codes.name: codes.cells()[1:] for codes in compared}
    head = ["model", "seeds", *(f"{metric} {part}" for metric, part in SHOWN), *HEAD[1:]]
    body = []
    for row in rows:
        cells = []
        for metric, part in SHOWN:
            found = figures.get((row.name, metric, part))
            if found is None:
                cells.append("-")
            else:
                cells.append(f"{found.mean:.4f}" + (f" ± {found.std:.4f}" if found.std is not None else ""))
        seeds = {result.cell.seed for result in results if result.cell.model == row.name and result.status == "done"}
        body.append([row.name, str(len(seeds)), *cells, *(health.get(row.codes or "", ["-"] * (len(HEAD) - 1)))])
    return markdown_lines(head, body)
