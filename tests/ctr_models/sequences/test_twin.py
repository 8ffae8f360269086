"""TWIN against a loop over heads and events, and what makes it TWIN: one score for both stages."""

import dataclasses

import pytest
import torch

from ctr_models.sequences.multi_head import MultiHeadConfig
from ctr_models.sequences.twin import TWIN, TWINConfig
from tests.ctr_models.sequences import textbook
from tests.ctr_models.sequences.histories import DIM, PARTS, agree, build, sequence

HEADS = MultiHeadConfig(num_heads=2, attention_dim=6)
CONFIGS = [
    TWINConfig(top_k=3, attention=HEADS),
    TWINConfig(top_k=2, cross_parts=2, attention=dataclasses.replace(HEADS, short_length=2, target_product=True)),
    TWINConfig(top_k=50, cross_parts=0, attention=HEADS),
]


def cross_biases(module, table, events):
    """(K_c W_c) beta of every event, a list a head."""
    heads, cross = module.config.attention.num_heads, module.config.cross_parts
    if not cross:
        return [[0.0] * len(events)] * heads
    compress, beta = module.cross.compress[table], module.cross.beta[table]
    numbers = [[event.view(PARTS, DIM)[part - cross] @ compress[part] for part in range(cross)] for event in events]
    return [[sum(beta[head, part] * row[part] for part in range(cross)) for row in numbers] for head in range(heads)]


def reference_of(module):
    def reference(table, target, events, row):
        biases = cross_biases(module, table, events)
        scores = textbook.head_scores(module.attention.long, table, target, events, biases)
        found = textbook.best([sum(pair) / len(pair) for pair in zip(*scores, strict=True)], module.config.top_k)
        chosen = [[head[place] for place in found] for head in biases]
        return textbook.outputs(module.attention, table, target, events, found, chosen)

    return reference


@pytest.mark.parametrize("config", CONFIGS)
def test_twin_equals_the_loop(config):
    module = build(TWIN, config)
    agree(module, reference_of(module))


def test_the_search_ranks_by_the_scores_that_the_attention_uses():
    module, given = build(TWIN, CONFIGS[0]), sequence()
    found = module.search(given)
    scores = module.scores(given.target, given.events).mean(2)
    for table in range(2):
        assert found.indices[table, 0].tolist() == scores[table, 0].argsort(descending=True)[:3].tolist()


@pytest.mark.parametrize("config", CONFIGS)
def test_stored_keys_give_the_scores_of_every_candidate(config):
    module, given = build(TWIN, config), sequence()
    candidates = torch.stack([given.target, given.target.roll(1, 1)], 2)
    found = module.scores_by_keys(candidates, module.keys(given.events))
    for number in range(2):
        expected = module.scores(candidates[:, :, number], given.events)
        torch.testing.assert_close(found[:, :, :, number], expected)


def test_gathered_attention_equals_masked_attention_over_all_events():
    module, given = build(TWIN, CONFIGS[0]), sequence()
    found = module.search(given)
    kept = torch.zeros(2, *given.mask.shape, dtype=torch.bool).scatter(2, found.indices, found.mask)
    masked = module.attention(given, given.events, kept, module.cross(given.events))
    torch.testing.assert_close(masked, module(given).vectors)


def test_queries_and_keys_do_not_read_cross_features_and_values_do():
    module, given = build(TWIN, CONFIGS[0]), sequence()
    with torch.no_grad():
        module.cross.beta.zero_()
    changed = given.events.clone()
    changed[..., -DIM:] += 1.0
    torch.testing.assert_close(module.scores(given.target, changed), module.scores(given.target, given.events))
    other = module(dataclasses.replace(given, events=changed)).vectors
    assert not torch.allclose(other[:, 0], module(given).vectors[:, 0])


def test_as_many_events_as_there_are_make_it_plain_attention():
    module, given = build(TWIN, TWINConfig(top_k=7, cross_parts=0, attention=HEADS)), sequence()
    plain = module.attention(given, given.events, given.mask.expand(2, -1, -1))
    torch.testing.assert_close(module(given).vectors, plain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"cross_parts": -1}, "cross_parts must be at least 0, got -1"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TWINConfig(**options)


def test_cross_parts_leave_something_to_attend_by():
    with pytest.raises(ValueError, match="cross_parts 3 leaves no part of 3 to queries and keys"):
        TWIN(TWINConfig(cross_parts=3), 1, PARTS, DIM)
