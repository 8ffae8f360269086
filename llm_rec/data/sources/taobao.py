"""Taobao user behaviour (Tianchi data set 649): ``UserBehavior.csv``, no header, ``user,item,category,behaviour,time``.

The rules of DARE (arXiv 2410.02604) are the defaults: page views only, a user's events in the file's order (which is
required to be that of time), users with at least 210 of them. Most copies in public repositories are samples or made
up: `PUBLISHED` is what the paper counts among page views.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llm_rec.data.behaviours import BehaviourSource, BehaviourSpec
from llm_rec.data.log_spec import TableFile

COLUMNS = ("user", "item", "category", "behaviour", "time")
PUBLISHED = {"users": 984_114, "items": 4_068_790}


@dataclass(frozen=True, kw_only=True, slots=True)
class TaobaoConfig:
    """`path` is the csv file. `behaviours` are among pv, cart, fav, buy."""

    path: Path
    behaviours: tuple[str, ...] = ("pv",)
    order: Literal["require", "sort"] = "require"


def taobao(config: TaobaoConfig, min_events: int) -> BehaviourSource:
    """The file and what it means."""
    spec = BehaviourSpec(
        user="user",
        item="item",
        time="time",
        fields=(("category", "category"),),
        where=("behaviour", config.behaviours),
        order=config.order,
        min_events=min_events,
    )
    return BehaviourSource((TableFile(path=config.path, names=COLUMNS, form="csv"),), spec)
