"""The click logs that tables are made on: frappe, census-income and MovieLens in CTR form, several folders as domains,
encoded once.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, assert_never

from ctr_models.encode import MultiValueConfig, VocabularyConfig
from llm_rec.artifacts import fingerprint, read_manifest
from llm_rec.codec import Plain, to_plain
from llm_rec.ctr.log_rows import LogRowsConfig, user_columns, write_log_rows
from llm_rec.ctr.subsample import SubsampleConfig, subsample_log
from llm_rec.data.columns import KIND, ClickLog
from llm_rec.data.log_encoding import encode_log
from llm_rec.data.log_spec import ColumnSpec
from llm_rec.data.sources.census import CensusConfig, census_income
from llm_rec.data.sources.folder import FolderConfig, load_folder
from llm_rec.data.sources.frappe import FrappeConfig, frappe
from llm_rec.data.splits import leave_one_out
from llm_rec.data.subsets import keep_last
from llm_rec.errors import DataError
from llm_rec.recipes.clicks import DomainRowsConfig, write_domain_rows

Kind = Literal["frappe", "census", "interactions"]
TASKS = ("income", "never_married")  # of census-income
USERS = "users.parquet"
USER_COLUMNS = ("gender", "age", "occupation")
QUICK_ROWS = 20_000  # about so many train and evaluation rows are left by `quick`


@dataclass(frozen=True, kw_only=True, slots=True)
class InteractionRowsConfig:
    """How a folder of interactions becomes click rows: leave-one-out, the `last` events of each user, `negatives` for
    each positive, drawn from what the user never touched.

    With `histories` rows look back on all earlier events, those before the last ones too: items with their first genre,
    or the category path where there are no genres. `domain` names the column of the users whose values are domains.
    """

    last: int = 50
    negatives: int = 1
    histories: bool = False
    domain: str | None = None

    def __post_init__(self) -> None:
        if self.last < 3:
            raise ValueError(f"last must be at least 3 (train, validation, test), got {self.last}")
        if self.domain is not None and (self.histories or self.domain not in USER_COLUMNS):
            raise ValueError(f"domain must be one of {USER_COLUMNS}, in rows without histories, got {self.domain!r}")

    @property
    def plain(self) -> dict[str, Plain]:
        """What names the folder of a log: without what is newer than such folders, where it is not used."""
        plain: dict[str, Plain] = {"last": self.last, "negatives": self.negatives}
        newer: dict[str, Plain] = {"histories": self.histories or None, "domain": self.domain}
        return {**plain, **{name: value for name, value in newer.items() if value is not None}}


def click_log(data: Path, logs: Path, config: InteractionRowsConfig | None = None, *, quick: bool = False) -> Path:
    """The folder of the encoded log of `data`, below `logs`, made when it is not there yet.

    `data` holds ``ctr.parquet`` (frappe), ``train.parquet`` and ``test.parquet`` (census-income), or
    ``interactions.parquet`` with ``items.parquet`` and perhaps ``users.parquet`` (MovieLens); others are a `DataError`.
    `quick` leaves a share of the rows of every part. Other data or settings get another folder.
    """
    config = config or InteractionRowsConfig()
    path = logs / f"{data.name}-{fingerprint(*_contents(data), {'rows': config.plain})}"
    if not path.exists():
        encode_folder(data, path, config)
    return quick_log(path, logs) if quick else path


def task_log(data: Path, logs: Path, tasks: Sequence[str] = TASKS, *, quick: bool = False) -> Path:
    """Like `click_log`, of census-income with the labels `tasks`; what makes a label is a field in none of them."""
    path = logs / f"{data.name}-tasks-{fingerprint(*_contents(data), {'tasks': list(tasks)})}"
    if not path.exists():
        source = census_income(CensusConfig(path=data, marital_task=True))
        labels = tuple(label for label in source.spec.labels if label.name in tasks)
        encode_log(source.files, replace(source.spec, labels=labels), path)
    return quick_log(path, logs) if quick else path


def folders_log(
    folders: Sequence[Path], logs: Path, pieces: Sequence[str] = (), *, last: int = 50, quick: bool = False
) -> Path:
    """Like `click_log`, of several folders, each a domain; `pieces` are list columns of the items of all of them."""
    contents = [digest for folder in folders for digest in (folder.name, *_contents(folder))]
    name = "-".join(folder.name for folder in folders)
    path = logs / f"{name}-{fingerprint(*contents, {'rows': [last, *pieces]})}"
    if not path.exists():
        rows = LogRowsConfig(last_train=last - 2)
        write_domain_rows(path, DomainRowsConfig(paths=tuple(folders), rows=rows, first_pieces=tuple(pieces)))
    return quick_log(path, logs) if quick else path


def _contents(data: Path) -> list[str]:
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(data.glob("*.parquet"))]


def quick_log(path: Path, logs: Path) -> Path:
    """The folder of the log at `path` with about `QUICK_ROWS` rows, a share of every part."""
    log = ClickLog.load(path)
    share = min(1.0, QUICK_ROWS / sum(log.rows.values()))
    return subsampled(
        path, logs, SubsampleConfig(positives=share, negatives=share, parts=("train", "validation", "test"))
    )


def encode_folder(data: Path, path: Path, config: InteractionRowsConfig) -> ClickLog:
    """Encode `data`, whatever of the three it is, as the click log `path`."""
    kind = kind_of(data)
    match kind:
        case "frappe":
            source = frappe(FrappeConfig(path=data))
            return encode_log(source.files, source.spec, path)
        case "census":
            source = census_income(CensusConfig(path=data))
            return encode_log(source.files, source.spec, path)
        case "interactions":
            return _interaction_rows(data, path, config)
        case _:
            assert_never(kind)


def kind_of(data: Path) -> Kind:
    """What a folder of data holds, by its files."""
    files: dict[Kind, str] = {
        "frappe": "ctr.parquet",
        "census": "train.parquet",
        "interactions": "interactions.parquet",
    }
    for kind, file in files.items():
        if (data / file).is_file():
            return kind
    raise DataError(f"{data}: none of {', '.join(files.values())} is here; give the folder of a click data set")


def subsampled(log: Path, logs: Path, config: SubsampleConfig) -> Path:
    """The folder of `log` with the rows that `config` keeps, made when it is not there yet."""
    mark = fingerprint(read_manifest(log, KIND).fingerprint, {"subsample": to_plain(config)})
    path = logs / f"{log.name}-{mark}"
    if not path.exists():
        subsample_log(ClickLog.load(log), path, config)
    return path


def _interaction_rows(data: Path, path: Path, config: InteractionRowsConfig) -> ClickLog:
    """User, item and what is known of them; validation and test are the last two events of every user."""
    if config.histories:
        return _history_rows(data, path, config)
    catalog, log = load_folder(FolderConfig(path=data, keep=("genres",)))
    split = leave_one_out(keep_last(log, config.last))
    known = (data / USERS).is_file()
    users = user_columns(data / USERS, split.log, USER_COLUMNS) if known else {}
    rows = LogRowsConfig(
        negatives=config.negatives,
        user_columns=tuple(ColumnSpec(name=name, encoder=VocabularyConfig()) for name in users),
        item_columns=(ColumnSpec(name="genres", encoder=MultiValueConfig(length=6, separator="|")),),
        domain=config.domain,
    )
    return write_log_rows(split, catalog, path, rows, users=users)


def _history_rows(data: Path, path: Path, config: InteractionRowsConfig) -> ClickLog:
    """User, item and its category, whose past events are items with their categories."""
    import pyarrow.parquet as pq

    there = pq.read_schema(data / "items.parquet").names
    first = MultiValueConfig(length=1, separator="|")
    columns = {
        "genres": ColumnSpec(name="category", column="genres", encoder=first),
        "category_path": ColumnSpec(name="category", column="category_path", encoder=VocabularyConfig()),
    }
    column = next((found for name, found in columns.items() if name in there), None)
    if column is None:
        raise DataError(
            f"{data / 'items.parquet'}: no column {' or '.join(columns)}; histories need a category of items"
        )
    catalog, log = load_folder(FolderConfig(path=data, keep=(column.source,)))
    rows = LogRowsConfig(
        negatives=config.negatives,
        item_columns=(column,),
        history_fields=("item", "category"),
        last_train=config.last - 2,
    )
    return write_log_rows(leave_one_out(log), catalog, path, rows)
