"""Two views of one text: each leaves out some of the attributes that the text is made of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from llm_rec.data.catalog import Catalog
from llm_rec.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewsConfig:
    """A view keeps each attribute with probability `keep`, and at least one.

    Attributes are the catalog's kept `columns` ("text" is the whole text), or, without any named, the pieces of the
    text between `separator`s, which is how a catalog joins several columns. An item of one attribute is paired with
    itself: then only the dropout of the model tells its views apart (SimCSE, arXiv 2104.08821).
    """

    columns: tuple[str, ...] = ()
    separator: str = ". "
    keep: float = 0.6

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep must lie in (0, 1], got {self.keep}")
        if not self.separator:
            raise ValueError("separator is empty; give the text that stands between two attributes")


class TextViews:
    """Draws views of the items of a catalog."""

    def __init__(self, catalog: Catalog, config: ViewsConfig) -> None:
        self.config = config
        self.parts: list[list[str]] = [[], *_parts(catalog, config)]  # row 0 is padding
        self.sizes = np.fromiter(map(len, self.parts), dtype=np.int64, count=len(self.parts))

    def draw(self, rows: Int64[np.ndarray, "texts"], rng: np.random.Generator) -> list[str]:
        """One view of each of `rows`, which must have text."""
        kept = draw_parts(self.sizes[rows], self.config.keep, rng)
        chosen = zip(rows.tolist(), kept, strict=True)
        return [self.config.separator.join(_where(self.parts[row], mask)) for row, mask in chosen]


def draw_parts(
    sizes: Int64[np.ndarray, "texts"], keep: float, rng: np.random.Generator
) -> Bool[np.ndarray, "texts parts"]:
    """True at the kept ones of each text's first `sizes` parts: each with probability `keep`; one at random if none."""
    draws = rng.random((len(sizes), int(sizes.max(initial=1))))
    draws[np.arange(draws.shape[1]) >= sizes[:, None]] = np.inf
    kept = draws < keep
    kept[np.arange(len(sizes)), draws.argmin(axis=1)] = True
    return kept


def _where(parts: Sequence[str], mask: Bool[np.ndarray, "parts"]) -> list[str]:
    return [parts[place] for place in np.flatnonzero(mask).tolist()]


def _parts(catalog: Catalog, config: ViewsConfig) -> list[list[str]]:
    """The attributes of every item that are not blank; of an item whose columns are blank, its text."""
    if not config.columns:
        split = ((text, text.split(config.separator)) for text in catalog.texts)
        return [[part for part in parts if part.strip()] or [text] for text, parts in split]
    known = {"text": catalog.texts, **catalog.columns}
    for name in config.columns:
        if name not in known:
            raise ConfigError(
                f"the catalog has no column {name!r} to make views of (it has {', '.join(known)}); keep it when the "
                "catalog is read: --source.keep"
            )
    cells = zip(catalog.texts, *(known[name] for name in config.columns), strict=True)
    return [[cell for cell in row if cell.strip()] or [text] for text, *row in cells]
