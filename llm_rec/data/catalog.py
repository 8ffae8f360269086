"""The catalog: which items exist, in which order, and what text describes each of them."""

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Int64

from llm_rec.artifacts import fingerprint


class Catalog:
    """N items with one text each. Item row `r` (1..N) is the r-th item everywhere in the toolkit; row 0 is padding.

    Item ids are strings: 7 and "7" name the same item.
    """

    def __init__(self, item_ids: Sequence[str], texts: Sequence[str]) -> None:
        self.item_ids = tuple(item_ids)
        self.texts = tuple(texts)

    def __len__(self) -> int:
        return len(self.item_ids)

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {item: row for row, item in enumerate(self.item_ids, start=1)}

    def rows(self, item_ids: Iterable[object]) -> Int64[np.ndarray, "ids"]:
        """Rows of raw ids, 0 for an unknown one."""
        return np.fromiter((self._row_of.get(str(item), 0) for item in item_ids), dtype=np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """Changes with any id, any text, or their order."""
        return fingerprint("catalog", "\x1f".join(self.item_ids), "\x1f".join(self.texts))
