"""LC-Rec's loop: last book only, colliding items only, never more than the rounds, groups as in a naive loop."""

import numpy as np
import pytest
import torch

from semantic_ids.code_table import CodeTable
from semantic_ids.collisions import resolve_by_sinkhorn
from semantic_ids.quantizers import RandomConfig, RQKMeansConfig, build_quantizer
from semantic_ids.sinkhorn import centred_costs, sinkhorn
from semantic_ids.vectors import seeded

COSTS = torch.rand(200, 16, generator=seeded(0), dtype=torch.float64)
CODES = np.stack([np.arange(200) % 12, COSTS.argmin(1).numpy()], 1)
TABLE = CodeTable.from_codes(CODES, (12, 16))


def costs(rows):
    return COSTS[torch.from_numpy(rows) - 1]


def test_one_round_equals_a_naive_loop_over_groups():
    expected = CODES.copy()
    for prefix in range(12):
        for code in range(16):
            members = np.flatnonzero((CODES[:, 0] == prefix) & (CODES[:, 1] == code))
            if len(members) > 1:
                price = COSTS[members]
                plan = sinkhorn(centred_costs(price, torch.zeros(len(members), dtype=torch.int64), 1))
                expected[members, 1] = plan.argmax(1).numpy()
    assert np.array_equal(resolve_by_sinkhorn(TABLE, costs, rounds=1).table.items, expected)


def test_collisions_vanish_within_the_rounds_and_the_rest_stays_put():
    resolved = resolve_by_sinkhorn(TABLE, costs)
    assert len(resolved.colliding) <= 21
    assert resolved.colliding[0] > 0
    assert min(resolved.colliding) < 0.3 * resolved.colliding[0]
    assert np.array_equal(resolved.table.items[:, 0], CODES[:, 0])
    counts = {tuple(row): n for row, n in zip(*np.unique(CODES, axis=0, return_counts=True), strict=True)}
    first = resolve_by_sinkhorn(TABLE, costs, rounds=1).table
    alone = np.array([counts[tuple(row)] == 1 for row in CODES])
    assert np.array_equal(first.items[alone], CODES[alone])


def test_equal_items_stay_equal_and_the_loop_ends():
    table = CodeTable.from_codes(np.zeros((4, 2), dtype=np.int64), (2, 16))
    resolved = resolve_by_sinkhorn(table, lambda rows: torch.ones(len(rows), 16))
    assert resolved.colliding == (4,) * 21
    assert not resolved.table.is_injective()
    assert resolved.table.with_digit().is_injective()


def test_result_does_not_depend_on_the_memory_bound(monkeypatch):
    whole = resolve_by_sinkhorn(TABLE, costs).table.codes
    monkeypatch.setattr("semantic_ids.collisions._CELLS", 64)
    assert np.array_equal(resolve_by_sinkhorn(TABLE, costs).table.codes, whole)


def test_a_quantizer_gives_the_costs():
    vectors = torch.randn(400, 6, generator=seeded(1)).numpy()
    quantizer = build_quantizer(RQKMeansConfig(num_codebooks=2, codebook_size=16), 6)
    quantizer.fit(vectors)
    table = CodeTable.from_codes(quantizer.encode(vectors), quantizer.codebook_sizes)

    def distances(rows):
        return quantizer.last_costs(vectors[rows - 1], table.codes[rows].astype(np.int64))

    resolved = resolve_by_sinkhorn(table, distances)
    assert min(resolved.colliding) < resolved.colliding[0]


def test_misuse_is_named():
    with pytest.raises(ValueError, match="the last book is a tiger digit; resolve the semantic codes before"):
        resolve_by_sinkhorn(TABLE.with_digit(), costs)
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        resolve_by_sinkhorn(TABLE, costs, rounds=0)
    with pytest.raises(ValueError, match="random codes have no distances to choose by"):
        build_quantizer(RandomConfig(), 2).last_costs(np.zeros((1, 2)), np.zeros((1, 3), dtype=np.int64))
