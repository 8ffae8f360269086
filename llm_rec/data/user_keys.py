"""Users as numbers that do not depend on the log: what a model with hashed user tokens keeps of them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Int64

NO_USER = 0


def user_keys(user_ids: Sequence[str]) -> Int64[np.ndarray, " users"]:
    """A number from 1 up for every raw user id, the same in every log; `NO_USER` (0) stands for nobody known.

    >>> user_keys(["a", "b", "a"]).tolist() == user_keys(["a", "b", "a"]).tolist()
    True
    """
    hashes = pd.util.hash_array(np.asarray(user_ids, dtype=object), categorize=False)
    return (hashes >> np.uint64(2)).astype(np.int64) + 1
