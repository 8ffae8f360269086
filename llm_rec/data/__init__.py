"""Catalogs, logs, splits and item frequencies."""

from llm_rec.data.catalog import Catalog
from llm_rec.data.interactions import Interactions
from llm_rec.data.splits import Split, leave_one_out

__all__ = ["Catalog", "Interactions", "Split", "leave_one_out"]
