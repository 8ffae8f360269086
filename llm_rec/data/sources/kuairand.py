"""KuaiRand (Gao et al., arXiv 2208.08696): videos that were shown, and which of them were clicked.

Its logs hold impressions with labels, so rows are real: what was shown is a row, what was clicked before is its
history. A folder has ``log_standard_4_08_to_4_21_<variant>.csv``, ``log_standard_4_22_to_5_08_<variant>.csv``,
``log_random_4_22_to_5_08_<variant>.csv`` and ``video_features_basic_<variant>.csv``; the largest variant cuts its logs
into pieces (``.._part1.csv``). The random log shows videos that were drawn uniformly: test on it for what no policy
chose. Times are milliseconds.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ctr_models.encode import MultiValueConfig, VocabularyConfig
from llm_rec.data.behaviours import BehaviourSource, BehaviourSpec, ItemTableSpec
from llm_rec.data.log_spec import ColumnSpec, TableFile
from llm_rec.errors import DataError

Label = Literal["is_click", "long_view", "is_like"]


@dataclass(frozen=True, kw_only=True, slots=True)
class KuairandConfig:
    """`path` is the folder of the csv files, `label` the response that rows have and histories are made of.

    `category` is the first tag of the video. `random` adds the rows of the random log to those of the standard one.
    """

    path: Path
    label: Label = "is_click"
    category: bool = True
    author: bool = False
    random: bool = False


def kuairand(config: KuairandConfig, min_events: int = 1) -> BehaviourSource:
    """The files and what they mean; `DataError` when there is no log in the folder."""
    patterns = ("log_standard_*.csv", *(("log_random_*.csv",) if config.random else ()))
    logs = [path for pattern in patterns for path in sorted(config.path.glob(pattern))]
    if not logs:
        raise DataError(f"{config.path}: no log_standard_*.csv here; give the folder with KuaiRand's csv files")
    columns = []
    if config.category:
        first = MultiValueConfig(length=1, separator=",")
        columns.append(ColumnSpec(name="category", column="tag", encoder=first))
    if config.author:
        columns.append(ColumnSpec(name="author", column="author_id", encoder=VocabularyConfig()))
    table = None
    if columns:
        found = sorted(config.path.glob("video_features_basic_*.csv"))
        if len(found) != 1:
            raise DataError(
                f"{config.path}: {len(found)} files video_features_basic_*.csv, category and author need exactly one"
            )
        file = TableFile(path=found[0], form="csv")
        table = ItemTableSpec(file=file, item="video_id", columns=tuple(columns))
    spec = BehaviourSpec(
        user="user_id",
        item="video_id",
        time="time_ms",
        order="sort",
        min_events=min_events,
        label=config.label,
        items=table,
    )
    return BehaviourSource(tuple(TableFile(path=path, form="csv") for path in logs), spec)
