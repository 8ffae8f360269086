"""``llm-rec clicks``: a click log, read from files or made of the workspace's interactions, encoded as an artefact."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

from rich.table import Table

from ctr_models.encode import MultiValueConfig, VocabularyConfig
from ctr_models.schema import Categorical, Dense, Field, MultiValue, Numerals, Numeric
from llm_rec.artifacts import read_manifest
from llm_rec.ctr.behaviour_rows import (
    BehaviourRowsConfig,
    ImpressionRowsConfig,
    OffsetRowsConfig,
    behaviour_rows_fingerprint,
    write_behaviour_rows,
)
from llm_rec.ctr.log_rows import USER, LogRowsConfig, user_columns, write_log_rows
from llm_rec.ctr.similarity import SimilarityConfig
from llm_rec.data import LeaveOneOutConfig, SplitConfig, leave_one_out
from llm_rec.data.behaviour_files import behaviours_fingerprint, read_behaviours
from llm_rec.data.behaviours import behaviours_of
from llm_rec.data.columns import KIND, ClickLog, holds
from llm_rec.data.log_encoding import encode_log, log_fingerprint
from llm_rec.data.log_spec import ColumnSpec
from llm_rec.data.sources.ali_ccp import AliCCPConfig
from llm_rec.data.sources.avazu import AvazuConfig
from llm_rec.data.sources.behaviour_log import BehaviourLogConfig, behaviour_source, published_counts
from llm_rec.data.sources.census import CensusConfig
from llm_rec.data.sources.click_table import ClickSourceConfig, ClickTableConfig, click_source
from llm_rec.data.sources.criteo import CriteoConfig
from llm_rec.data.sources.domain_folders import DOMAIN, DomainFoldersConfig, load_domain_folders
from llm_rec.data.sources.frappe import FrappeConfig
from llm_rec.data.sources.kuairand import KuairandConfig
from llm_rec.data.sources.kuairand_domains import KuairandDomainsConfig
from llm_rec.data.sources.taobao import TaobaoConfig
from llm_rec.data.sources.tmall import TmallConfig
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
    in a file. `codes` names semantic codes of the workspace; each book becomes a field. `first_pieces` are columns of
    the catalog that hold lists as texts, cut at `separator`: the first piece (a genre, a category) becomes a field.
    `embeddings` names text embeddings of the workspace; how near a row's item is to what its user did before becomes a
    field, which `rows.similarity` describes.

    `rows.history_fields` gives every row its user's past: `item`, and fields with one id an item. `rule` makes the rows
    by places from the end of each user's events instead of by `split` and `rows`: the sample rule of DARE. Its fields
    are the item, `item_columns` and `first_pieces`, in the past too.
    """

    split: SplitConfig = field(default_factory=LeaveOneOutConfig)
    rows: LogRowsConfig = field(default_factory=LogRowsConfig)
    item_columns: tuple[str, ...] = ()
    users: Path | None = None
    user: str = "user_id"
    user_columns: tuple[str, ...] = ()
    codes: str | None = None
    embeddings: str | None = None
    first_pieces: tuple[str, ...] = ()
    separator: str = "|"
    rule: OffsetRowsConfig | None = None

    def __post_init__(self) -> None:
        extras = (self.users, self.codes, self.embeddings)
        if self.rule is not None and any(extra is not None for extra in extras):
            raise ConfigError(
                "rule makes rows of items and their columns; leave out users, codes and embeddings, or the rule"
            )
        if self.rows.similarity is not None and self.embeddings is None:
            raise ConfigError("rows.similarity compares text embeddings; set embeddings to their name")
        if (self.user_columns or self.rows.user_columns) and self.users is None:
            raise ConfigError("user_columns are read from a table of users; set users to its file")


@dataclass(frozen=True, kw_only=True, slots=True)
class BehavioursConfig:
    """Rows with histories from a log of behaviours: Taobao and Tmall by the rule of offsets, KuaiRand's impressions as
    they were. About 50 bytes an event lie beside the log while it is made.
    """

    log: BehaviourLogConfig
    rule: BehaviourRowsConfig

    def __post_init__(self) -> None:
        if isinstance(self.log, KuairandConfig) != isinstance(self.rule, ImpressionRowsConfig):
            raise ConfigError(
                "KuaiRand has impressions and takes the rule for them (--source.rule.kind impression_rows); Taobao and "
                "Tmall have clicks alone and take the rule of offsets (offset_rows)"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainRowsConfig:
    """Rows from several folders of items and interactions, each a domain (`llm_rec.data.sources.domain_folders`).

    The last event of a user in a folder is for test, the one before for validation; negatives are of the folder of
    their positive. Users who occur in several folders are one value of the field `user`. `item_columns` are columns of
    the items of all folders; `first_pieces` those that hold lists as texts, cut at `separator`.
    """

    paths: tuple[Path, ...]
    rows: LogRowsConfig = field(default_factory=LogRowsConfig)
    item_columns: tuple[str, ...] = ()
    first_pieces: tuple[str, ...] = ()
    separator: str = "|"


SourceConfig: TypeAlias = (
    InteractionsConfig
    | ClickTableConfig
    | FrappeConfig
    | CensusConfig
    | CriteoConfig
    | AvazuConfig
    | BehavioursConfig
    | DomainRowsConfig
    | KuairandDomainsConfig
    | AliCCPConfig
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
    match job.source:
        case InteractionsConfig():
            log = _from_interactions(place, path, job.source, overwrite=job.overwrite)
        case DomainRowsConfig():
            log = write_domain_rows(path, job.source, overwrite=job.overwrite)
        case BehavioursConfig():
            log = _from_behaviours(path, job.source, overwrite=job.overwrite)
            say(counts_table(log, job.source))
        case _:
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


def counts_table(log: ClickLog, config: BehavioursConfig) -> Table:
    """What reading saw, beside what the literature counts: copies of public logs are often cut or made up."""
    published, found = published_counts(config.log), read_manifest(log.path, KIND).details.get("read")
    table = Table(title="read", title_justify="left")
    for head in ("count", "here", "published"):
        table.add_column(head, justify="left" if head == "count" else "right")
    for name, value in (found if isinstance(found, dict) else {}).items():
        known = published.get(name)
        table.add_row(name.replace("_", " "), f"{value:,}", "-" if known is None else f"{known:,}")
    return table


def fields_table(log: ClickLog) -> Table:
    """Every field with its raw column and its size, and whether past events have it, where rows have a past."""
    history = log.schema.history
    table = Table(title=f"{len(log.schema.fields)} fields", title_justify="left")
    for head in ("field", "column", "kind", "values", *(("in the past",) if history else ())):
        table.add_column(head, justify="right" if head == "values" else "left")
    for found, column in zip(log.schema.fields, log.columns, strict=True):
        past = ("yes" if found.name in history else "-",) if history else ()
        table.add_row(found.name, column.spec.source, *_described(found), *past)
    return table


def _described(found: Field) -> tuple[str, str]:
    match found:
        case Categorical():
            return "one id", f"{found.size - 2:,}"
        case MultiValue():
            return f"up to {found.length} ids", f"{found.size - 2:,}"
        case Numerals():
            return f"digits in bases {', '.join(map(str, found.bases))}", f"{found.size - 2:,}"
        case Numeric():
            soft = f", {found.meta_embeddings} meta-embeddings" if found.meta_embeddings else ""
            return f"number{soft}", "-"
        case Dense():
            return f"vector of {found.width}", "-"


def _from_files(path: Path, config: ClickSourceConfig, *, overwrite: bool) -> ClickLog:
    files, spec = click_source(config)
    if not overwrite and holds(path, log_fingerprint(files, spec)):
        return ClickLog.load(path)
    return encode_log(files, spec, path, overwrite=overwrite)


def _from_interactions(place: Workspace, path: Path, config: InteractionsConfig, *, overwrite: bool) -> ClickLog:
    first = MultiValueConfig(length=1, separator=config.separator)
    pieces = [ColumnSpec(name=column, encoder=first) for column in config.first_pieces]
    if config.rule is not None:
        catalog = place.load_catalog()
        log = behaviours_of(place.load_interactions(catalog), catalog, [*map(_field_of, config.item_columns), *pieces])
        return write_behaviour_rows(log, path, config.rule, overwrite=overwrite)
    material = open_material(
        place, MaterialConfig(split=config.split, embeddings=config.embeddings, codes=config.codes)
    )
    rows = config.rows
    items = (*rows.item_columns, *map(_field_of, config.item_columns), *pieces)
    users = (*rows.user_columns, *map(_field_of, config.user_columns))
    similarity = rows.similarity or (None if config.embeddings is None else SimilarityConfig())
    rows = replace(rows, item_columns=items, user_columns=users, similarity=similarity)
    sources = list(dict.fromkeys(column.source for column in users))
    table = None if config.users is None else user_columns(config.users, material.split.log, sources, user=config.user)
    return write_log_rows(
        material.split,
        material.catalog,
        path,
        rows,
        users=table,
        codes=material.codes,
        embeddings=material.embeddings,
        overwrite=overwrite,
    )


def write_domain_rows(path: Path, config: DomainRowsConfig, *, overwrite: bool = False) -> ClickLog:
    """The click log `path` of several folders."""
    keep = (*config.item_columns, *config.first_pieces)
    found = load_domain_folders(DomainFoldersConfig(paths=config.paths, keep=keep))
    first = MultiValueConfig(length=1, separator=config.separator)
    pieces = (ColumnSpec(name=column, encoder=first) for column in config.first_pieces)
    items = (*config.rows.item_columns, *map(_field_of, (DOMAIN, *config.item_columns)), *pieces)
    rows = replace(config.rows, item_columns=items, domain=DOMAIN)
    split = leave_one_out(found.log)
    return write_log_rows(split, found.catalog, path, rows, users={USER: found.people}, overwrite=overwrite)


def _from_behaviours(path: Path, config: BehavioursConfig, *, overwrite: bool) -> ClickLog:
    least = config.rule.min_events if isinstance(config.rule, OffsetRowsConfig) else 1
    source = behaviour_source(config.log, least)
    if not overwrite and holds(path, behaviour_rows_fingerprint(behaviours_fingerprint(source), config.rule)):
        return ClickLog.load(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{path.name}.scratch-", dir=path.parent) as scratch:
        return write_behaviour_rows(read_behaviours(source, Path(scratch)), path, config.rule, overwrite=overwrite)


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
        "taobao": ClicksJob(
            name="taobao",
            source=BehavioursConfig(log=TaobaoConfig(path=Path("taobao/UserBehavior.csv")), rule=OffsetRowsConfig()),
        ),
        "tmall": ClicksJob(
            name="tmall",
            source=BehavioursConfig(log=TmallConfig(path=Path("tmall/user_log_format1.csv")), rule=OffsetRowsConfig()),
        ),
        "kuairand": ClicksJob(
            name="kuairand",
            source=BehavioursConfig(log=KuairandConfig(path=Path("kuairand")), rule=ImpressionRowsConfig()),
        ),
        "kuairand-domains": ClicksJob(name="kuairand-domains", source=KuairandDomainsConfig(path=Path("kuairand"))),
        "ali-ccp": ClicksJob(name="ali-ccp", source=AliCCPConfig(path=Path("ali-ccp"))),
        "census-tasks": ClicksJob(name="census-tasks", source=CensusConfig(path=Path("census"), marital_task=True)),
        "domains": ClicksJob(name="domains", source=DomainRowsConfig(paths=(Path("beauty"), Path("sports")))),
    },
    run=run,
)
