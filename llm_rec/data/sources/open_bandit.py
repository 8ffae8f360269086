"""Open Bandit (Saito et al., arXiv 2008.07146, CC BY 4.0): recommendations of a shop with clicks and propensities.

Each row is an item shown at one of three positions, the chance that its policy showed it there, and whether it was
clicked. `random` shows items uniformly, `bts` by Bernoulli Thompson sampling, whose propensities move over time. Rows
come in time order; the three items of one visit are rows of their own, and which rows belong together is not said.

Two layouts are read: ``<campaign>_<policy>.parquet`` with ``<campaign>_items.parquet`` in one folder, and that of the
public release, ``<policy>/<campaign>/<campaign>.csv`` with ``item_context.csv`` beside it. Affinities of the release
(``user-item_affinity_*``) are not read.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float64, Int64

from llm_rec.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

Campaign = Literal["all", "men", "women"]
BanditPolicy = Literal["random", "bts"]
USER_FEATURES = tuple(f"user_feature_{i}" for i in range(4))
ITEM_NUMBER, ITEM_FEATURES = "item_feature_0", tuple(f"item_feature_{i}" for i in range(1, 4))
ROUND_COLUMNS = ("timestamp", "item_id", "position", "click", "propensity_score", *USER_FEATURES)
ITEM_COLUMNS = ("item_id", ITEM_NUMBER, *ITEM_FEATURES)
POSITIONS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenBanditConfig:
    """`path` is the folder of either layout, `campaign` and `policy` say which log of it."""

    path: Path
    campaign: Campaign = "men"
    policy: BanditPolicy = "random"


@dataclass(frozen=True, kw_only=True, eq=False)
class BanditItems:
    """The items of a campaign, which are its actions: row a is action a. `features` are numbered values by column."""

    numbers: Float64[np.ndarray, "actions"]
    features: Int64[np.ndarray, "actions columns"]
    values: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True, kw_only=True, eq=False)
class BanditLog:
    """What was shown, in time order. Positions count from 0; user features are numbered values by column, and
    `user_values` says which; times are nanoseconds.
    """

    times: Int64[np.ndarray, "rounds"]
    actions: Int64[np.ndarray, "rounds"]
    positions: Int64[np.ndarray, "rounds"]
    clicks: Float64[np.ndarray, "rounds"]
    propensities: Float64[np.ndarray, "rounds"]
    users: Int64[np.ndarray, "rounds columns"]
    user_values: tuple[tuple[str, ...], ...]
    items: BanditItems

    def __len__(self) -> int:
        return len(self.actions)

    def select(self, rows: slice | np.ndarray) -> "BanditLog":
        """Some of the rounds."""
        return BanditLog(
            times=self.times[rows],
            actions=self.actions[rows],
            positions=self.positions[rows],
            clicks=self.clicks[rows],
            propensities=self.propensities[rows],
            users=self.users[rows],
            user_values=self.user_values,
            items=self.items,
        )


def open_bandit(config: OpenBanditConfig) -> BanditLog:
    """Read and check one log. `DataError` names file, column and rows: missing files or columns, items that are not
    numbered from 0 on, actions that are no items, positions other than 1..3, clicks other than 0 and 1, propensities
    outside (0, 1], nulls, and rows out of time order.
    """
    from llm_rec.data import tables

    rounds_path, items_path = _paths(config)
    frame = tables.read_table(rounds_path, tables.file_format(rounds_path), ROUND_COLUMNS, ids=USER_FEATURES)
    items = _items(items_path)
    if not len(frame):
        raise DataError(f"{rounds_path}: no rows")
    actions = _whole_numbers(frame, "item_id", rounds_path, 0, len(items) - 1, f"an item of {items_path}")
    users, user_values = _coded(frame, USER_FEATURES, rounds_path)
    return BanditLog(
        times=_times(frame, rounds_path),
        actions=actions,
        positions=_whole_numbers(frame, "position", rounds_path, 1, POSITIONS, f"a position 1..{POSITIONS}") - 1,
        clicks=_whole_numbers(frame, "click", rounds_path, 0, 1, "0 or 1").astype(np.float64),
        propensities=_propensities(frame, rounds_path),
        users=users,
        user_values=user_values,
        items=items,
    )


def _paths(config: OpenBanditConfig) -> tuple[Path, Path]:
    campaign, policy = config.campaign, config.policy
    flat = config.path / f"{campaign}_{policy}.parquet", config.path / f"{campaign}_items.parquet"
    folder = config.path / policy / campaign
    released = folder / f"{campaign}.csv", folder / "item_context.csv"
    for rounds, items in (flat, released):
        if rounds.is_file():
            return rounds, items
    raise DataError(f"{config.path}: neither {flat[0].name} nor {policy}/{campaign}/{campaign}.csv is here")


def _items(path: Path) -> BanditItems:
    from llm_rec.data import tables

    frame = tables.read_table(path, tables.file_format(path), ITEM_COLUMNS, ids=ITEM_FEATURES)
    frame = frame.sort_values("item_id", kind="stable", ignore_index=True)
    numbers = tables.numbers_of(frame["item_id"], str(path), "item_id")
    tables.refuse_rows(
        numbers != np.arange(len(frame)), frame["item_id"], f"{path}: items are not numbered from 0 on", "repair them"
    )
    features, values = _coded(frame, ITEM_FEATURES, path)
    number = tables.numbers_of(frame[ITEM_NUMBER], str(path), ITEM_NUMBER).astype(np.float64)
    return BanditItems(numbers=number, features=features, values=values)


def _coded(
    frame: "pd.DataFrame", columns: tuple[str, ...], path: Path
) -> tuple[Int64[np.ndarray, "rows columns"], tuple[tuple[str, ...], ...]]:
    """Values of each column as numbers, in the order of their texts, which are the same in every log."""
    from llm_rec.data import tables

    codes, values = [], []
    for name in columns:
        null = frame[name].isna().to_numpy(dtype=bool)
        tables.refuse_rows(null, frame[name], f"{path}: column {name!r}: null", "fill or remove these rows")
        found, code = np.unique(frame[name].astype(str).to_numpy(dtype=object), return_inverse=True)
        codes.append(code.astype(np.int64))
        values.append(tuple(found.tolist()))
    return np.stack(codes, axis=1), tuple(values)


def _whole_numbers(
    frame: "pd.DataFrame", name: str, path: Path, low: int, high: int, what: str
) -> Int64[np.ndarray, "rows"]:
    from llm_rec.data import tables

    numbers = tables.numbers_of(frame[name], str(path), name)
    bad = (numbers != np.floor(numbers)) | (numbers < low) | (numbers > high)
    tables.refuse_rows(bad, frame[name], f"{path}: column {name!r} is not {what}", "repair or remove these rows")
    return numbers.astype(np.int64)


def _propensities(frame: "pd.DataFrame", path: Path) -> Float64[np.ndarray, "rows"]:
    from llm_rec.data import tables

    values = tables.numbers_of(frame["propensity_score"], str(path), "propensity_score").astype(np.float64)
    bad = (values <= 0) | (values > 1)
    fix = "without the true chance of what was shown no estimate is possible; remove these rows"
    tables.refuse_rows(bad, frame["propensity_score"], f"{path}: propensity_score is not in (0, 1]", fix)
    return values


def _times(frame: "pd.DataFrame", path: Path) -> Int64[np.ndarray, "rows"]:
    import pandas as pd

    from llm_rec.data import tables

    times = pd.to_datetime(frame["timestamp"], utc=True, errors="coerce", format="ISO8601")
    null = times.isna().to_numpy(dtype=bool)
    tables.refuse_rows(null, frame["timestamp"], f"{path}: timestamp is not a time", "write ISO 8601 times")
    ticks = times.dt.tz_localize(None).to_numpy().astype("datetime64[ns]").astype(np.int64)
    back = np.r_[False, ticks[1:] < ticks[:-1]]
    tables.refuse_rows(back, frame["timestamp"], f"{path}: timestamp goes back in time", "sort the rows by time")
    return ticks
