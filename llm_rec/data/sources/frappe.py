"""Frappe (Baltrunas et al., arXiv 1505.03014): which app was used in which context; 10 categorical fields.

The usual CTR form: each log is a positive row with two sampled negatives, parted 70/20/10 at random. ``ctr.parquet``
carries user, item, eight context fields, `label`, and `split` (train, validation, test). It may not be redistributed.
"""

from dataclasses import dataclass
from pathlib import Path

from ctr_models.encode import VocabularyConfig
from llm_rec.data.log_spec import ByColumnConfig, ClickSource, ColumnSpec, LogSpec, TableFile

FIELDS = ("user", "item", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city")


@dataclass(frozen=True, kw_only=True, slots=True)
class FrappeConfig:
    """`path` is the folder with ``ctr.parquet``. Rows of a user are a group."""

    path: Path
    min_count: int = 1


def frappe(config: FrappeConfig) -> ClickSource:
    """The file and its fields."""
    columns = tuple(ColumnSpec(name=name, encoder=VocabularyConfig(min_count=config.min_count)) for name in FIELDS)
    parts = ByColumnConfig(column="split", validation=("validation", "valid", "val"))
    return ClickSource(
        (TableFile(path=config.path / "ctr.parquet"),), LogSpec(columns=columns, parts=parts, group="user")
    )
