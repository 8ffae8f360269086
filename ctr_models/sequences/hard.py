"""Hard search: the newest events that share an id with the candidate."""

from jaxtyping import Bool, Int64
from torch import Tensor

from ctr_models.schema import RESERVED
from ctr_models.sequences.found import Found, newest_events


def hard_search(
    target_ids: Int64[Tensor, "batch fields"],
    event_ids: Int64[Tensor, "batch length fields"],
    mask: Bool[Tensor, "batch length"],
    *,
    field: int,
    top_k: int,
) -> Found:
    """The `top_k` newest events whose id of history field `field` is the candidate's, the same for every table.

    Nothing equals the ids "padding" and "unknown": two values that training did not see need not be one. Fewer matches
    than `top_k` are not filled up. Raises `ValueError` when the history has no such field.
    """
    if field >= event_ids.shape[2]:
        raise ValueError(
            f"hard search looks at history field {field} but events have {event_ids.shape[2]}, counted from 0; "
            "name one more field in Schema.history or choose another"
        )
    wanted = target_ids[:, field : field + 1]
    return newest_events(mask & event_ids[:, :, field].eq(wanted) & wanted.ge(RESERVED), top_k)
