"""Catalogs, logs, splits and item frequencies."""

from llm_rec.data.catalog import Catalog
from llm_rec.data.frequency import FrequencyBuckets
from llm_rec.data.interactions import Interactions
from llm_rec.data.splits import Split, leave_one_out
from llm_rec.data.synthetic import PlantedWorld, planted_world

__all__ = ["Catalog", "FrequencyBuckets", "Interactions", "PlantedWorld", "Split", "leave_one_out", "planted_world"]
