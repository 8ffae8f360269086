"""KuaiRand as a click log of several domains and tasks: a row is a video shown in a tab, a label what the user did.

The domain is the tab in which a video was shown; the usual benchmark keeps tabs 0, 1, 2, 4 and 6 of the standard log
from 22 April on (11,648,743 rows of the 1k variant). Other responses are labels too, and so further tasks. Rows look
back on nothing; for histories see `llm_rec.data.sources.kuairand`, which reads the same files.

``log_standard_4_22_to_5_08_<variant>.csv`` (the early log is ``log_standard_4_08_to_4_21_<variant>.csv``),
``user_features_<variant>.csv``, ``video_features_basic_<variant>.csv``.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ctr_models.encode import MultiValueConfig, VocabularyConfig
from llm_rec.data.log_spec import (
    ByFractionsConfig,
    ClickSource,
    ColumnSpec,
    JoinedTable,
    KeepRows,
    LabelSpec,
    LogSpec,
    TableFile,
)
from llm_rec.errors import DataError

USER, VIDEO, TAB = "user_id", "video_id", "tab"
USER_FIELDS = (
    *("user_active_degree", "follow_user_num_range", "fans_user_num_range", "friend_user_num_range"),
    "register_days_range",
)
VIDEO_FIELDS = ("author_id", "video_type", "upload_type", "music_type")
Response = Literal["is_click", "long_view", "is_like", "is_follow", "is_comment", "is_forward", "is_hate"]


@dataclass(frozen=True, kw_only=True, slots=True)
class KuairandDomainsConfig:
    """`path` is the folder of the csv files. `labels`: one is the usual benchmark, several are tasks.

    `tabs` are the domains; rows of other tabs are left out. `early` adds the first two weeks. Rows are parted at random
    as in the benchmark. Values of users, videos and authors with fewer than `min_count` train rows are unknown.
    """

    path: Path
    labels: tuple[Response, ...] = ("is_click",)
    tabs: tuple[str, ...] = ("0", "1", "2", "4", "6")
    early: bool = False
    features: bool = True
    min_count: int = 1
    parts: ByFractionsConfig = field(default_factory=ByFractionsConfig)


def kuairand_domains(config: KuairandDomainsConfig) -> ClickSource:
    """The files and their fields; `DataError` for a file that is missing."""
    patterns = (*(("log_standard_4_08_to_4_21_*.csv",) if config.early else ()), "log_standard_4_22_to_5_08_*.csv")
    logs = [path for pattern in patterns for path in sorted(config.path.glob(pattern))]
    if not logs:
        raise DataError(f"{config.path}: no {patterns[-1]} here; give the folder with KuaiRand's csv files")
    ids = VocabularyConfig(min_count=config.min_count)
    columns = [ColumnSpec(name=USER, encoder=ids), ColumnSpec(name=VIDEO, encoder=ids)]
    columns.append(ColumnSpec(name=TAB, encoder=VocabularyConfig()))
    joins: tuple[JoinedTable, ...] = ()
    if config.features:
        columns += [ColumnSpec(name=name, encoder=VocabularyConfig()) for name in USER_FIELDS]
        columns += [ColumnSpec(name=name, encoder=ids) for name in VIDEO_FIELDS]
        columns.append(ColumnSpec(name="tag", encoder=MultiValueConfig(length=3, separator=",")))
        joins = (
            JoinedTable(file=_one(config.path, "user_features_*.csv"), key=USER, columns=USER_FIELDS),
            JoinedTable(
                file=_one(config.path, "video_features_basic_*.csv"), key=VIDEO, columns=(*VIDEO_FIELDS, "tag")
            ),
        )
    spec = LogSpec(
        columns=tuple(columns),
        labels=tuple(LabelSpec(name=name) for name in config.labels),
        parts=config.parts,
        group=USER,
        domain=TAB,
        keep=(KeepRows(column=TAB, values=config.tabs),),
        joins=joins,
    )
    return ClickSource(tuple(TableFile(path=path, form="csv") for path in logs), spec)


def _one(folder: Path, pattern: str) -> TableFile:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise DataError(f"{folder}: {len(found)} files {pattern}, one is needed; or switch features off")
    return TableFile(path=found[0], form="csv")
