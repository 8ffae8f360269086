"""The fit that quantisers of k-means tables share: book by book, each kept as it is done."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from semantic_ids.kmeans import Init, kmeans
from semantic_ids.quantizers.checkpoint import Begun, FitCheckpoint
from semantic_ids.quantizers.protocol import Progress
from semantic_ids.quantizers.saving import check_sizes
from semantic_ids.vectors import seeded


@runtime_checkable
class KMeansSettings(Protocol):
    """What configs of such quantisers have in common."""

    @property
    def num_codebooks(self) -> int: ...

    @property
    def codebook_size(self) -> int: ...

    @property
    def init(self) -> Init: ...

    @property
    def iterations(self) -> int: ...

    @property
    def sample_size(self) -> int: ...


def check_kmeans(config: KMeansSettings) -> None:
    """Raise `ValueError` for sizes that no fit can have."""
    check_sizes(config.num_codebooks, config.codebook_size)
    if config.iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {config.iterations}")
    if config.sample_size < config.codebook_size:
        raise ValueError(f"sample_size {config.sample_size} is smaller than codebook_size {config.codebook_size}")


@dataclass(frozen=True, kw_only=True, eq=False)
class KMeansFit:
    """`given` is asked once for each book, in order: the rows that its table is learned on. `fitted` hears of every
    table then, so that residuals can be taken. `others` are the further tensors of a state of so many books.
    """

    config: KMeansSettings
    seed: int
    given: Callable[[int], Tensor]
    fitted: Callable[[int, Tensor], None] = lambda book, table: None
    others: Callable[[int], Mapping[str, Tensor]] = lambda books: {}
    balanced: bool = False
    slack: float = 1.0

    def run(
        self, kept: FitCheckpoint, begun: Begun | None, device: torch.device, progress: Progress | None
    ) -> tuple[dict[str, Tensor], tuple[dict[str, float], ...]]:
        """The state, ``tables`` (books codes width) among it, and the history; books that were `begun` (what `kept` had
        loaded) are not learned again.
        """
        books = self.config.num_codebooks
        tables = list(begun[0]["tables"].to(device)) if begun else []
        history = cast(list[dict[str, float]], begun[1]["history"]) if begun else []
        for book in range(books):
            rows = self.given(book)
            if book == len(tables):
                learned = kmeans(
                    rows,
                    self.config.codebook_size,
                    generator=seeded(self.seed, book),
                    iterations=self.config.iterations,
                    init=self.config.init,
                    balanced=self.balanced,
                    slack=self.slack,
                )
                tables.append(learned.centroids)
                history.append({"step": float(book + 1), "inertia": learned.inertia})
                kept.save(self._state(tables), {"history": [dict(entry) for entry in history]})
            self.fitted(book, tables[book])
            if progress is not None:
                progress(book + 1, books, history[book])
        return self._state(tables), tuple(history)

    def _state(self, tables: list[Tensor]) -> dict[str, Tensor]:
        return {"tables": torch.stack(tables), **self.others(len(tables))}
