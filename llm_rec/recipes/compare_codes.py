"""``llm-rec index --compare``: every kind of quantiser with the same books and codes on one catalog, in one table.

Kinds differ in what they optimise, so no single figure ranks them: read collisions with the neighbours that are kept,
usage with perplexity, and both with the two figures of prefixes, which say whether a prefix means anything. The random
hash is what each figure is worth without meaning.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import combinations
from pathlib import Path

import numpy as np
from rich.table import Table

from llm_rec.artifacts import fingerprint, write_bytes, write_json
from llm_rec.codec import Plain, to_plain
from llm_rec.data import make_split
from llm_rec.errors import ConfigError
from llm_rec.experiment import markdown_lines
from llm_rec.recipes.codes import IndexJob, write_codes
from llm_rec.recipes.console import say
from llm_rec.recipes.workspace import Workspace
from semantic_ids.coherence import Events, co_interaction_lift
from semantic_ids.health import CodeHealth, RedundantBooksWarning
from semantic_ids.quantizers import (
    FitConfig,
    FSQConfig,
    GroupedRQConfig,
    LETTERConfig,
    LFQConfig,
    LibraryRQConfig,
    MixtureOfCodesConfig,
    OPQConfig,
    PQConfig,
    QuantizerConfig,
    RandomConfig,
    RQKMeansConfig,
    RQVAEConfig,
    SimVQConfig,
    TrainedConfig,
)

KINDS: dict[str, QuantizerConfig] = {
    "rqvae": RQVAEConfig(),
    "letter": LETTERConfig(),
    "simvq": SimVQConfig(),
    "moc": MixtureOfCodesConfig(),
    "fsq": FSQConfig(),
    "lfq": LFQConfig(),
    "rqkmeans": RQKMeansConfig(),
    "rqkmeans-balanced": RQKMeansConfig(balanced=True),
    "library-rq": LibraryRQConfig(),
    "grouped-rq": GroupedRQConfig(),
    "pq": PQConfig(),
    "opq": OPQConfig(),
    "random": RandomConfig(),
}
HEAD = (
    "kind",
    "collisions",
    "usage",
    "perplexity",
    "joint entropy",
    "mse",
    "cosine",
    "overlap@10",
    "similarity by depth",
    "co-interaction lift",
    "nmi (chance)",
    "fit, s",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedCodes:
    """One row: a kind, where its codes are, and how they are. Seconds are those of the process that fitted them."""

    kind: str
    name: str
    quantizer: QuantizerConfig
    health: CodeHealth
    co_interaction: tuple[float | None, ...]
    fit_seconds: float | None

    @property
    def nmi(self) -> tuple[float, float] | None:
        """The largest of two books, and what chance gives that pair; None with one book."""
        pairs = list(combinations(range(len(self.health.nmi)), 2))
        if not pairs:
            return None
        a, b = max(pairs, key=lambda pair: self.health.nmi[pair[0]][pair[1]])
        return self.health.nmi[a][b], self.health.nmi_chance[a][b]

    def cells(self) -> list[str]:
        """The row as people read it, in the order of `HEAD`."""
        figures = self.health
        nmi = "-" if self.nmi is None else "{:.2f} ({:.2f})".format(*self.nmi)
        return [
            self.kind,
            f"{figures.collision_rate:.4f}",
            _joined(figures.usage, 2),
            _joined(figures.perplexity, 0),
            f"{figures.joint_entropy:.2f}",
            _text(figures.reconstruction_mse, 6),
            _text(figures.reconstruction_cosine, 3),
            _text(figures.neighbour_overlap, 3),
            _joined(figures.prefix_similarity or (), 2),
            _joined(self.co_interaction, 1),
            nmi,
            _text(self.fit_seconds, 1),
        ]


def compare_kinds(job: IndexJob, *, fit: FitConfig | None = None) -> list[ComparedCodes]:
    """Fit what is not there yet, print the table, and write it to ``workspace/comparisons``. `fit` replaces the default
    length and pace of the kinds that are trained by steps.
    """
    place = Workspace(job.workspace)
    place.load_catalog()
    events = train_events(job)
    books, size = job.quantizer.num_codebooks, job.quantizer.codebook_size
    rows, left_out = [], {}
    for kind in chosen(job.kinds):
        try:
            rows.append(compared(job, kind, budgeted(kind, books, size, fit), events))
        except ConfigError as error:
            if job.kinds:
                raise
            left_out[kind] = str(error)
    folder = job.workspace / "comparisons" / f"{job.embeddings}-{books}x{size}-seed{job.seed}"
    write_comparison(folder, rows, left_out)
    say(shown(rows, f"{books} books of {size} codes; {folder}"))
    for kind, why in left_out.items():
        say(f"{kind} left out: {why}")
    return rows


def chosen(kinds: Sequence[str]) -> list[str]:
    """The kinds called so, in the order of the table (all without names); `ConfigError` for an unknown one."""
    for kind in kinds:
        if kind not in KINDS:
            near = get_close_matches(kind, KINDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"kinds: {', '.join(KINDS)}"
            raise ConfigError(f"kinds: {kind!r} is not a kind of quantizer; {hint}")
    return [kind for kind in KINDS if not kinds or kind in kinds]


def budgeted(kind: str, books: int, size: int, fit: FitConfig | None = None) -> QuantizerConfig:
    """The defaults of `kind` with `books` books of `size` codes; `ConfigError` where it cannot have so many.

    Grouped residual levels have the fewest groups that divide the books, and are left out where that is one group or
    one level.
    """
    base = KINDS[kind]
    if fit is not None and isinstance(base, TrainedConfig):
        base = replace(base, fit=fit)
    try:
        if isinstance(base, GroupedRQConfig):
            groups = [number for number in range(2, books) if books % number == 0]
            if not groups:
                raise ConfigError(f"{books} books are no groups of levels; choose 4, 6, 8, ...")
            return replace(base, num_codebooks=books, codebook_size=size, num_groups=groups[0])
        if isinstance(base, LETTERConfig):
            clusters = min(base.code_clusters, max(1, size // 2))
            return replace(base, num_codebooks=books, codebook_size=size, code_clusters=clusters)
        return replace(base, num_codebooks=books, codebook_size=size)
    except ValueError as error:
        raise ConfigError(f"{error}") from error


def compared(job: IndexJob, kind: str, quantizer: QuantizerConfig, events: Events | None) -> ComparedCodes:
    """The codes of `quantizer`, made where they are not there yet."""
    name = code_name(kind, quantizer, job.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RedundantBooksWarning)  # the table has a column for it
        made = write_codes(replace(job, name=name, quantizer=quantizer, compare=False, kinds=()))
    lift = () if events is None else co_interaction_lift(made.table, events)
    seconds = made.fit_seconds
    return ComparedCodes(
        kind=kind, name=name, quantizer=quantizer, health=made.figures, co_interaction=lift, fit_seconds=seconds
    )


def code_name(kind: str, quantizer: QuantizerConfig, seed: int) -> str:
    """What codes of a comparison are called: other settings are other codes."""
    return f"{kind}-{fingerprint({'quantizer': to_plain(quantizer, tagged=True)})}-seed{seed}"


def train_events(job: IndexJob) -> Events | None:
    """Train events of the workspace's log under the split of the job; None where there is no log."""
    place = Workspace(job.workspace)
    if not place.interactions.exists():
        return None
    log = place.load_interactions(place.load_catalog())
    split = make_split(log, job.split)
    train = np.flatnonzero(split.in_train)
    return Events(log.users_of(train), log.items[train].astype(np.int64))


def write_comparison(folder: Path, rows: Sequence[ComparedCodes], left_out: Mapping[str, str]) -> None:
    """``comparison.json`` (every figure) and ``comparison.md`` (the table) in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    plain: list[Plain] = [to_plain(row) for row in rows]
    write_json(folder / "comparison.json", {"rows": plain, "left_out": dict(left_out)})
    lines = markdown_lines(list(HEAD), [row.cells() for row in rows])
    notes = "".join(f"\n{kind} left out: {why}\n" for kind, why in left_out.items())
    write_bytes(folder / "comparison.md", f"{lines}\n{notes}".encode())


def shown(rows: Sequence[ComparedCodes], title: str) -> Table:
    """The table for a terminal."""
    table = Table(*HEAD, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row.cells())
    return table


def _joined(values: Sequence[float | None], digits: int) -> str:
    return " ".join(_text(value, digits) for value in values) or "-"


def _text(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
