"""``llm-rec clicks``: a click log, read from files or made of the workspace's interactions, encoded as an artefact."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from rich.table import Table

from ctr_models.encode import VocabularyConfig
from ctr_models.schema import Categorical, Dense, Field, MultiValue, Numeric
from llm_rec.artifacts import read_manifest
from llm_rec.ctr.log_rows import LogRowsConfig, user_columns, write_log_rows
from llm_rec.data import LeaveOneOutConfig, SplitConfig
from llm_rec.data.columns import KIND, ClickLog, holds
from llm_rec.data.log_encoding import encode_log, log_fingerprint
from llm_rec.data.log_spec import ColumnSpec
from llm_rec.data.sources.avazu import AvazuConfig
from llm_rec.data.sources.census import CensusConfig
from llm_rec.data.sources.click_table import ClickSourceConfig, ClickTableConfig, click_source
from llm_rec.data.sources.criteo import CriteoConfig
from llm_rec.data.sources.frappe import FrappeConfig
from llm_rec.errors import ConfigError
from llm_rec.recipes.console import say, text_of
from llm_rec.recipes.material import MaterialConfig, open_material
from llm_rec.recipes.recipe import Recipe
from llm_rec.recipes.workspace import Workspace


@dataclass(frozen=True, kw_only=True, slots=True)
class InteractionsConfig:
    """Rows from the workspace's catalog and log: what happened, and sampled items that a user never touched.

    `item_columns` and `user_columns` name columns of the catalog and of the table `users` (whose ids are its column
    `user`); each becomes a field with a vocabulary. For other encoders set `rows.item_columns` and `rows.user_columns`
    in a file. `codes` names semantic codes of the workspace; each book becomes a field.
    """

    split: SplitConfig = field(default_factory=LeaveOneOutConfig)
    rows: LogRowsConfig = field(default_factory=LogRowsConfig)
    item_columns: tuple[str, ...] = ()
    users: Path | None = None
    user: str = "user_id"
    user_columns: tuple[str, ...] = ()
    codes: str | None = None

    def __post_init__(self) -> None:
        if (self.user_columns or self.rows.user_columns) and self.users is None:
            raise ConfigError("user_columns are read from a table of users; set users to its file")


SourceConfig: TypeAlias = (
    InteractionsConfig | ClickTableConfig | FrappeConfig | CensusConfig | CriteoConfig | AvazuConfig
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClicksJob:
    """Read, check, encode, and write a click log."""

    workspace: Path = Path("workspace")
    """Folder that all verbs share."""
    name: str = "clicks"
    """Name of the log below workspace/clicks."""
    source: SourceConfig = field(default_factory=InteractionsConfig)
    """Where the rows come from; --preset or --source.kind chooses."""
    overwrite: bool = False
    """Replace the log of that name."""


def run(job: ClicksJob) -> ClickLog:
    """Write ``workspace/clicks/<name>`` and print what is in it. The same log that is there already is kept."""
    place = Workspace(job.workspace)
    path = place.clicks(job.name)
    if isinstance(job.source, InteractionsConfig):
        log = _from_interactions(place, path, job.source, overwrite=job.overwrite)
    else:
        log = _from_files(path, job.source, overwrite=job.overwrite)
    say(rows_table(log))
    say(fields_table(log))
    return log


def rows_table(log: ClickLog) -> Table:
    """Rows and positive rates of every part."""
    means = read_manifest(log.path, KIND).details.get("label_means")
    table = Table(title=f"{log.path}", title_justify="left")
    for head in ("part", "rows", *(f"mean {label}" for label in log.schema.labels)):
        table.add_column(head, justify="left" if head == "part" else "right")
    for part, rows in log.rows.items():
        found = means.get(part) if isinstance(means, dict) else None
        rates = [found.get(label) if isinstance(found, dict) else None for label in log.schema.labels]
        table.add_row(part, f"{rows:,}", *(text_of(rate) for rate in rates))
    return table


def fields_table(log: ClickLog) -> Table:
    """Every field with its raw column and its size."""
    table = Table(title=f"{len(log.schema.fields)} fields", title_justify="left")
    for head in ("field", "column", "kind", "values"):
        table.add_column(head, justify="right" if head == "values" else "left")
    for found, column in zip(log.schema.fields, log.columns, strict=True):
        table.add_row(found.name, column.spec.source, *_described(found))
    return table


def _described(found: Field) -> tuple[str, str]:
    match found:
        case Categorical():
            return "one id", f"{found.size - 2:,}"
        case MultiValue():
            return f"up to {found.length} ids", f"{found.size - 2:,}"
        case Numeric():
            return "number", "-"
        case Dense():
            return f"vector of {found.width}", "-"


def _from_files(path: Path, config: ClickSourceConfig, *, overwrite: bool) -> ClickLog:
    files, spec = click_source(config)
    if not overwrite and holds(path, log_fingerprint(files, spec)):
        return ClickLog.load(path)
    return encode_log(files, spec, path, overwrite=overwrite)


def _from_interactions(place: Workspace, path: Path, config: InteractionsConfig, *, overwrite: bool) -> ClickLog:
    material = open_material(place, MaterialConfig(split=config.split, embeddings=None, codes=config.codes))
    rows = config.rows
    items = (*rows.item_columns, *map(_field_of, config.item_columns))
    users = (*rows.user_columns, *map(_field_of, config.user_columns))
    rows = replace(rows, item_columns=items, user_columns=users)
    sources = list(dict.fromkeys(column.source for column in users))
    table = None if config.users is None else user_columns(config.users, material.split.log, sources, user=config.user)
    return write_log_rows(
        material.split, material.catalog, path, rows, users=table, codes=material.codes, overwrite=overwrite
    )


def _field_of(column: str) -> ColumnSpec:
    return ColumnSpec(name=column, encoder=VocabularyConfig())


RECIPE = Recipe(
    verb="clicks",
    description="Encode a click log: raw files with a spec, a public data set, or rows from the workspace's own log.",
    job=ClicksJob,
    presets={
        "interactions": ClicksJob(),
        "table": ClicksJob(source=ClickTableConfig(paths=(Path("clicks.csv"),), spec_file=Path("clicks.json"))),
        "frappe": ClicksJob(name="frappe", source=FrappeConfig(path=Path("frappe"))),
        "census": ClicksJob(name="census", source=CensusConfig(path=Path("census"))),
        "criteo": ClicksJob(name="criteo", source=CriteoConfig(path=Path("criteo/train.txt"))),
        "avazu": ClicksJob(name="avazu", source=AvazuConfig(path=Path("avazu/train.gz"))),
    },
    run=run,
)
