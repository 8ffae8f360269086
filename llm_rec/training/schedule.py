"""The learning rate as a pure function of the update: nothing to save, nothing to restore."""

import math
from typing import Literal, assert_never

Schedule = Literal["constant", "linear", "cosine"]


def learning_rate_factor(schedule: Schedule, update: int, *, updates: int, warmup: int) -> float:
    """Factor of the learning rate in update `update` (from 0) of `updates`.

    Rises as ``(update + 1) / warmup`` over the first `warmup` updates. After that it stays at 1 ("constant"), falls in
    a straight line ("linear") or along half a cosine ("cosine"); both would reach 0 at update `updates`.

    >>> [round(learning_rate_factor("linear", update, updates=6, warmup=2), 2) for update in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    >>> [round(learning_rate_factor("cosine", update, updates=4, warmup=0), 2) for update in range(4)]
    [1.0, 0.85, 0.5, 0.15]
    """
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
    assert_never(schedule)
