"""Field vectors against loops over rows, fields and sets, forward and gradient."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ctr_models.batch import FeatureBatch
from ctr_models.embeddings import (
    DenseVectors,
    EmbeddingTable,
    FieldVectors,
    FrozenRows,
    LinearTerm,
    NormalInit,
    NumericVectors,
    XavierJointInit,
    check_ids,
    schema_vectors,
)
from ctr_models.optim import LazyAdam, RowWiseAdagrad
from ctr_models.protocols import FieldSource
from ctr_models.schema import Categorical, Dense, MultiValue, Numeric, Schema

DIM = 3
MIXED = Schema(
    fields=(
        Numeric(name="age"),
        Categorical(name="user", size=6),
        MultiValue(name="past", size=8, length=4, table="items"),
        Dense(name="text", width=5),
        Categorical(name="item", size=8, table="items"),
        Categorical(name="day", size=4),
        Numeric(name="price"),
        MultiValue(name="tags", size=5, length=2, pooling="sum"),
        Dense(name="image", width=2),
    )
)


def _batch(schema=MIXED, rows=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    columns = []
    for field in schema.id_fields:
        length = field.length if isinstance(field, MultiValue) else 1
        columns.append(torch.randint(0, field.size, (rows, length), generator=generator))
    width = sum(field.width for field in schema.fields if isinstance(field, Dense))
    return FeatureBatch(
        torch.cat(columns, 1) if columns else torch.zeros(rows, 0, dtype=torch.int64),
        torch.randn(rows, len(schema.number_columns), generator=generator),
        torch.randn(rows, width, generator=generator),
        torch.zeros(rows, 1),
    )


def _by_hand(schema, table, batch, num_tables):
    """Vectors of id fields, one row, field, set and id at a time."""
    weight = table.embedding.weight
    sets = []
    for number in range(num_tables):
        rows = []
        for ids in batch.ids:
            fields = []
            for field in schema.id_fields:
                found = [i for i in ids[schema.id_columns[field.name]].tolist() if i != 0]
                start = table.rows[field.name].start
                part = slice(number * DIM, (number + 1) * DIM)
                total = sum((weight[start + i, part] for i in found), torch.zeros(DIM, dtype=weight.dtype))
                mean = isinstance(field, MultiValue) and field.pooling == "mean"
                fields.append(total / max(len(found), 1) if mean else total)
            rows.append(torch.stack(fields))
        sets.append(torch.stack(rows))
    return torch.stack(sets)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("num_tables", [1, 3])
def test_a_table_equals_a_loop_over_rows_fields_and_sets(num_tables, sparse):
    table = EmbeddingTable(MIXED, DIM, num_tables, init=NormalInit(std=1.0), sparse=sparse).double()
    batch = _batch()
    found = table(batch)
    expected = _by_hand(MIXED, table, batch, num_tables)
    assert found.shape == (num_tables, 7, 5, DIM)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    weights = torch.randn_like(found)
    (reference,) = torch.autograd.grad((expected * weights).sum(), table.embedding.weight)
    (found * weights).sum().backward()
    gradient = table.embedding.weight.grad
    assert gradient.is_sparse is sparse
    torch.testing.assert_close(gradient.to_dense() if sparse else gradient, reference, rtol=0, atol=1e-13)


def test_fields_of_one_table_share_rows_and_others_do_not():
    own = Schema(fields=(Categorical(name="items", size=8), *MIXED.id_fields))  # a field called like a table
    table = EmbeddingTable(own, DIM)
    assert table.rows["past"] == table.rows["item"] == slice(14, 22)
    assert table.rows["items"] == slice(0, 8)
    assert table.embedding.weight.shape == (8 + 6 + 8 + 4 + 5, DIM)
    assert table.field_weight("day").shape == (1, 4, DIM)


@pytest.mark.parametrize("optimizer", [None, LazyAdam, RowWiseAdagrad])
def test_padding_is_exactly_zero_before_and_after_training(optimizer):
    table = EmbeddingTable(MIXED, DIM, 2, init=NormalInit(std=1.0), sparse=optimizer is not None)
    weight = table.embedding.weight
    step = (
        torch.optim.Adam([weight], lr=0.1, weight_decay=0.1)
        if optimizer is None
        else optimizer([weight], lr=0.1, weight_decay=0.1)
    )
    paddings = [0, 6, 14, 18]
    empty = FeatureBatch(torch.zeros(2, 9, dtype=torch.int64), *_batch_rest(2))
    for seed in range(3):
        assert not weight[paddings].any()
        assert not table(empty).any()
        table(_batch(seed=seed)).sub(1).square().sum().backward()
        step.step()
        step.zero_grad()
    assert not weight[paddings].any()


def _batch_rest(rows):
    return torch.zeros(rows, 2), torch.zeros(rows, 7), torch.zeros(rows, 1)


def test_padding_is_zero_whatever_its_row_holds():
    table = EmbeddingTable(MIXED, DIM)
    nn.init.ones_(table.embedding.weight)
    found = table(FeatureBatch(torch.zeros(2, 9, dtype=torch.int64), *_batch_rest(2)))
    found.sum().backward()
    assert not found.any()
    assert not table.embedding.weight.grad.any()


def test_initial_scales_are_those_of_the_papers():
    big = Schema(fields=(Categorical(name="a", size=20_001), Categorical(name="b", size=10_001)))
    torch.manual_seed(0)
    normal = EmbeddingTable(big, 8, 2).embedding.weight
    assert normal[1:20_001].std().item() == pytest.approx(1e-4, rel=0.01)
    joint = EmbeddingTable(big, 8, 2, init=XavierJointInit()).embedding.weight
    bound = math.sqrt(6 / (30_000 + 8))  # rows of both fields without padding, dim of one set
    assert 0.999 * bound < joint.abs().max().item() <= bound
    assert joint.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert not joint[[0, 20_001]].any()


def test_every_field_lands_in_the_order_of_the_schema():
    vectors = schema_vectors(MIXED, DIM, 2, init=NormalInit(std=1.0))
    batch = _batch()
    table, numbers, dense = vectors.sources
    found = vectors(batch)
    assert found.shape == (2, 7, vectors.num_fields, DIM) == (2, 7, 9, DIM)
    parts = {"user": (table, 0), "past": (table, 1), "item": (table, 2), "day": (table, 3), "tags": (table, 4)}
    parts |= {"age": (numbers, 0), "price": (numbers, 1), "text": (dense, 0), "image": (dense, 1)}
    for place, field in enumerate(MIXED.fields):
        source, number = parts[field.name]
        assert torch.equal(found[:, :, place], source(batch)[:, :, number])


def test_a_source_follows_the_fields_of_a_schema():
    matrix = torch.randn(8, 5)
    vectors = FieldVectors([schema_vectors(MIXED, DIM), FrozenRows(MIXED, "item", matrix, DIM)])
    assert vectors(_batch()).shape == (1, 7, 10, DIM)
    assert vectors.num_fields == 10


def test_only_the_fields_that_are_there_have_parameters():
    ids = Schema(fields=(Categorical(name="a", size=4),))
    numbers = Schema(fields=(Numeric(name="a"), Dense(name="b", width=2)))
    assert [name for name, _ in schema_vectors(ids, DIM).named_parameters()] == ["sources.0.embedding.weight"]
    shapes = [tuple(p.shape) for p in schema_vectors(numbers, DIM, 2).parameters()]
    assert shapes == [(2, 1, DIM), (2 * DIM, 2)]


def test_numbers_scale_a_vector_of_each_set():
    source, batch = NumericVectors(MIXED, DIM, 2, std=1.0), _batch()
    found = source(batch)
    for number in range(2):
        for row in range(7):
            for field in range(2):
                expected = batch.numbers[row, field] * source.weight[number, field]
                torch.testing.assert_close(found[number, row, field], expected)


def test_dense_features_have_a_map_of_each_set():
    source, batch = DenseVectors(MIXED, DIM, 2), _batch()
    found = source(batch)
    for number in range(2):
        for field, columns in enumerate((slice(0, 5), slice(5, 7))):
            weight = source.maps[field].weight[number * DIM : (number + 1) * DIM]
            torch.testing.assert_close(found[number, :, field], batch.dense[:, columns] @ weight.T)


@pytest.mark.parametrize("field", ["item", "past", "tags"])
def test_frozen_rows_are_gathered_pooled_and_projected(field):
    size = {"item": 8, "past": 8, "tags": 5}[field]
    matrix = torch.randn(size, 5)
    source, batch = FrozenRows(MIXED, field, matrix, DIM, 2), _batch()
    found = source(batch)
    for row, ids in enumerate(batch.ids[:, MIXED.id_columns[field]]):
        real = matrix[ids[ids != 0]]
        vector = real.sum(0) / (max(len(real), 1) if field == "past" else 1)
        for number in range(2):
            weight = source.project.weight[number * DIM : (number + 1) * DIM]
            torch.testing.assert_close(found[number, row, 0], weight @ vector)
    assert [name for name, _ in source.named_parameters()] == ["project.weight"]
    assert torch.equal(source.state_dict()["matrix"], matrix)


def test_the_linear_term_is_a_sum_of_weights():
    term, batch = LinearTerm(MIXED, 2, init=NormalInit(std=1.0)), _batch()
    table, numbers, dense = term.vectors.sources
    expected = torch.zeros(7, 2)
    for row in range(7):
        for field in MIXED.id_fields:
            ids = [i for i in batch.ids[row, MIXED.id_columns[field.name]].tolist() if i != 0]
            start = table.rows[field.name].start
            total = sum((table.embedding.weight[start + i] for i in ids), torch.zeros(2))
            mean = isinstance(field, MultiValue) and field.pooling == "mean"
            expected[row] += total / max(len(ids), 1) if mean else total
        expected[row] += batch.numbers[row] @ numbers.weight[0]
        expected[row] += dense.maps[0](batch.dense[row, :5]) + dense.maps[1](batch.dense[row, 5:])
    torch.testing.assert_close(term(batch), expected)
    term(batch).square().sum().backward()
    assert all(p.grad.any() for p in term.parameters())


@pytest.mark.parametrize("num_tables", [1, 2])
def test_every_source_keeps_the_contract(num_tables):
    sources = [
        EmbeddingTable(MIXED, DIM, num_tables),
        NumericVectors(MIXED, DIM, num_tables),
        DenseVectors(MIXED, DIM, num_tables),
        FrozenRows(MIXED, "item", torch.randn(8, 4), DIM, num_tables),
        schema_vectors(MIXED, DIM, num_tables),
    ]
    for source in sources:
        assert isinstance(source, FieldSource)
        for rows in (0, 1, 5):
            found = source(_batch(rows=rows))
            assert found.shape == (num_tables, rows, source.num_fields, DIM)


@given(st.integers(1, 4), st.permutations(range(9)))
@settings(max_examples=15, deadline=None)
def test_field_order_of_the_schema_moves_vectors_and_changes_none(rows, order):
    shuffled = Schema(fields=tuple(MIXED.fields[i] for i in order))
    torch.manual_seed(0)
    vectors = schema_vectors(shuffled, DIM)
    assert vectors(_batch(shuffled, rows)).shape == (1, rows, 9, DIM)
    joined = torch.cat([source(_batch(shuffled, rows)) for source in vectors.sources], 2)
    names = [f.name for f in shuffled.id_fields] + [*shuffled.number_columns, *shuffled.dense_columns]
    for place, field in enumerate(shuffled.fields):
        assert torch.equal(vectors(_batch(shuffled, rows))[:, :, place], joined[:, :, names.index(field.name)])


def test_ids_outside_their_field_are_named():
    batch = _batch()
    check_ids(MIXED, batch.ids)
    for value in (8, -1):
        wrong = batch.ids.clone()
        wrong[3, 2] = value
        with pytest.raises(ValueError) as error:
            check_ids(MIXED, wrong)
        assert str(error.value).startswith(f"field 'past': id {value} in row 3 of the batch is outside 0..7; encode")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: EmbeddingTable(MIXED, 0), "dim must be at least 1, got 0"),
        (lambda: EmbeddingTable(MIXED, 4, 0), "num_tables must be at least 1, got 0"),
        (lambda: NormalInit(std=-1.0), "std must not be negative, got -1.0"),
        (lambda: EmbeddingTable(Schema(fields=(Numeric(name="a"),)), 4), "no field with ids; leave the table out"),
        (lambda: NumericVectors(Schema(fields=(Dense(name="a", width=1),)), 4), "no numeric field"),
        (lambda: DenseVectors(Schema(fields=(Numeric(name="a"),)), 4), "no dense field"),
        (
            lambda: FrozenRows(MIXED, "age", torch.zeros(8, 2), 4),
            "no field with ids is called 'age'; there are user, past",
        ),
        (lambda: FrozenRows(MIXED, "item", torch.zeros(7, 2), 4), "the matrix has 7 rows but field 'item' has 8 ids"),
        (lambda: FieldVectors([]), "there is no source of fields; give at least one"),
        (lambda: FieldVectors([NumericVectors(MIXED, 4)], [0, 0]), "order must hold each of 0..1 once, got [0, 0]"),
    ],
)
def test_what_cannot_be_built_is_refused(build, message):
    with pytest.raises(ValueError) as error:
        build()
    assert message in str(error.value)


@pytest.mark.parametrize("num_tables", [1, 2])
def test_ids_with_more_axes_are_looked_up_like_rows(num_tables):
    table = EmbeddingTable(MIXED, DIM, num_tables)
    batch = _batch(rows=12)
    shaped = table.look_up(batch.ids.view(3, 4, -1))
    assert torch.equal(shaped, table(batch).unflatten(1, (3, 4)))


def test_a_table_can_be_laid_out_without_memory():
    schema = Schema(fields=(Categorical(name="item", size=2**40), Categorical(name="day", size=5)))
    with torch.device("meta"):
        assert EmbeddingTable(schema, 16).embedding.weight.numel() == 16 * (2**40 + 5)
