"""SDIM against colliding signs counted one by one; bucket tables against the direct form."""

import pytest
import torch

from ctr_models.sequences.buckets import bucket_ids, build_table
from ctr_models.sequences.sdim import SDIM, SDIMConfig
from tests.ctr_models.sequences.histories import DIM, LENGTHS, PARTS, TABLES, WIDTH, agree, build, rows, sequence

CONFIGS = [
    SDIMConfig(bits=12, group_size=3),
    SDIMConfig(bits=6, group_size=1, pooling="unit"),
    SDIMConfig(bits=8, group_size=2, hash_parts=1, target_product=True, seed=5),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_sdim_equals_the_loop(config):
    module = build(SDIM, config)
    width = WIDTH if config.hash_parts is None else config.hash_parts * DIM

    def reference(table, target, events, row):
        planes, groups = module.hash.planes[table], config.bits // config.group_size
        total = torch.zeros_like(target)
        for group in range(groups):
            own = range(group * config.group_size, (group + 1) * config.group_size)
            signs = [bool(target[:width] @ planes[:, bit] > 0) for bit in own]
            inside = [e for e in events if [bool(e[:width] @ planes[:, bit] > 0) for bit in own] == signs]
            if inside:
                length = len(inside) if config.pooling == "mean" else sum(inside).square().sum().sqrt()
                total = total + sum(inside) / length
        pooled = total / groups
        return torch.stack([pooled, pooled * target] if config.target_product else [pooled])

    agree(module, reference)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_table_a_user_gives_what_the_history_gives(config):
    module, given = build(SDIM, config), sequence()
    torch.testing.assert_close(module.read(module.table(given), given.target).vectors, module(given).vectors)


def test_one_user_serves_many_candidates():
    module, given = build(SDIM, SDIMConfig(bits=12)), sequence()
    table = module.table(rows(given, [0]))
    together = module.read(table, given.target).vectors
    for row in range(len(LENGTHS)):
        alone = module.read(table, given.target[:, row : row + 1]).vectors
        torch.testing.assert_close(together[:, row : row + 1], alone)


def test_a_table_is_of_fixed_size_and_takes_new_events_and_lets_old_ones_go():
    module, given = build(SDIM, SDIMConfig(bits=12)), sequence()
    whole, mask = module.table(given), given.mask
    assert whole.sums.shape == (TABLES, len(LENGTHS), 4, 8, WIDTH)
    buckets = module.buckets(given.events)
    newest = torch.zeros_like(mask)
    newest[:, -1] = mask[:, -1]
    appended = build_table(buckets, given.events, newest, 8)
    before = build_table(buckets, given.events, mask & ~newest, 8)
    for one, other in zip(before.plus(appended), whole, strict=True):
        torch.testing.assert_close(one, other)
    for one, other in zip(whole.minus(appended), before, strict=True):
        torch.testing.assert_close(one, other)


def test_buckets_are_binary_numbers_of_the_signs_of_a_group():
    signs = torch.tensor([[[True, False, False, True, True, True]]])
    assert bucket_ids(signs, 3).tolist() == [[[1, 7]]]
    assert bucket_ids(signs, 1).tolist() == [[[1, 0, 0, 1, 1, 1]]]


def test_an_event_like_the_candidate_collides_in_every_group():
    module, given = build(SDIM, SDIMConfig()), sequence()
    alone = rows(given, [3])
    alone.events[:, :, -1] = alone.target
    torch.testing.assert_close(module(alone).vectors[:, :, 0], alone.target)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 0}, "bits must be at least 1, got 0"),
        ({"group_size": 0}, "group_size must be at least 1, got 0"),
        ({"bits": 10}, "bits 10 cannot be shared by group_size 3; choose a divisor"),
        ({"bits": 34, "group_size": 17}, "group_size must be at most 16, got 17"),
        ({"hash_parts": 0}, "hash_parts must be at least 1, got 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SDIMConfig(**options)


def test_no_more_parts_are_hashed_than_there_are():
    with pytest.raises(ValueError, match="hash_parts 4 is more than the 3 parts of a vector"):
        SDIM(SDIMConfig(hash_parts=4), 1, PARTS, DIM)
