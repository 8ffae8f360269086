"""Beam search finds what scoring every item finds, only ids that exist, and says when it is exact."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llm_rec.generative.search import beam_search, exact_width, free_beam_search, score_all
from semantic_ids.code_table import CodeTable
from tests.llm_rec.generative.worlds import CONFIGS, HISTORY, USERS, model, table


def naive_scores(built, history, user):
    """One item at a time, one probability at a time, from the logits of whole prefixes."""
    scores = [-np.inf]
    for item in range(1, built.num_items + 1):
        scores.append(built(history[None], user[None], torch.tensor([item])).double().sum().item())
    return np.array(scores)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_scoring_all_items_is_scoring_each(config):
    built = model(config)
    found = score_all(built, HISTORY, USERS, chunk=7)
    assert found.shape == (4, 31)
    for row in (0, 2):
        np.testing.assert_allclose(found[row].numpy(), naive_scores(built, HISTORY[row], USERS[row]), atol=1e-4)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("seed", range(3))
def test_a_wide_enough_search_is_brute_force(config, seed):
    built = model(config, table(seed=seed), seed=seed)
    beams = max(exact_width(built.trie), 10)
    found = beam_search(built, HISTORY, USERS, beams=beams)
    best = score_all(built, HISTORY, USERS).topk(10)
    assert torch.equal(found.items[:, :10], best.indices)
    assert torch.allclose(found.scores[:, :10], best.values, atol=1e-4)


def test_what_scores_above_the_bound_is_exact_at_any_width():
    proven = 0
    for seed, beams in enumerate([1, 2, 3, 5, 8, 12]):
        built = model(CONFIGS["positions"], table(seed=seed), seed=seed)
        found = beam_search(built, HISTORY, USERS, beams=beams)
        best = score_all(built, HISTORY, USERS).sort(descending=True)
        for row in range(4):
            sure = int((found.scores[row] > found.bound[row] + 1e-5).sum())
            assert found.items[row, :sure].tolist() == best.indices[row, :sure].tolist()
            missing = [v for i, v in zip(best.indices[row, :-1].tolist(), best.values[row, :-1].tolist(), strict=True)
                       if i not in found.items[row].tolist()]  # fmt: skip
            assert max(missing) <= found.bound[row] + 1e-5
            proven += sure
    assert proven > 0


def test_a_search_of_exact_width_drops_no_prefix():
    built = model(CONFIGS["tiger"])
    found = beam_search(built, HISTORY, USERS, beams=30)
    assert exact_width(built.trie) < 30
    assert (found.bound == -torch.inf).all()


def test_exact_width_is_the_widest_level_before_the_last():
    codes = CodeTable.from_codes(np.array([[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 0, 1], [1, 0, 2]]), (2, 2, 3))
    assert exact_width(model(CONFIGS["tiger"], codes).trie) == 3
    assert exact_width(model(CONFIGS["tiger"], CodeTable.from_codes(np.arange(4)[:, None], (4,))).trie) == 1


@pytest.mark.parametrize("beams", [1, 4, 100])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_item_exists_and_comes_once_in_order_of_its_own_score(config, beams):
    built = model(config)
    found = beam_search(built, HISTORY, USERS, beams=beams)
    everything = score_all(built, HISTORY, USERS)
    for row in range(4):
        items = [item for item in found.items[row].tolist() if item]
        assert len(items) == len(set(items)) == min(beams, 30)
        assert items == found.items[row, : len(items)].tolist()
        assert torch.allclose(everything[row, items], found.scores[row, : len(items)], atol=1e-4)
        assert (found.scores[row, len(items) :] == -torch.inf).all()
    assert (found.scores[:, 1:] <= found.scores[:, :-1]).all()


def test_seen_items_are_left_out_and_the_rest_keeps_its_order():
    built = model(CONFIGS["tiger"])
    everything = score_all(built, HISTORY, USERS)
    seen = everything.topk(12).indices
    seen[1, 5:] = 0
    seen[2] = 0
    found = beam_search(built, HISTORY, USERS, beams=30, seen=seen)
    for row in range(4):
        left = everything[row].clone()
        left[seen[row]] = -torch.inf
        number = int((left > -torch.inf).sum())
        assert found.items[row, :number].tolist() == left.topk(number).indices.tolist()
        assert (found.items[row, number:] == 0).all()


def test_nothing_is_found_where_everything_was_seen():
    built = model(CONFIGS["tiger"])
    found = beam_search(built, HISTORY[:1], USERS[:1], beams=5, seen=torch.arange(1, 31)[None])
    assert found.items.eq(0).all()
    assert (found.scores == -torch.inf).all()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_free_search_wide_enough_for_everything_meets_every_item_in_order(config):
    codes = CodeTable.from_codes(np.array([[0, 1], [1, 0], [1, 2]]), (2, 3))
    built = model(replace(config, num_users=1 if config.num_users else 0), codes)
    history, users = torch.tensor([[1, 3]]), torch.tensor([2])
    width = built.vocabulary**2 if config.head == "vocabulary" else 6
    found = [item for item in free_beam_search(built, history, users, beams=width)[0].tolist() if item]
    assert found == score_all(built, history, users)[0, 1:].sort(descending=True).indices.add(1).tolist()


def test_a_free_search_tells_ids_that_no_item_has():
    codes = CodeTable.from_codes(np.array([[0, 1], [1, 0], [1, 2]]), (2, 3))
    built = model(replace(CONFIGS["positions"]), codes)
    found = free_beam_search(built, torch.tensor([[1, 3]]), torch.tensor([0]), beams=6)
    assert (found == 0).sum() == 3  # 2 x 3 ids, of which three are items


def test_recommend_gives_as_many_as_asked_and_leaves_the_mode():
    built = model(CONFIGS["tiger"]).train()
    best = built.recommend(HISTORY, USERS, None, 25)
    assert built.training
    found = beam_search(built.eval(), HISTORY, USERS, beams=25)
    assert torch.equal(best.rows, found.items)
    assert torch.equal(best.scores, found.scores.double())
    short = built.recommend(HISTORY, USERS, None, 40)
    assert short.rows.shape == (4, 40)
    assert (short.rows[:, 30:] == 0).all()


def test_a_search_without_beams_is_refused():
    with pytest.raises(ValueError, match="beams must be at least 1, got 0"):
        beam_search(model(CONFIGS["tiger"]), HISTORY, USERS, beams=0)


class Waits(TorchDispatchMode):
    """Remembers the operations by which a host waits for a device."""

    NAMES = ("item", "_local_scalar_dense", "nonzero", "unique", "_unique2", "is_nonzero", "masked_select")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in self.NAMES:
            self.found.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_no_step_waits_for_the_device(config):
    built = model(config)
    assert built.trie is not None  # built once, before
    with Waits() as waits:
        beam_search(built, HISTORY, USERS, beams=4, seen=HISTORY)
        free_beam_search(built, HISTORY, USERS, beams=4)
        built(HISTORY, USERS, torch.tensor([11, 12, 13, 14]))
    assert waits.found == []
    with Waits() as waits:
        HISTORY.sum().item()
    assert waits.found  # such a wait would have been seen


def test_the_operations_of_a_search_do_not_depend_on_users_or_beams():
    class Calls(TorchDispatchMode):
        number = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            Calls.number += 1
            return func(*args, **(kwargs or {}))

    built = model(CONFIGS["tiger"])
    assert built.trie is not None  # built once, before
    counts = []
    for rows, beams in ((4, 2), (4, 3), (16, 3)):
        Calls.number = 0
        with Calls():
            beam_search(built, HISTORY.repeat(rows // 4, 1), USERS.repeat(rows // 4), beams=beams)
        counts.append(Calls.number)
    assert counts[0] == counts[1] == counts[2]


@pytest.mark.gpu
def test_no_step_of_a_search_on_a_gpu_waits_and_finds_what_a_cpu_finds():
    built = model(CONFIGS["tiger"])
    expected = beam_search(built, HISTORY, USERS, beams=30, seen=HISTORY)
    built.cuda()
    history, users = HISTORY.cuda(), USERS.cuda()
    beam_search(built, history, users, beams=30, seen=history)  # the trie is built once
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = beam_search(built, history, users, beams=30, seen=history)
        free_beam_search(built, history, users, beams=4)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found.items.cpu()[:, :10], expected.items[:, :10])
    assert torch.allclose(found.scores.cpu(), expected.scores, atol=1e-3)
