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
from llm_rec.codec import Plain
from llm_rec.data import Catalog, Interactions
from llm_rec.data.user_keys import NO_USER, user_keys
from llm_rec.errors import ArtifactError, DataError
from llm_rec.generative.hybrid import HybridRecommender
from llm_rec.generative.model import GenerativeModel
from llm_rec.metrics.exact import Best, Candidates, Pairs, best_items
from llm_rec.serving.models import DenseModel, Model, kind_of, load_model, save_model

KIND = "recommender"
_HISTORIES_AT_ONCE = 256
_LISTS_AT_ONCE = 64  # beam search keeps keys and values for every beam


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One recommended item: its raw id, its text, and the score that ranked it: an inner product, the log probability
    of its codes, or what a hybrid makes of both."""

    item: str
    text: str
    score: float


class Recommender:
    """Top-k items for raw histories, or for known users when the log was kept.

    `recommend` needs neither the text encoder nor the training data: item vectors are computed once, here. A generative
    model has none (`item_vectors` is None); it searches its codes instead. A hybrid has those of its dense side.
    """

    def __init__(self, model: Model, catalog: Catalog, log: Interactions | None = None) -> None:
        self.model = model if isinstance(model, HybridRecommender) else model.eval()
        self.catalog = catalog
        self.log = log
        self.item_vectors = _item_vectors(model)
        known = model.num_items if self.item_vectors is None else len(self.item_vectors) - 1
        if known != len(catalog):
            raise ArtifactError(
                f"the model knows {known} items but the catalog has {len(catalog)}; "
                "use the catalog the model was trained on"
            )
        self._candidates = None if self.item_vectors is None else Candidates.of(self.item_vectors)
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
        return self.recommend_rows([rows], users=None if user is None else [str(user)], k=k, exclude_seen=exclude_seen)[
            0
        ]

    def recommend_rows(
        self,
        histories: Sequence[Int64[np.ndarray, "_"]],
        *,
        users: Sequence[str] | None = None,
        k: int = 10,
        exclude_seen: bool = True,
    ) -> list[list[Recommendation]]:
        """`recommend` for many histories of item rows at once; equal scores in the order of the catalog.

        `users` are raw ids, for models that know something of users beside their histories. Memory grows neither with
        the number of histories nor with that of items: see `metrics.exact.best_items`.
        """
        if k < 1:
            raise DataError(f"k must be at least 1, got {k}")
        if users is not None and len(users) != len(histories):
            raise DataError(f"{len(users)} users were given for {len(histories)} histories; give one for each, or none")
        self._require_rows(histories)
        keys = np.full(len(histories), NO_USER, dtype=np.int64) if users is None else user_keys(users)
        k, found = min(k, len(self.catalog)), list[list[Recommendation]]()
        at_once = _HISTORIES_AT_ONCE if isinstance(self.model, DenseModel) else _LISTS_AT_ONCE
        for start in range(0, len(histories), at_once):
            chosen = slice(start, start + at_once)
            found += self._items(self._best(histories[chosen], keys[chosen], k, exclude_seen=exclude_seen))
        return found

    def _best(
        self, some: Sequence[Int64[np.ndarray, "_"]], keys: Int64[np.ndarray, "users"], k: int, *, exclude_seen: bool
    ) -> Best:
        if not isinstance(self.model, DenseModel):
            device = self.model.device
            seen = torch.from_numpy(_padded(some)).to(device) if exclude_seen else None
            history = torch.from_numpy(_padded([history[-self.model.max_length :] for history in some])).to(device)
            return self.model.recommend(history, torch.from_numpy(keys).to(device), seen, k)
        pairs = self._pairs(some) if exclude_seen else None
        return best_items(self._user_vectors(self.model, some), self._vectors()[1], k, seen=pairs)

    def similar_items(self, item: object, *, k: int = 10) -> list[Recommendation]:
        """The `k` nearest items by cosine of the vectors that rank: what the model takes for alike.

        `DataError` for a generative model, which has no vectors of items.
        """
        if k < 1:
            raise DataError(f"k must be at least 1, got {k}")
        row = self._known_rows([item])
        unit = F.normalize(self._vectors()[0].float(), dim=-1)
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
        details: dict[str, Plain] = {"model": kind_of(self.model), "log": self.log is not None}
        with write_artifact(
            path,
            kind=KIND,
            fingerprint=name,
            inputs={"catalog": self.catalog.fingerprint},
            details=details,
            overwrite=overwrite,
        ) as folder:
            save_model(self.model, folder / "model")
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

    def _vectors(self) -> tuple[Float[Tensor, "items_plus_one width"], Candidates]:
        if self.item_vectors is None or self._candidates is None:
            raise DataError("a generative model has no item vectors; use a run of SASRec or PAD for similar items")
        return self.item_vectors, self._candidates

    def _user_vectors(
        self, model: DenseModel, histories: Sequence[Int64[np.ndarray, "_"]]
    ) -> Float32[Tensor, "batch width"]:
        padded = _padded([history[-model.max_length :] for history in histories])
        with torch.no_grad():
            return model.user_vectors(torch.from_numpy(padded).to(self._vectors()[0].device)).float()

    def _pairs(self, histories: Sequence[Int64[np.ndarray, "_"]]) -> Pairs:
        """What each history holds, as positions among the candidates (item row - 1)."""
        owner = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
        device = self._vectors()[0].device
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


def _item_vectors(model: Model) -> Float[Tensor, "items_plus_one width"] | None:
    if isinstance(model, GenerativeModel):
        return None
    if isinstance(model, HybridRecommender):
        return model.vectors
    with torch.no_grad():
        return model.item_vectors()


def _padded(histories: Sequence[Int64[np.ndarray, "_"]]) -> Int64[np.ndarray, "batch length"]:
    """Histories as rows, right padded with 0 to the longest (at least 1)."""
    padded = np.zeros((len(histories), max([1, *map(len, histories)])), dtype=np.int64)
    mask = np.arange(padded.shape[1]) < np.array([len(history) for history in histories])[:, None]
    padded[mask] = np.concatenate(histories)
    return padded
