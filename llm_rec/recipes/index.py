"""``llm-rec index``: embeddings -> semantic IDs, with health figures, or all kinds of quantisers in one table."""

from dataclasses import asdict
from typing import cast

from llm_rec.artifacts import read_json
from llm_rec.recipes.code_versions import STABILITY_FILE
from llm_rec.recipes.codes import IndexJob, write_codes
from llm_rec.recipes.compare_codes import KINDS, compare_kinds
from llm_rec.recipes.console import facts, say
from llm_rec.recipes.index_growth import GROWTH_FILE
from llm_rec.recipes.recipe import Recipe
from llm_rec.recipes.workspace import Workspace
from semantic_ids.code_table import CodeTable
from semantic_ids.health import CodeHealth

__all__ = ["RECIPE", "IndexJob", "run"]


def run(job: IndexJob) -> tuple[CodeTable, CodeHealth]:
    """Write ``workspace/codes/<name>`` and print its health; codes of the same settings that are there are kept."""
    made = write_codes(job)
    path = Workspace(job.workspace).codes(job.name)
    say(facts(f"{path}", _shown(made.figures)))
    for name in (GROWTH_FILE, STABILITY_FILE):
        if (path / name).is_file():
            say(facts(f"{path / name}", cast(dict[str, object], read_json(path / name))))
    return made.table, made.figures


def _run(job: IndexJob) -> None:
    if job.compare:
        compare_kinds(job)
    else:
        run(job)


def _shown(figures: CodeHealth) -> dict[str, object]:
    plain = asdict(figures)
    books = len(figures.nmi)
    pairs = [figures.nmi[a][b] for a in range(books) for b in range(a)]
    return {
        **{k: v for k, v in plain.items() if not k.startswith("nmi")},
        "largest nmi between books": max(pairs, default=None),
    }


RECIPE = Recipe(
    verb="index",
    description="Turn embeddings into semantic IDs, with health figures over the whole catalog, or compare all kinds.",
    job=IndexJob,
    presets={kind: IndexJob(name=kind, quantizer=quantizer) for kind, quantizer in KINDS.items()},
    run=_run,
)
