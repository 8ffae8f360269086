"""A trained recommender with the ids of its items: what is left when the training data is gone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from llm_rec.artifacts import fingerprint, read_manifest, write_artifact
from llm_rec.data import Catalog, Interactions
from llm_rec.errors import ArtifactError, DataError
from llm_rec.metrics.exact import Best, Candidates, Pairs, best_items
from llm_rec.pad.model import PADModel
from llm_rec.sequential.model import SequentialModel

KIND = "recommender"
_HISTORIES_AT_ONCE = 256
Model = SequentialModel | PADModel


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One recommended item: its raw id, its text, and the inner product that ranked it."""

    item: str
    text: str
    score: float


class Recommender:
    """Top-k items for raw histories, or for known users when the log was kept.

    `recommend` needs neither the text encoder nor the training data: item vectors are computed once, here.
    """

    def __init__(self, model: Model, catalog: Catalog, log: Interactions | None = None) -> None:
        self.model = model.eval()
        self.catalog = catalog
        self.log = log
        with torch.no_grad():
            self.item_vectors: Float[Tensor, "items_plus_one width"] = model.item_vectors()
        if len(self.item_vectors) != len(catalog) + 1:
            raise ArtifactError(
                f"the model knows {len(self.item_vectors) - 1} items but the catalog has {len(catalog)}; "
                "use the catalog the model was trained on"
            )
        self._candidates = Candidates.of(self.item_vectors)
        self._user_row = {user: row for row, user in enumerate(log.user_ids)} if log is not None else {}

    def recommend(
        self,
        history: Sequence[object] | None = None,
        *,
        user: object | None = None,
        k: int = 10,
        exclude_seen: bool = True,
    ) -> list[Recommendation]:
        """The `k` best items after a raw `history` (item ids, oldest first), or after everything `user` did.

        Raises `DataError` for an unknown user or item, and when not exactly one of the two is given.
        """
        if (history is None) == (user is None):
            raise DataError("pass either a history of item ids or a user id, not both and not neither")
        rows = self._known_rows(history) if history is not None else self._user_history(user)
        return self.recommend_rows([rows], k=k, exclude_seen=exclude_seen)[0]

    def recommend_rows(
        self, histories: Sequence[Int64[np.ndarray, "_"]], *, k: int = 10, exclude_seen: bool = True
    ) -> list[list[Recommendation]]:
        """`recommend` for many histories of item rows at once; equal scores in the order of the catalog.

        Memory grows neither with the number of histories nor with that of items: see `metrics.exact.best_items`.
        """
        if k < 1:
            raise DataError(f"k must be at least 1, got {k}")
        self._require_rows(histories)
        found: list[list[Recommendation]] = []
        for start in range(0, len(histories), _HISTORIES_AT_ONCE):
            some = histories[start : start + _HISTORIES_AT_ONCE]
            seen = self._pairs(some) if exclude_seen else None
            best = best_items(self._user_vectors(some), self._candidates, min(k, len(self.catalog)), seen=seen)
            found += self._items(best)
        return found

    def similar_items(self, item: object, *, k: int = 10) -> list[Recommendation]:
        """The `k` nearest items by cosine of the vectors that rank: what the model takes for alike."""
        if k < 1:
            raise DataError(f"k must be at least 1, got {k}")
        row = self._known_rows([item])
        unit = F.normalize(self.item_vectors.float(), dim=-1)
        best = best_items(
            unit[torch.from_numpy(row).to(unit.device)],
            Candidates.of(unit),
            min(k, len(self.catalog)),
            seen=self._pairs([row]),
        )
        return self._items(best)[0]

    def save(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Write model, catalog and (if there is one) log below `path`; `load` needs nothing else."""
        path = Path(path)
        name = fingerprint(KIND, self.catalog.fingerprint, self.log.fingerprint if self.log else "")
        details = {"model": "pad" if isinstance(self.model, PADModel) else "sequential", "log": self.log is not None}
        with write_artifact(
            path,
            kind=KIND,
            fingerprint=name,
            inputs={"catalog": self.catalog.fingerprint},
            details=details,
            overwrite=overwrite,
        ) as folder:
            self.model.save_pretrained(folder / "model")
            self.catalog.save(folder / "catalog")
            if self.log is not None:
                self.log.save(folder / "interactions")

    @classmethod
    def load(cls, path: Path | str) -> "Recommender":
        """Read what `save` wrote. Nothing in the folder is executed."""
        path = Path(path)
        details = read_manifest(path, KIND).details
        catalog = Catalog.load(path / "catalog")
        log = Interactions.load(path / "interactions", catalog) if details.get("log") else None
        return cls(load_model(path / "model"), catalog, log)

    def _user_vectors(self, histories: Sequence[Int64[np.ndarray, "_"]]) -> Float32[Tensor, "batch width"]:
        recent = [history[-self.model.max_length :] for history in histories]
        padded = np.zeros((len(recent), max([1, *map(len, recent)])), dtype=np.int64)
        mask = np.arange(padded.shape[1]) < np.array([len(history) for history in recent])[:, None]
        padded[mask] = np.concatenate(recent)
        with torch.no_grad():
            return self.model.user_vectors(torch.from_numpy(padded).to(self.item_vectors.device)).float()

    def _pairs(self, histories: Sequence[Int64[np.ndarray, "_"]]) -> Pairs:
        """What each history holds, as positions among the candidates (item row - 1)."""
        owner = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
        device = self.item_vectors.device
        return Pairs(torch.from_numpy(owner).to(device), torch.from_numpy(np.concatenate(histories)).to(device) - 1)

    def _items(self, best: Best) -> list[list[Recommendation]]:
        """Rows with ids and texts; places that nothing was left for (row 0) are gone."""
        ids, texts = self.catalog.item_ids, self.catalog.texts
        return [
            [
                Recommendation(ids[row - 1], texts[row - 1], score)
                for row, score in zip(rows, scores, strict=True)
                if row
            ]
            for rows, scores in zip(best.rows.tolist(), best.scores.tolist(), strict=True)
        ]

    def _require_rows(self, histories: Sequence[Int64[np.ndarray, "_"]]) -> None:
        rows = np.concatenate([*histories, np.empty(0, np.int64)])
        if rows.size and not 1 <= rows.min() <= rows.max() <= len(self.catalog):
            raise DataError(
                f"histories hold item rows 1..{len(self.catalog)}, got values from {rows.min()} to {rows.max()}; "
                "Catalog.rows gives the rows of ids"
            )

    def _known_rows(self, items: Iterable[object]) -> Int64[np.ndarray, "items"]:
        ids = [str(item) for item in items]
        rows = self.catalog.rows(ids)
        unknown = [item for item, row in zip(ids, rows, strict=True) if row == 0]
        if unknown:
            raise DataError(
                f"{len(unknown)} of {len(ids)} item ids are not in the catalog ({', '.join(unknown[:3])}); "
                "drop them, or encode and train on a catalog that has them"
            )
        return rows

    def _user_history(self, user: object) -> Int64[np.ndarray, "items"]:
        if self.log is None:
            raise DataError("this recommender was saved without a log, so it knows no users; pass a history")
        row = self._user_row.get(str(user))
        if row is None:
            raise DataError(f"user {user!r} is not in the log; pass a history of item ids instead")
        return np.asarray(self.log.history(row))


def load_model(path: Path | str) -> Model:
    """The model at `path`, whichever of the trained kinds it is."""
    path = Path(path)
    kind = read_manifest(path).kind
    match kind:
        case "sequential_model":
            return SequentialModel.from_pretrained(path)
        case "pad_model":
            return PADModel.from_pretrained(path)
        case _:
            raise ArtifactError(f"{path} holds a {kind}, not a trained model")
