"""Tmall repeat buyers (Tianchi data set 42): ``user_log_format1.csv`` with the header user_id, item_id, cat_id,
seller_id, brand_id, time_stamp, action_type.

The rules of DARE (arXiv 2410.02604) are the defaults: clicks only (action 0), a user's events sorted by day, events of
one day in the file's order. `time_stamp` is month and day (1111 is November 11). The released code keeps times of four
characters; where the file writes 829 for August 29, that keeps October and November alone. Whether yours does is for
you to see: compare the number of kept rows with and without `four_characters`.
"""

from dataclasses import dataclass
from pathlib import Path

from llm_rec.data.behaviours import BehaviourSource, BehaviourSpec
from llm_rec.data.log_spec import TableFile

PUBLISHED = {"users": 423_862, "items": 1_080_666}


@dataclass(frozen=True, kw_only=True, slots=True)
class TmallConfig:
    """`path` is the csv file. `actions` are among 0 (click), 1 (cart), 2 (buy), 3 (favourite). Gaps in time are not
    known: the difference of two days written as month and day is no time, so it is left out.
    """

    path: Path
    actions: tuple[str, ...] = ("0",)
    four_characters: bool = False
    seller_and_brand: bool = False


def tmall(config: TmallConfig, min_events: int) -> BehaviourSource:
    """The file and what it means."""
    fields = (("category", "cat_id"), ("seller", "seller_id"), ("brand", "brand_id"))
    spec = BehaviourSpec(
        user="user_id",
        item="item_id",
        time="time_stamp",
        fields=fields if config.seller_and_brand else fields[:1],
        where=("action_type", config.actions),
        time_characters=4 if config.four_characters else None,
        order="sort",
        min_events=min_events,
        gaps=False,
    )
    return BehaviourSource((TableFile(path=config.path, form="csv"),), spec)
