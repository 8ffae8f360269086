"""A planted log in time order whose best ads change, and whose ads wear out: for one-pass training.

    P(click) = wear^(n - 1) * sigmoid(bias + strength * s(user) * s_t(ad)),    n: exposure of the user to the ad

Hidden signs s make the pair of user and ad decide, as in `llm_rec.ctr.planted`. At every turn a part of the ads, drawn
anew, changes its sign: what was learned of them is then wrong, and only fresh rows say so.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, Int64

from ctr_models.encode import VocabularyConfig
from llm_rec.ctr.repeated_exposure import ExposureCounter
from llm_rec.data.columns import ClickLog
from llm_rec.data.log_encoding import encode_log
from llm_rec.data.log_spec import ByColumnConfig, ColumnSpec, LogSpec, TableFile
from llm_rec.metrics.calibration import sigmoid


@dataclass(frozen=True, eq=False)
class PlantedDrift:
    """Rows, oldest first: who saw what, which exposure that was (from 1), whether it was clicked, and the truth."""

    users: Int64[np.ndarray, "rows"]
    ads: Int64[np.ndarray, "rows"]
    exposures: Int64[np.ndarray, "rows"]
    labels: Float32[np.ndarray, "rows"]
    probabilities: Float64[np.ndarray, "rows"]

    def __len__(self) -> int:
        return len(self.labels)


def planted_drift(
    rows: int = 60_000,
    *,
    num_users: int = 100,
    num_ads: int = 40,
    turns: int = 3,
    turning: float = 0.5,
    strength: float = 1.5,
    bias: float = -1.0,
    wear: float = 1.0,
    seed: int = 0,
) -> PlantedDrift:
    """Draw a world with `turns` turns at equal distances, at each of which the part `turning` of the ads changes.

    >>> world = planted_drift(1000, wear=0.5)
    >>> bool(world.exposures.min() == 1 and world.probabilities[world.exposures == 2].max() < 0.5)
    True
    """
    if turns < 0 or not 0 <= turning <= 1 or not 0 < wear <= 1 or min(rows, num_users, num_ads) < 1:
        raise ValueError(
            "turns must not be negative, turning lie in 0..1, wear in (0, 1], and rows, num_users and num_ads be at "
            f"least 1; got {turns}, {turning}, {wear}, {rows}, {num_users} and {num_ads}"
        )
    rng = np.random.default_rng(seed)
    users, ads = rng.integers(num_users, size=rows), rng.integers(num_ads, size=rows)
    user_signs, start = (rng.choice([-1.0, 1.0], size=number) for number in (num_users, num_ads))
    changed = np.where(rng.random((turns, num_ads)) < turning, -1.0, 1.0)
    ad_signs = start * np.concatenate([np.ones((1, num_ads)), np.cumprod(changed, axis=0)])
    epoch = np.arange(rows) * (turns + 1) // rows
    exposures = ExposureCounter().update(users, ads)
    rates = sigmoid(bias + strength * user_signs[users] * ad_signs[epoch, ads])
    probabilities = wear ** (exposures - 1) * rates
    labels = (rng.random(rows) < probabilities).astype(np.float32)
    return PlantedDrift(users, ads, exposures, labels, probabilities)


def write_drift(world: PlantedDrift, folder: Path) -> ClickLog:
    """The rows as a click log in `folder`, all of them train rows in their order: fields ``user`` and ``ad``.

    Vocabularies are fitted on the whole log: which ids there are is known beforehand, what they do is not.
    """
    import pandas as pd

    folder.mkdir(parents=True, exist_ok=True)
    columns = {"user": world.users, "ad": world.ads, "label": world.labels, "split": "train"}
    pd.DataFrame(columns).to_parquet(folder / "rows.parquet")
    fields = tuple(ColumnSpec(name=name, encoder=VocabularyConfig()) for name in ("user", "ad"))
    spec = LogSpec(columns=fields, parts=ByColumnConfig(validation=(), test=()))
    return encode_log((TableFile(path=folder / "rows.parquet"),), spec, folder / "log", overwrite=True)
