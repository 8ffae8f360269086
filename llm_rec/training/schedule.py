"""The learning rate as a pure function of the update and the history: nothing to save, nothing to restore."""

import math
from collections.abc import Sequence
from typing import Literal, assert_never

Schedule = Literal["constant", "linear", "cosine", "plateau", "inverse_sqrt"]
PLATEAU_FACTOR = 0.1


def learning_rate_factor(schedule: Schedule, update: int, *, updates: int, warmup: int, plateaus: int = 0) -> float:
    """Factor of the learning rate in update `update` (from 0) of `updates`.

    Rises as ``(update + 1) / warmup`` over the first `warmup` updates. After that it stays at 1 ("constant"), falls in
    a straight line ("linear") or along half a cosine ("cosine"); both would reach 0 at update `updates`. With "plateau"
    it falls to a tenth at each of the `plateaus` so far. "inverse_sqrt" does not rise, it stays at 1 over those first
    updates and falls with ``1 / sqrt(update)`` from there on, as T5 is trained and TIGER with it.

    >>> [round(learning_rate_factor("linear", update, updates=6, warmup=2), 2) for update in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    >>> [round(learning_rate_factor("cosine", update, updates=4, warmup=0), 2) for update in range(4)]
    [1.0, 0.85, 0.5, 0.15]
    >>> [round(learning_rate_factor("inverse_sqrt", update, updates=9, warmup=2), 2) for update in (0, 1, 2, 7)]
    [1.0, 1.0, 0.82, 0.5]
    """
    if schedule == "inverse_sqrt":
        constant = max(warmup, 1)
        return math.sqrt(constant / max(update + 1, constant))
    if update < warmup:
        return (update + 1) / warmup
    done = (update - warmup) / max(updates - warmup, 1)
    match schedule:
        case "constant":
            return 1.0
        case "linear":
            return max(0.0, 1.0 - done)
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))
        case "plateau":
            return PLATEAU_FACTOR**plateaus
    assert_never(schedule)


def count_plateaus(values: Sequence[float]) -> int:
    """How many of the successive values of a metric were no new maximum.

    >>> count_plateaus([0.1, 0.3, 0.2, 0.3, 0.4])
    2
    """
    count, best = 0, -math.inf
    for value in values:
        count += value <= best
        best = max(best, value)
    return count
