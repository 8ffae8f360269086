"""Catalogs, logs, splits and item frequencies. Sources of public data are in `llm_rec.data.sources`."""

from llm_rec.data.catalog import Catalog
from llm_rec.data.frequency import BucketMode, FrequencyBuckets
from llm_rec.data.interactions import Dropped, Interactions, LogOptions
from llm_rec.data.splits import (
    GlobalTimeConfig,
    LeaveOneOutConfig,
    Split,
    SplitConfig,
    SplitSummary,
    global_time,
    leave_one_out,
    make_split,
)
from llm_rec.data.subsets import KCore, drop_unused_items, k_core, keep_last
from llm_rec.data.synthetic import PlantedWorld, planted_world

__all__ = [
    "BucketMode",
    "Catalog",
    "Dropped",
    "FrequencyBuckets",
    "GlobalTimeConfig",
    "Interactions",
    "KCore",
    "LeaveOneOutConfig",
    "LogOptions",
    "PlantedWorld",
    "Split",
    "SplitConfig",
    "SplitSummary",
    "drop_unused_items",
    "global_time",
    "k_core",
    "keep_last",
    "leave_one_out",
    "make_split",
    "planted_world",
]
