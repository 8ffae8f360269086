"""SIM's two searches and its auxiliary vectors against loops over events."""

import dataclasses

import pytest
import torch

from ctr_models.sequences.hard import hard_search
from ctr_models.sequences.multi_head import MultiHeadConfig
from ctr_models.sequences.sim import SIM, HardSearchConfig, SIMConfig, SoftSearchConfig
from tests.ctr_models.sequences import textbook
from tests.ctr_models.sequences.histories import DIM, PARTS, agree, build, sequence

HEADS = MultiHeadConfig(num_heads=2, attention_dim=6)
BOTH = dataclasses.replace(HEADS, short_length=2, target_product=True)


@pytest.mark.parametrize("field", [0, 1])
@pytest.mark.parametrize("attention", [HEADS, BOTH])
def test_hard_search_attends_to_the_newest_events_of_the_same_id(field, attention):
    config = SIMConfig(search=HardSearchConfig(field=field), top_k=2, attention=attention)
    module, given = build(SIM, config), sequence(gradient=True)

    def reference(table, target, events, row):
        ids = given.event_ids[row, :, field][given.mask[row]].tolist()
        same = [place for place, found in enumerate(ids) if found == given.target_ids[row, field]]
        return textbook.outputs(module.attention, table, target, events, same[-2:])

    agree(module, reference, given)


def products(module, given, table, target, events, row):
    if module.soft.query is None:
        own = given.attention_events[table, row][given.mask[row]]
        return [given.attention_target[table, row] @ event / own.shape[1] ** 0.5 for event in own]
    query, key = module.soft.query.weight[table], module.soft.key.weight[table]
    return [(target @ query) @ (event @ key) / query.shape[1] ** 0.5 for event in events]


SOFT = [
    (SoftSearchConfig(search_dim=5), HEADS),
    (SoftSearchConfig(search_dim=3, pooling="sum"), BOTH),
    (SoftSearchConfig(embeddings="tables"), BOTH),
    (SoftSearchConfig(embeddings="tables", pooling="sum"), HEADS),
]


@pytest.mark.parametrize(("search", "attention"), SOFT)
def test_soft_search_attends_to_the_largest_inner_products(search, attention):
    module = build(SIM, SIMConfig(search=search, top_k=3, attention=attention))
    given = sequence(gradient=True, attention_width=5)

    def reference(table, target, events, row):
        found = textbook.best(products(module, given, table, target, events, row), 3)
        return textbook.outputs(module.attention, table, target, events, found)

    agree(module, reference, given)


@pytest.mark.parametrize(("search", "attention"), SOFT)
def test_auxiliary_vectors_pool_every_event_by_its_search_score(search, attention):
    module = build(SIM, SIMConfig(search=search, top_k=3, attention=attention)).train()
    given = sequence(gradient=True, attention_width=5)

    def reference(table, target, events, row):
        scores = products(module, given, table, target, events, row)
        weights = textbook.softmax(scores) if search.pooling == "softmax" and scores else scores
        pooled = sum((w * e for w, e in zip(weights, events, strict=True)), start=torch.zeros_like(target))
        return torch.stack([pooled, pooled * target] if attention.target_product else [pooled])

    agree(module, reference, given, auxiliary=True)


def test_a_search_of_its_own_is_trained_by_the_auxiliary_vectors_alone():
    config = SIMConfig(search=SoftSearchConfig(search_dim=5), top_k=3, attention=HEADS)
    module = build(SIM, config).train()
    output = module(sequence())
    weights = [module.soft.query.weight, module.soft.key.weight]
    output.vectors.sum().backward(retain_graph=True)
    assert all(weight.grad is None for weight in weights)
    output.auxiliary.square().sum().backward()
    assert all((weight.grad != 0).any() for weight in weights)


def test_negative_scores_come_before_padding():
    module = build(SIM, SIMConfig(search=SoftSearchConfig(embeddings="tables"), top_k=3, attention=HEADS))
    given = sequence(attention_width=2)
    given = dataclasses.replace(
        given,
        attention_target=torch.ones_like(given.attention_target),
        attention_events=given.mask.unsqueeze(-1) * -given.attention_events.abs(),
    )
    found = module.search(given)
    for row, real in enumerate(given.mask):
        count = min(3, int(real.sum()))
        assert found.mask[:, row].sum(1).tolist() == [count, count]
        assert real[found.indices[:, row][found.mask[:, row]]].all()


def test_padding_and_unknown_ids_match_nothing():
    ids = torch.tensor([[[5, 0], [6, 1], [7, 2], [8, 2]]])
    mask = torch.ones(1, 4, dtype=torch.bool)
    for own, expected in ((0, 0), (1, 0), (2, 2), (3, 0)):
        found = hard_search(torch.tensor([[9, own]]), ids, mask, field=1, top_k=3)
        assert int(found.mask.sum()) == expected


def test_hard_search_in_a_field_that_is_not_there_is_refused():
    module = SIM(SIMConfig(search=HardSearchConfig(field=2)), 2, PARTS, DIM).double()
    message = "hard search looks at history field 2 but events have 2, counted from 0; name one more field"
    with pytest.raises(ValueError, match=message):
        module(sequence())


def test_own_tables_that_are_not_there_are_refused():
    module = SIM(SIMConfig(search=SoftSearchConfig(embeddings="tables")), 2, PARTS, DIM).double()
    with pytest.raises(ValueError, match="soft search with embeddings 'tables' needs attention tables; or choose"):
        module(sequence())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SIMConfig(top_k=0), "top_k must be at least 1, got 0"),
        (lambda: HardSearchConfig(field=-1), "field must be at least 0, got -1"),
        (lambda: SoftSearchConfig(search_dim=0), "search_dim must be at least 1, got 0"),
    ],
)
def test_options_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
