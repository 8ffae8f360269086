"""Avazu mobile advertising (Kaggle 2014): 22 categorical columns, a click or none.

| variant | files |
|---|---|
| kaggle | ``train.csv`` or ``train.gz`` (id, click, hour, C1, banner_pos, ...); parted here at random |
| x4 | ``train.csv``, ``valid.csv``, ``test.csv`` (BARS) with the Kaggle columns |
| x1 | the same three files (BARS) with the columns label, feat_1 .. feat_22 |

`id` names the row and is left out; `hour` (YYMMDDHH) stays a category as it is, as in arXiv 2310.04400. On x1 the share
of clicks falls from train to test (17.5, 16.8, 15.3 %): its parts are not alike.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ctr_models.encode import VocabularyConfig
from llm_rec.data.log_spec import (
    ByFilesConfig,
    ByFractionsConfig,
    ClickSource,
    ColumnSpec,
    LabelSpec,
    LogSpec,
    TableFile,
)
from llm_rec.data.sources.criteo import bars_files

FIELDS = (
    *("hour", "C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category"),
    *("device_id", "device_ip", "device_model", "device_type", "device_conn_type"),
    *(f"C{i}" for i in range(14, 22)),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class AvazuConfig:
    """`path` is the Kaggle file or the folder of the three csv files.

    `min_count` None is the published threshold of 4 (arXiv 2310.04400), counted on the train rows alone; on x1, whose
    rare values were merged before it was parted, it is 1.
    """

    path: Path
    variant: Literal["kaggle", "x1", "x4"] = "kaggle"
    min_count: int | None = None
    parts: ByFractionsConfig = field(default_factory=ByFractionsConfig)


def avazu(config: AvazuConfig) -> ClickSource:
    """Files and fields of a copy of Avazu."""
    names = tuple(f"feat_{i}" for i in range(1, 23)) if config.variant == "x1" else FIELDS
    encoder = VocabularyConfig(min_count=config.min_count or (1 if config.variant == "x1" else 4))
    columns = tuple(ColumnSpec(name=name, encoder=encoder) for name in names)
    labels = (LabelSpec(column="label" if config.variant == "x1" else "click"),)
    if config.variant == "kaggle":
        file = TableFile(path=config.path, form="csv")
        return ClickSource((file,), LogSpec(columns=columns, labels=labels, parts=config.parts))
    return ClickSource(bars_files(config.path), LogSpec(columns=columns, labels=labels, parts=ByFilesConfig()))
