"""Soft assignment over meta-embeddings against a loop over sets, rows and fields, forward and gradient."""

import pytest
import torch
from torch.nn import functional as F

from ctr_models.batch import FeatureBatch
from ctr_models.embeddings import LinearTerm, NormalInit, schema_vectors
from ctr_models.meta_embeddings import MetaEmbeddings, soft_groups
from ctr_models.schema import Categorical, Numeric, Schema

SCHEMA = Schema(
    fields=(
        Numeric(name="age", meta_embeddings=4, temperature=0.5),
        Categorical(name="user", size=6),
        Numeric(name="price"),
        Numeric(name="score", meta_embeddings=3),
        Numeric(name="views", meta_embeddings=4, temperature=0.5),
    )
)


def batch_of(rows=5):
    torch.manual_seed(0)
    ids = torch.randint(0, 6, (rows, 1))
    numbers = torch.randn(rows, 4)
    return FeatureBatch(ids, numbers, torch.zeros(rows, 0), torch.zeros(rows, 1))


def by_hand(source, numbers, sets):
    """Layers, softmax and mixture one number at a time."""
    a = source.assignment
    found = []
    for t in range(sets):
        rows = []
        for row in numbers:
            fields = []
            for place, number in enumerate(row):
                hidden = F.leaky_relu(number * a.weight[t, place] + a.bias[t, place])
                shares = torch.softmax((hidden @ a.mix[t, place] + hidden) / a.temperature, 0)
                fields.append(sum(share * one for share, one in zip(shares, source.weight[t, place], strict=True)))
            rows.append(torch.stack(fields))
        found.append(torch.stack(rows))
    return torch.stack(found)


@pytest.mark.parametrize("sets", [1, 3])
def test_mixtures_equal_a_loop_over_sets_rows_and_fields(sets):
    group = soft_groups(SCHEMA)[0]
    assert [field.name for field in group] == ["age", "views"]
    source = MetaEmbeddings(SCHEMA, group, 5, sets, init=NormalInit(std=1.0)).double()
    numbers = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    found, expected = source.of_numbers(numbers), by_hand(source, numbers, sets)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    weights, leaves = torch.randn_like(found), [numbers, *source.parameters()]
    mine = torch.autograd.grad((found * weights).sum(), leaves)
    theirs = torch.autograd.grad((expected * weights).sum(), leaves)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-11)


def test_fields_keep_the_order_of_the_schema_and_read_their_own_numbers():
    source = schema_vectors(SCHEMA, 5, 2, init=NormalInit(std=1.0))
    batch = batch_of()
    found = source(batch)
    assert found.shape == (2, 5, 5, 5)
    for place, field in enumerate(SCHEMA.fields):
        changed = batch.numbers.clone()
        if isinstance(field, Numeric):
            changed[:, SCHEMA.number_columns[field.name]] += 1.0
            other = source(FeatureBatch(batch.ids, changed, batch.dense, batch.labels))
            moved = (other != found).any(dim=3).all(dim=1).all(dim=0)
            assert moved.tolist() == [number == place for number in range(5)]
    plain = source.sources[-1]
    torch.testing.assert_close(found[:, :, 2], batch.numbers[:, 1, None] * plain.weight[:, :1])


def test_shares_sharpen_with_a_low_temperature_and_first_order_weights_are_one_a_number():
    fields = [Numeric(name="n", meta_embeddings=4, temperature=t) for t in (100.0, 1e-3)]
    entropies = []
    for field in fields:
        torch.manual_seed(0)
        source = MetaEmbeddings(Schema(fields=(field,)), [field], 2)
        shares = source.assignment(torch.randn(50, 1))
        torch.testing.assert_close(shares.sum(-1), torch.ones(1, 50, 1))
        entropies.append(float(-(shares * shares.clamp(min=1e-30).log()).sum(-1).mean().detach()))
    assert entropies[0] > 1.38
    assert entropies[1] < 0.05
    assert LinearTerm(SCHEMA).vectors.sources[-1].weight.shape == (1, 4, 1)


def test_a_bump_in_a_number_is_learned_by_a_mixture_and_not_by_a_line():
    """Labels are 1 in the middle of the range: a number times one vector cannot say so to a linear head."""
    numbers = torch.linspace(-2, 2, 200)[:, None]
    batch = FeatureBatch(
        torch.zeros(200, 0, dtype=torch.int64), numbers, torch.zeros(200, 0), (numbers.abs() < 0.7).float()
    )
    losses = []
    for number in (0, 8):
        torch.manual_seed(0)
        schema = Schema(fields=(Numeric(name="n", meta_embeddings=number),))
        source, head = schema_vectors(schema, 4, init=NormalInit(std=0.1)), torch.nn.Linear(4, 1)
        optimizer = torch.optim.Adam([*source.parameters(), *head.parameters()], lr=0.05)
        for _ in range(150):
            optimizer.zero_grad()
            loss = F.binary_cross_entropy_with_logits(head(source(batch)[0, :, 0]), batch.labels)
            loss.backward()
            optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 0.6
    assert losses[1] < 0.3


def test_what_cannot_be_built_is_named():
    with pytest.raises(
        ValueError, match="^field 'n': meta_embeddings must not be negative and temperature above 0, got"
    ):
        Numeric(name="n", temperature=0.0)
    mixed = [field for group in soft_groups(SCHEMA) for field in group]
    with pytest.raises(ValueError, match="^fields must have one number of meta-embeddings and one temperature, got"):
        MetaEmbeddings(SCHEMA, mixed, 3)
