"""ETA against a count of differing signs and attention event by event; codes made once for a catalog."""

import dataclasses

import pytest
import torch

from ctr_models.sequences.eta import ETA, ETAConfig
from ctr_models.sequences.multi_head import MultiHeadConfig
from tests.ctr_models.sequences import textbook
from tests.ctr_models.sequences.histories import DIM, PARTS, WIDTH, agree, build, sequence

HEADS = MultiHeadConfig(num_heads=2, attention_dim=6)
CONFIGS = [
    ETAConfig(bits=9, top_k=3, attention=HEADS),
    ETAConfig(bits=70, top_k=4, attention=dataclasses.replace(HEADS, short_length=2, target_product=True)),
    ETAConfig(bits=33, top_k=99, hash_parts=1, attention=HEADS, seed=4),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_eta_equals_the_loop(config):
    module = build(ETA, config)
    width = WIDTH if config.hash_parts is None else config.hash_parts * DIM

    def reference(table, target, events, row):
        planes = module.hash.planes[table]
        own = [bool(target[:width] @ planes[:, bit] > 0) for bit in range(config.bits)]
        near = []
        for event in events:
            bits = [bool(event[:width] @ planes[:, bit] > 0) for bit in range(config.bits)]
            near.append(-sum(a != b for a, b in zip(own, bits, strict=True)))
        return textbook.outputs(module.attention, table, target, events, textbook.best(near, config.top_k))

    agree(module, reference)


def test_codes_of_a_catalog_made_once_give_the_same_events():
    module, given = build(ETA, ETAConfig(bits=40, top_k=3, hash_parts=1, attention=HEADS)), sequence()
    catalog = torch.zeros(2, 9, WIDTH, dtype=torch.float64)
    catalog[:, given.event_ids[:, :, 0]] = given.events
    catalog[:, given.target_ids[:, 0]] = given.target
    codes = module.codes(catalog)
    found = module.search(codes[:, given.target_ids[:, 0]], codes[:, given.event_ids[:, :, 0]], given.mask)
    torch.testing.assert_close(module.attend(given, found).vectors, module(given).vectors)


def test_the_same_vector_is_found_first():
    module, given = build(ETA, ETAConfig(bits=64, top_k=1, attention=HEADS)), sequence()
    events = given.events.clone()
    events[:, 0, 2] = given.target[:, 0]
    found = module.search(module.codes(given.target), module.codes(events), given.mask)
    assert found.indices[:, 0, 0].tolist() == [2, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 0}, "bits must be at least 1, got 0"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"hash_parts": 0}, "hash_parts must be at least 1, got 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ETAConfig(**options)


def test_no_more_parts_are_hashed_than_there_are():
    with pytest.raises(ValueError, match="hash_parts 4 is more than the 3 parts of a vector"):
        ETA(ETAConfig(hash_parts=4), 1, PARTS, DIM)
