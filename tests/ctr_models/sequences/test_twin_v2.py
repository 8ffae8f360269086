"""TWIN-V2: clusters against a loop that splits them one at a time, attention against a loop over clusters."""

import math

import pytest
import torch

from ctr_models.sequences.clusters import cluster_means, hierarchical_clusters
from ctr_models.sequences.multi_head import MultiHeadConfig
from ctr_models.sequences.twin import TWINConfig
from ctr_models.sequences.twin_v2 import TWINV2, TWINV2Config
from tests.ctr_models.sequences import textbook
from tests.ctr_models.sequences.histories import TABLES, agree, build, padded, rows, sequence
from tests.ctr_models.sequences.test_twin import cross_biases

HEADS = MultiHeadConfig(num_heads=2, attention_dim=6)
TWIN_OF = TWINConfig(top_k=2, attention=HEADS)


def split_in_two(members, iterations):
    """Two-means of a list of vectors, from the last one and the one farthest from it."""

    def side_of(left, right):
        return [bool((m - right).square().sum() < (m - left).square().sum()) for m in members]

    left = members[-1]
    side = side_of(left, max(members, key=lambda member: float((member - left).square().sum())))
    for _ in range(iterations):
        halves = [[m for m, right in zip(members, side, strict=True) if right == want] for want in (False, True)]
        side = side_of(*(sum(half) / len(half) if half else torch.zeros_like(members[0]) for half in halves))
    return side


def clusters_of(events, config):
    """The events' cluster numbers, each cluster split by itself."""
    numbers = [0] * len(events)
    for _ in range(config.num_levels):
        doubled = [2 * number for number in numbers]
        for number in set(numbers):
            places = [place for place, own in enumerate(numbers) if own == number]
            if len(places) > config.max_size:
                side = split_in_two([events[place].detach().float() for place in places], config.iterations)
                for place, right in zip(places, side, strict=True):
                    doubled[place] += int(right)
        numbers = doubled
    return numbers


CONFIGS = [
    TWINV2Config(num_levels=3, max_size=1, twin=TWIN_OF),
    TWINV2Config(num_levels=2, max_size=2, iterations=0, twin=TWINConfig(top_k=3, cross_parts=0, attention=HEADS)),
    TWINV2Config(num_levels=1, max_size=3, size_aware=False, twin=TWIN_OF),
    TWINV2Config(num_levels=0, twin=TWIN_OF),
]


def assign(given, config):
    sizes = {"num_levels": config.num_levels, "max_size": config.max_size, "iterations": config.iterations}
    return hierarchical_clusters(given.events, given.mask, **sizes)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_clusters_equal_the_loop_over_clusters(config, seed):
    given = sequence(seed)
    found = assign(given, config)
    for table in range(TABLES):
        for row, real in enumerate(given.mask):
            assert found[table, row][real].tolist() == clusters_of(given.events[table, row][real], config)


@pytest.mark.parametrize("config", CONFIGS)
def test_twin_v2_equals_the_loop(config):
    module = build(TWINV2, config)
    attention = module.twin.attention

    def reference(table, target, events, row):
        numbers = clusters_of(events, config)
        groups = [[e for e, own in zip(events, numbers, strict=True) if own == n] for n in sorted(set(numbers))]
        means = [sum(group) / len(group) for group in groups]
        biases = cross_biases(module.twin, table, means)
        if config.size_aware:
            biases = [[b + math.log(len(g)) for b, g in zip(head, groups, strict=True)] for head in biases]
        scores = textbook.head_scores(attention.long, table, target, means, biases)
        found = textbook.best([sum(pair) / len(pair) for pair in zip(*scores, strict=True)], config.twin.top_k)
        chosen = [[head[place] for place in found] for head in biases]
        return textbook.outputs(attention, table, target, means, found, chosen)

    agree(module, reference)


def test_a_cluster_of_equal_events_weighs_as_much_as_its_events():
    config = TWINV2Config(num_levels=3, max_size=1, twin=TWINConfig(top_k=99, cross_parts=0, attention=HEADS))
    module, given = build(TWINV2, config), rows(sequence(), [0])
    events = given.events[:, :, [0, 0, 0, 1, 1, 2, 3]]
    given = type(given)(given.target, events, given.mask, given.target_ids, given.event_ids)
    plain = module.twin.attention(given, events, given.mask.expand(TABLES, -1, -1))
    torch.testing.assert_close(module(given).vectors, plain)


def test_far_groups_of_events_are_found():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 20.0], [30.0, 30.0]])
    torch.manual_seed(0)
    events = (centres[torch.arange(16) % 4] + 0.1 * torch.randn(16, 2)).view(1, 1, 16, 2)
    mask = torch.ones(1, 16, dtype=torch.bool)
    found = hierarchical_clusters(events, mask, num_levels=3, max_size=4, iterations=2)[0, 0].tolist()
    assert [found[place % 4] for place in range(16)] == found
    assert len(set(found)) == 4


def test_small_clusters_stay_whole_and_equal_events_together():
    given = rows(sequence(), [0])
    same = type(given)(
        given.target, given.events[:, :, :1].expand(-1, -1, 7, -1), given.mask, given.target_ids, given.event_ids
    )
    assert assign(same, CONFIGS[0]).unique().tolist() == [0]
    assert hierarchical_clusters(
        given.events, given.mask, num_levels=3, max_size=7, iterations=1
    ).unique().tolist() == [0]


def test_padding_changes_neither_clusters_nor_means():
    given = sequence()
    wide = padded(given, 5, noise=1e3)
    found, wider = assign(given, CONFIGS[0]), assign(wide, CONFIGS[0])
    assert torch.equal(wider[:, :, 5:] * given.mask, found * given.mask)
    for one, other in zip(
        cluster_means(wide.events, wide.mask, wider, 8), cluster_means(given.events, given.mask, found, 8), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_sizes_count_every_event_once():
    given = sequence()
    clusters = cluster_means(given.events, given.mask, assign(given, CONFIGS[0]), 8)
    assert clusters.sizes.sum(2).tolist() == [given.mask.sum(1).tolist()] * TABLES


def test_stored_clusters_give_what_the_events_give():
    module, given = build(TWINV2, CONFIGS[0]), sequence()
    stored = module.cluster(given)
    torch.testing.assert_close(module.attend(given, stored).vectors, module(given).vectors)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_levels": -1}, "num_levels must be at least 0, got -1"),
        ({"max_size": 0}, "max_size must be at least 1, got 0"),
        ({"iterations": -1}, "iterations must be at least 0, got -1"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TWINV2Config(**options)
