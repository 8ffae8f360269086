"""Schemas place their fields and refuse what cannot be laid out."""

import pytest
import torch

from ctr_models.batch import FeatureBatch
from ctr_models.schema import Categorical, Dense, Field, MultiValue, Numeric, Schema


def test_every_field_has_its_columns_in_order() -> None:
    schema = Schema(
        fields=(
            Categorical(name="user", size=10),
            Numeric(name="price"),
            MultiValue(name="tags", size=7, length=3),
            Dense(name="text", width=4),
            Categorical(name="item", size=5),
            Dense(name="image", width=2),
        )
    )
    assert [field.name for field in schema.id_fields] == ["user", "tags", "item"]
    assert schema.id_columns == {"user": slice(0, 1), "tags": slice(1, 4), "item": slice(4, 5)}
    assert schema.number_columns == {"price": 0}
    assert schema.dense_columns == {"text": slice(0, 4), "image": slice(4, 6)}


@pytest.mark.parametrize(
    ("fields", "labels", "message"),
    [
        ((Numeric(name="a"), Numeric(name="a")), ("label",), "two columns are called 'a'; rename one"),
        ((Numeric(name="a"),), ("a",), "two columns are called 'a'; rename one"),
        ((), ("label",), "a schema needs at least one field"),
        ((Numeric(name="a"),), (), "a schema needs at least one label"),
        (
            (Categorical(name="a", size=5, table="t"), MultiValue(name="b", size=6, length=2, table="t")),
            ("label",),
            "fields 'a' and 'b' share table 't' but their sizes are 5 and 6; give them one vocabulary",
        ),
    ],
)
def test_a_schema_that_cannot_be_laid_out_is_refused(
    fields: tuple[Field, ...], labels: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Schema(fields=fields, labels=labels)


def test_domains_are_the_values_of_a_categorical_field() -> None:
    fields = (Categorical(name="page", size=5), Numeric(name="price"))
    assert Schema(fields=fields, domain="page").num_domains == 3
    assert Schema(fields=fields).num_domains == 1
    with pytest.raises(
        ValueError, match=r"^domain names 'price', which is no categorical field; there are \['page'\]$"
    ):
        Schema(fields=fields, domain="price")


def test_fields_check_their_sizes() -> None:
    with pytest.raises(ValueError, match=r"field 'a': size must be above 2 \(padding, unknown, values\), got 2"):
        Categorical(name="a", size=2)
    with pytest.raises(ValueError, match="field 'a': length must be at least 1, got 0"):
        MultiValue(name="a", size=5, length=0)
    with pytest.raises(ValueError, match="field 'a': width must be at least 1, got 0"):
        Dense(name="a", width=0)


def test_a_batch_moves_as_a_whole() -> None:
    batch = FeatureBatch(
        torch.ones(3, 2, dtype=torch.int64), torch.zeros(3, 0), torch.zeros(3, 4), torch.ones(3, 1), torch.arange(3)
    )
    moved = batch.to("meta")
    assert len(moved) == 3
    assert {t.device.type for t in (moved.ids, moved.numbers, moved.dense, moved.labels)} == {"meta"}
    assert moved.groups is not None
    assert moved.groups.device.type == "meta"
