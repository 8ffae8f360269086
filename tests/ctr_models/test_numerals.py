"""Digits in several bases: golden numbers of the paper, and tables against loops over rows, bases and places."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ctr_models.batch import FeatureBatch
from ctr_models.embeddings import LinearTerm, NormalInit, schema_vectors
from ctr_models.interactions.named import PRESETS, preset
from ctr_models.model import build_ctr_model
from ctr_models.numerals import DigitTable, NumeralVectors, code_length, digits, numeral_groups
from ctr_models.schema import RESERVED, UNKNOWN, Categorical, MultiValue, Numerals, Schema

DIM = 5
AGE = Numerals(name="age", size=RESERVED + 91)
PAY = Numerals(name="pay", size=RESERVED + 1000)
SIDE = Numerals(name="score", size=RESERVED + 300, bases=(2, 3, 7), combine="concat")
MIXED = Schema(
    fields=(
        AGE,
        Categorical(name="user", size=6),
        SIDE,
        MultiValue(name="tags", size=7, length=2),
        PAY,
        Categorical(name="day", size=4),
    )
)


def batch_of(schema, rows=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    columns = [
        torch.randint(0, field.size, (rows, getattr(field, "length", 1)), generator=generator)
        for field in schema.id_fields
    ]
    ids = torch.cat(columns, 1)
    ids[0], ids[1] = 0, UNKNOWN
    none = torch.zeros(rows, 0)
    return FeatureBatch(ids, none, none, torch.zeros(rows, 1))


def code(value, base, length):
    """Digits by repeated division, the most significant first."""
    found = []
    for _ in range(length):
        value, digit = divmod(value, base)
        found.append(digit)
    return found[::-1]


def test_51_has_the_published_digits():
    assert "".join(map(str, digits(torch.tensor(51), 2, 6).tolist())) == "110011"
    assert "".join(map(str, digits(torch.tensor(51), 3, 6).tolist())) == "001220"


@given(st.lists(st.integers(0, 2**31 - 4), min_size=1, max_size=20), st.integers(2, 12))
def test_digits_are_those_of_repeated_division(values, base):
    length = code_length(max(values) + 1, base)
    assert base ** (length - 1) <= max(values) or length == 1
    assert digits(torch.tensor(values), base, length).tolist() == [code(value, base, length) for value in values]


def one_hot_code(base, *, shared):
    """Vectors of 0..999 by a table whose rows are unit vectors: of each (place, digit), or of each digit alone."""
    table = DigitTable([PAY], base, 1000).double()
    places = table.places
    assert places == {2: 10, 3: 7}[base]
    rows = torch.zeros_like(table.embedding.weight)
    for place in range(places):
        for digit in range(base):
            rows[1 + place * base + digit, digit if shared else place * base + digit] = 1.0
    with torch.no_grad():
        table.embedding.weight.copy_(rows)
    return table(torch.arange(1000)[:, None] + RESERVED)[0, :, 0]


@pytest.mark.parametrize(("shared", "distinct"), [(False, 1000), (True, 149)])
def test_places_tell_all_of_1000_integers_apart_and_bags_of_digits_149(shared, distinct):
    both = torch.cat([one_hot_code(base, shared=shared) for base in (2, 3)], 1)
    assert len(both.unique(dim=0)) == distinct


def field_by_hand(source, field, ids, num_tables, dim):
    """One integer, set, base and place at a time."""
    sets = []
    for number in range(num_tables):
        rows = []
        for id_ in ids.tolist():
            parts = []
            for table in source.tables:
                weight = table.embedding.weight
                width = weight.shape[1] // num_tables
                part = slice(number * width, (number + 1) * width)
                first = table.rows[field.name].start
                length = code_length(field.size - RESERVED, table.base)
                total = torch.zeros(width, dtype=weight.dtype)
                if id_ == UNKNOWN:
                    total = total + weight[first + length * table.base, part]
                elif id_ >= RESERVED:
                    for place, digit in enumerate(code(id_ - RESERVED, table.base, length)):
                        total = total + weight[first + place * table.base + digit, part]
                parts.append(total)
            rows.append(torch.cat(parts) if source.concat else sum(parts))
        sets.append(torch.stack(rows))
    found = torch.stack(sets)
    assert found.shape[-1] == dim
    return found


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("num_tables", [1, 3])
def test_vectors_equal_a_loop_over_rows_bases_and_places(num_tables, sparse):
    source = schema_vectors(MIXED, DIM, num_tables, init=NormalInit(std=1.0), sparse=sparse).double()
    batch = batch_of(MIXED)
    found = source(batch)
    assert found.shape == (num_tables, 9, 6, DIM)
    groups = {
        field.name: module for module in source.sources[1:] for field in (AGE, PAY, SIDE) if _reads(module, field)
    }
    expected = {
        field.name: field_by_hand(
            groups[field.name], field, batch.ids[:, MIXED.id_columns[field.name].start], num_tables, DIM
        )
        for field in (AGE, PAY, SIDE)
    }
    weights, places = torch.randn_like(found), [MIXED.fields.index(field) for field in (AGE, PAY, SIDE)]
    by_hand = torch.stack([expected[field.name] for field in (AGE, PAY, SIDE)], 2)
    torch.testing.assert_close(found[:, :, places], by_hand, rtol=0, atol=1e-13)
    tables = [table.embedding.weight for module in source.sources[1:] for table in module.tables]
    wanted = torch.autograd.grad((by_hand * weights[:, :, places]).sum(), tables)
    (found * weights).sum().backward()
    for parameter, gradient in zip(tables, wanted, strict=True):
        assert parameter.grad.is_sparse is sparse
        torch.testing.assert_close(parameter.grad.to_dense(), gradient, rtol=0, atol=1e-12)


def _reads(module, field):
    return all(field.name in table.rows for table in module.tables)


def test_ordinary_fields_keep_their_vectors_beside_numerals():
    """The fused table reads its own columns, wherever numerals stand between them."""
    source = schema_vectors(MIXED, DIM, init=NormalInit(std=1.0))
    plain = Schema(fields=MIXED.table_fields)
    alone = schema_vectors(plain, DIM)
    alone.sources[0].load_state_dict(source.sources[0].state_dict())
    batch = batch_of(MIXED)
    kept = batch.ids[:, [1, 3, 4, 6]]
    rest = alone(FeatureBatch(kept, batch.numbers, batch.dense, batch.labels))
    torch.testing.assert_close(source(batch)[:, :, [1, 3, 5]], rest, rtol=0, atol=0)


@pytest.mark.parametrize("combine", ["sum", "concat"])
def test_gradients_of_digit_tables_are_right(combine):
    schema = Schema(fields=(Numerals(name="n", size=RESERVED + 40, combine=combine),))
    source = NumeralVectors(schema, schema.numeral_fields, 3, 2, init=NormalInit(std=1.0)).double()
    batch = batch_of(schema)

    def vectors(*weights):
        names = [f"tables.{number}.embedding.weight" for number in range(2)]
        return torch.func.functional_call(source, dict(zip(names, weights, strict=True)), (batch,))

    weights = [table.embedding.weight.detach().clone().requires_grad_() for table in source.tables]
    out = vectors(*weights)
    found = torch.autograd.grad(out.sin().sum(), weights)
    for number, weight in enumerate(weights):  # row 0 is padding: constant zeros, by definition without gradient
        assert not found[number][0].any()
        for row in range(1, len(weight)):
            step = torch.zeros_like(weight)
            step[row, 1] = 1e-6
            with torch.no_grad():
                shifted = [[w + sign * step if n == number else w for n, w in enumerate(weights)] for sign in (1, -1)]
                up, down = (vectors(*changed).sin().sum() for changed in shifted)
            assert float(found[number][row, 1]) == pytest.approx(float(up - down) / 2e-6, abs=1e-6)


def test_an_integer_beyond_the_field_counts_as_the_largest_and_no_batch_widens_the_code():
    source = schema_vectors(Schema(fields=(PAY,)), DIM, init=NormalInit(std=1.0))

    def vector(*values):
        ids = torch.tensor(values)[:, None] + RESERVED
        return source(FeatureBatch(ids, torch.zeros(len(ids), 0), torch.zeros(len(ids), 0), torch.zeros(len(ids), 1)))[
            0
        ]

    torch.testing.assert_close(vector(1023, 10**6), vector(999, 999), rtol=0, atol=0)
    alone, beside = vector(3), vector(3, 999)
    assert alone.shape[1:] == beside.shape[1:]
    torch.testing.assert_close(alone[0], beside[0], rtol=0, atol=0)


def test_padding_is_zero_and_missing_is_learned():
    source = schema_vectors(Schema(fields=(AGE, PAY)), DIM, 2, init=NormalInit(std=1.0))
    batch = batch_of(Schema(fields=(AGE, PAY)))
    found = source(batch)
    assert not found[:, 0].any()
    assert found[:, 1].all()
    found[:, :2].sum().backward()
    touched = [int(table.embedding.weight.grad.any(1).sum()) for table in source.sources[0].tables]
    assert touched == [2, 2]  # one row of missing integers for each field and base


def test_bases_share_out_a_concatenated_vector():
    schema = Schema(fields=(SIDE,))
    widths = [t.embedding.weight.shape[1] for t in NumeralVectors(schema, schema.numeral_fields, DIM, 2).tables]
    assert widths == [2 * 2, 2 * 2, 2 * 1]
    with pytest.raises(ValueError, match="^vectors of 2 numbers have no room for 3 bases side by side; combine them"):
        NumeralVectors(schema, schema.numeral_fields, 2)
    with pytest.raises(ValueError, match="^fields must have one bases and combine, got 2 of them; see numeral_groups$"):
        NumeralVectors(MIXED, MIXED.numeral_fields, DIM)
    assert [[field.name for field in group] for group in numeral_groups(MIXED.numeral_fields)] == [
        ["age", "pay"],
        ["score"],
    ]


def test_first_order_weights_are_added_over_digits_and_bases():
    term = LinearTerm(Schema(fields=(SIDE,)), init=NormalInit(std=1.0)).double()
    (source,) = term.vectors.sources
    batch = batch_of(Schema(fields=(SIDE,)))
    expected = field_by_hand(source, SIDE, batch.ids[:, 0], 1, 1)[0]
    torch.testing.assert_close(term(batch), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_reads_numerals_and_trains_all_their_digits(name):
    schema = Schema(fields=(AGE, Categorical(name="user", size=6), PAY))
    config = preset(name, schema)
    torch.manual_seed(0)
    model = build_ctr_model(
        config,
        schema,
        build_sources=lambda given, dim, sets: schema_vectors(given, dim, sets, init=NormalInit(std=0.3)),
        build_linear=lambda given, outputs: LinearTerm(given, outputs, init=NormalInit(std=0.3)),
    )
    batch = batch_of(schema, rows=64)
    logits = model(batch)
    assert logits.shape == (64, 1)
    logits.sin().sum().backward()
    tables = [module for module in model.modules() if isinstance(module, DigitTable)]
    assert tables
    assert all(table.embedding.weight.grad.any() for table in tables)
    with torch.no_grad():
        changed = batch.ids.clone()
        changed[:, 0] = RESERVED + (changed[:, 0] + 31) % 91
        other = model.eval()(FeatureBatch(changed, batch.numbers, batch.dense, batch.labels))
        assert not torch.allclose(other, model(batch))
