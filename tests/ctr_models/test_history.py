import pytest
import torch

from ctr_models.batch import FeatureBatch, HistoryBatch
from ctr_models.schema import Categorical, Numeric, Schema

ITEM, KIND, USER = (Categorical(name=name, size=5) for name in ("item", "kind", "user"))


def history() -> HistoryBatch:
    ids = torch.tensor([[[0, 0], [3, 2], [4, 1]], [[2, 2], [3, 2], [4, 3]]])
    return HistoryBatch(ids, torch.tensor([[0, 2, 1], [5, 4, 1]]))


def test_padding_is_on_the_left_and_newest_events_come_last() -> None:
    assert history().mask.tolist() == [[False, True, True], [True, True, True]]
    newest = history().newest(2)
    assert newest.ids.tolist() == [[[3, 2], [4, 1]], [[3, 2], [4, 3]]]
    assert newest.gaps is not None
    assert newest.gaps.tolist() == [[2, 1], [4, 1]]
    assert history().newest(9).ids.shape == (2, 3, 2)
    with pytest.raises(ValueError, match="^length must be at least 1, got 0$"):
        history().newest(0)


def test_a_batch_moves_with_its_history() -> None:
    batch = FeatureBatch(
        torch.ones(2, 3, dtype=torch.int64), torch.zeros(2, 0), torch.zeros(2, 0), torch.zeros(2, 1), None, history()
    )
    moved = batch.to("meta").history
    assert moved is not None
    assert moved.ids.device.type == "meta"
    assert moved.gaps is not None
    assert moved.gaps.device.type == "meta"


def test_a_schema_knows_the_candidates_columns_of_history_fields() -> None:
    assert Schema(fields=(USER, ITEM, KIND), history=("item", "kind")).history_columns == (1, 2)
    assert Schema(fields=(USER, ITEM)).history_columns == ()


def test_history_fields_must_be_categorical_and_named_once() -> None:
    fields = (USER, ITEM, Numeric(name="price"))
    with pytest.raises(
        ValueError, match=r"^history names 'price', which is no categorical field; there are \['item', 'user'\]$"
    ):
        Schema(fields=fields, history=("price",))
    with pytest.raises(ValueError, match="^history names 'item' twice$"):
        Schema(fields=fields, history=("item", "item"))
