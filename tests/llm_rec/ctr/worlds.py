"""Small click logs whose truth is known."""

from pathlib import Path

import pandas as pd

from ctr_models.encode import VocabularyConfig
from llm_rec.ctr.planted import PlantedClicks, planted_clicks
from llm_rec.data.columns import ClickLog
from llm_rec.data.log_encoding import encode_log
from llm_rec.data.log_spec import ByFractionsConfig, ColumnSpec, LogSpec, TableFile
from llm_rec.training.trainer import TrainerConfig

TRAINER = TrainerConfig(epochs=3, learning_rate=0.05, optimizer="adam", monitor="auc", device="cpu")


def write_log(world: PlantedClicks, folder: Path, *, min_count: int = 1, group: str | None = "user") -> ClickLog:
    """The world's rows as an encoded log with all three parts."""
    frame = pd.DataFrame({**world.columns, "label": world.labels})
    frame.to_parquet(folder / "rows.parquet")
    encoder = VocabularyConfig(min_count=min_count)
    columns = tuple(ColumnSpec(name=name, encoder=encoder) for name in world.columns)
    spec = LogSpec(columns=columns, parts=ByFractionsConfig(validation=0.2, test=0.3), group=group)
    return encode_log((TableFile(path=folder / "rows.parquet"),), spec, folder / "log")


def small_log(folder: Path, rows: int = 400, **settings: int) -> ClickLog:
    """A log to look at, too small to learn from."""
    return write_log(planted_clicks(rows, num_users=30, **settings), folder)
