"""HSTU against one masked attention over history and candidates together, and its cache."""

import itertools

import pytest
import torch

from ctr_models.sequences.hstu import BLOCK, HSTU, HSTUConfig, causal_attention, causal_attention_flops
from tests.ctr_models.sequences.histories import LENGTHS, TABLES, WIDTH, agree, build, rows, sequence
from tests.ctr_models.sequences.test_bst import normalised

CONFIGS = [
    HSTUConfig(num_layers=1, num_heads=1, query_dim=3, value_dim=5, max_length=7),
    HSTUConfig(num_layers=3, num_heads=2, query_dim=4, value_dim=3, max_length=50),
]


def silu(values):
    return values * torch.sigmoid(values)


def joint(module, table, events, candidates):
    """Events, then candidates in one sequence: position i sees j when j is an event not after i, or i itself."""
    config, sequence_of = module.config, [*events, *candidates]
    for layer in module.layers:
        gates, values, queries, keys = [], [], [], []
        for vector in sequence_of:
            inner = (
                normalised(vector, layer.input_norm, table) @ layer.project.weight[table] + layer.project.bias[table]
            )
            parts = silu(inner).split([layer.values, layer.values, layer.queries, layer.queries])
            for store, part in zip((gates, values, queries, keys), parts, strict=True):
                store.append(part.view(config.num_heads, -1))
        results = []
        for i, vector in enumerate(sequence_of):
            seen = [j for j in range(i + 1) if j < len(events) or j == i]
            heads = []
            for head in range(config.num_heads):
                scores = [queries[i][head] @ keys[j][head] / config.query_dim**0.5 for j in seen]
                weights = [silu(score) / config.max_length for score in scores]
                heads.append(sum(w * values[j][head] for w, j in zip(weights, seen, strict=True)))
            gated = normalised(torch.cat(heads), layer.output_norm, table) * gates[i].flatten()
            results.append(vector + gated @ layer.output.weight[table] + layer.output.bias[table])
        sequence_of = results
    return sequence_of[len(events) :]


@pytest.mark.parametrize("config", CONFIGS)
def test_hstu_equals_masked_attention_over_the_joint_sequence(config):
    module = build(HSTU, config)

    def reference(table, target, events, row):
        if not len(events):
            return torch.zeros(1, WIDTH, dtype=torch.float64)
        return torch.stack(joint(module, table, events, [target]))

    agree(module, reference)


@pytest.mark.parametrize("config", CONFIGS)
def test_cached_candidates_equal_the_joint_sequence(config):
    module, given = build(HSTU, config), sequence()
    candidates = torch.randn(TABLES, len(LENGTHS), 4, WIDTH, dtype=torch.float64)
    found = module.score(module.encode(given.events, given.mask), candidates)
    for table, row in itertools.product(range(TABLES), range(len(LENGTHS))):
        events = given.events[table, row][given.mask[row]]
        expected = torch.stack(joint(module, table, events, candidates[table, row]))
        torch.testing.assert_close(found[table, row], expected)


def test_cached_forward_equals_full_forward_for_every_candidate():
    module, given = build(HSTU, CONFIGS[1]), sequence()
    user = rows(given, [0])
    cache = module.encode(user.events, user.mask)
    together = module.score(cache, given.target.unsqueeze(1)).squeeze(1)
    for row in range(len(LENGTHS)):
        same = type(given)(
            given.target[:, row : row + 1],
            *(getattr(user, name) for name in ("events", "mask")),
            given.target_ids[row : row + 1],
            user.event_ids,
        )
        torch.testing.assert_close(together[:, row : row + 1], module(same).vectors[:, :, 0])


def test_candidates_do_not_see_each_other():
    module, given = build(HSTU, CONFIGS[1]), rows(sequence(), [0])
    cache = module.encode(given.events, given.mask)
    candidates = torch.randn(TABLES, 1, 6, WIDTH, dtype=torch.float64)
    all_of_them, order = module.score(cache, candidates), [3, 0, 5, 1, 4, 2]
    torch.testing.assert_close(module.score(cache, candidates[:, :, order]), all_of_them[:, :, order])
    torch.testing.assert_close(module.score(cache, candidates[:, :, [4]]), all_of_them[:, :, [4]])


def test_events_see_no_later_event():
    module, given = build(HSTU, CONFIGS[1]), rows(sequence(), [0])
    changed = given.events.clone()
    changed[:, :, -1] = given.events[:, :, 0]
    for one, other in zip(module.encode(changed, given.mask), module.encode(given.events, given.mask), strict=True):
        for new, old in zip(one, other, strict=True):
            torch.testing.assert_close(new[:, :, :-1], old[:, :, :-1])
            assert not torch.allclose(new[:, :, -1], old[:, :, -1])


@pytest.mark.parametrize("length", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
def test_blocks_of_queries_equal_one_masked_product(length):
    torch.manual_seed(0)
    shapes = ((1, 2, length, 2, 3), (1, 2, length, 2, 3), (1, 2, length, 2, 4))
    query, key, value = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    scores = torch.einsum("tbqhd,tbkhd->tbhqk", query, key)
    causal = torch.arange(length)[:, None] >= torch.arange(length)
    expected = torch.einsum("tbhqk,tbkhd->tbqhd", silu(scores) * causal, value)
    found = causal_attention(query, key, value)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    found_gradients = torch.autograd.grad((found * weights).sum(), (query, key, value))
    torch.testing.assert_close(found_gradients, torch.autograd.grad((expected * weights).sum(), (query, key, value)))


def test_flops_of_causal_attention():
    per_layer = [causal_attention_flops(n, num_heads=4, query_dim=64, value_dim=64) for n in (200, 20_000)]
    assert per_layer == [512 * 200**2, 512 * 20_000**2]  # 20 MFLOP, 205 GFLOP at 256 numbers in all
    assert causal_attention_flops(10, num_heads=1, query_dim=3, value_dim=5) == 2 * (3 + 5) * 100 // 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"num_heads": 0}, "num_heads must be at least 1, got 0"),
        ({"query_dim": 0}, "query_dim must be at least 1, got 0"),
        ({"value_dim": 0}, "value_dim must be at least 1, got 0"),
        ({"max_length": 0}, "max_length must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        HSTUConfig(**options)
