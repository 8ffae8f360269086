"""The benchmark of the prefix constraint: its forms agree, and a form that does not is found out."""

from types import ModuleType

import pytest
import torch

from tests.scripts.loading import load


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return load("bench_trie")


def test_every_form_of_the_constraint_is_measured_beside_ours(bench: ModuleType) -> None:
    found = bench.measure(bench.case(300, seed=1), repeats=1)
    assert [(line.what, line.against) for line in found] == [
        ("step, 300 items", "dictionary"),
        ("step, 300 items", "broadcast"),
        ("step with seen items, 300 items", "dictionary without them"),
    ]


def test_the_forms_give_the_mask_of_the_trie(bench: ModuleType) -> None:
    given = bench.case(300, seed=2)
    ours = given.trie.mask(bench.DEPTH, bench.nodes_of(given.trie, given.prefixes))
    assert torch.equal(ours, bench.by_dictionary(bench.dictionary(given.table), given.prefixes))
    assert torch.equal(ours, bench.by_broadcast(given.items, given.prefixes))
    assert bool(ours.any(1).all())


def test_a_form_with_another_answer_stops_the_benchmark(bench: ModuleType) -> None:
    with pytest.raises(RuntimeError, match="broadcast and the trie disagree; nothing was timed"):
        bench.check("broadcast", torch.ones(2, 2, dtype=torch.bool), torch.zeros(2, 2, dtype=torch.bool))
