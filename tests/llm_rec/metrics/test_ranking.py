"""Streamed ranking against brute force: same integers whatever the chunk, the batch, or the number of processes."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, distributed, multiprocessing

from llm_rec.data import Interactions, Split, leave_one_out
from llm_rec.errors import DataError
from llm_rec.metrics.exact import Candidates, Pairs, best_items, count_better, pair_scores
from llm_rec.metrics.ranking import Ranks, coverage, history_rows, per_target, rank_split


@dataclass(frozen=True)
class MeanRetriever:
    """User vector = mean of the history's item vectors (plus a bias vector for users without history)."""

    items: Tensor
    max_length: int = 6

    def user_vectors(self, history: Tensor) -> Tensor:
        real = (history > 0).to(self.items.dtype)
        return self.items[history].sum(1) / real.sum(1, keepdim=True).clamp(min=1) + 0.01

    def item_vectors(self) -> Tensor:
        return self.items


def small_log(num_users: int = 40, num_items: int = 60, seed: int = 0) -> Interactions:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 15, num_users)
    return Interactions(
        [str(u) for u in range(num_users)],
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        rng.integers(1, num_items + 1, lengths.sum()),
        None,
        num_items=num_items,
        catalog="test",
    )


def small_items(num_items: int = 60, dim: int = 7, duplicates: bool = True, seed: int = 0) -> Tensor:
    items = torch.randn(num_items + 1, dim, generator=torch.Generator().manual_seed(seed))
    if duplicates:
        items[31:51] = items[11:31]
        items[51:] = items[1]
    items[0] = 0
    return items


def brute_force(
    retriever: MeanRetriever, split: Split, exclude_seen: bool = True, candidates: np.ndarray | None = None
) -> tuple[list[int], list[int]]:
    """One target at a time: score everything in float64 by numpy, mask, count."""
    better, ties = [], []
    items = retriever.items.numpy()
    for event in split.test:
        user = int(np.searchsorted(split.log.offsets, event, side="right") - 1)
        history = split.log.items[split.log.offsets[user] : event]
        vector = retriever.user_vectors(torch.from_numpy(history[-retriever.max_length :])[None])[0]
        scores = pair_scores(
            vector[None], retriever.items, Pairs(torch.zeros(len(items), dtype=torch.int64), torch.arange(len(items)))
        ).numpy()
        np.testing.assert_allclose(scores, items.astype(np.float64) @ vector.double().numpy(), atol=1e-12)
        target = split.log.items[event]
        allowed = np.ones(len(items), dtype=bool) if candidates is None else candidates.copy()
        allowed[0] = False
        if exclude_seen:
            allowed[history[history != target]] = False
        if candidates is not None and not candidates[target]:
            better.append(int(candidates[1:].sum()))
            ties.append(0)
            continue
        allowed[target] = False
        better.append(int((scores[allowed] > scores[target]).sum()))
        ties.append(int((scores[allowed] == scores[target]).sum()))
    return better, ties


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
@pytest.mark.parametrize("item_chunk", [1, 13, 60, 4096, None])
def test_ranks_equal_brute_force_with_duplicate_items(exclude_seen, batch_size, item_chunk):
    split, retriever = leave_one_out(small_log()), MeanRetriever(small_items())
    ranks = rank_split(
        retriever, split, "test", exclude_seen=exclude_seen, batch_size=batch_size, item_chunk=item_chunk
    )
    better, ties = brute_force(retriever, split, exclude_seen)
    assert ranks.better.tolist() == better
    assert ranks.ties.tolist() == ties
    assert max(ties) > 0


def test_ranks_equal_brute_force_among_candidates_and_a_target_outside_is_a_miss():
    split, retriever = leave_one_out(small_log()), MeanRetriever(small_items())
    candidates = split.train_counts > 2
    ranks = rank_split(retriever, split, "test", candidates=candidates, item_chunk=9)
    better, ties = brute_force(retriever, split, candidates=candidates)
    assert (ranks.better.tolist(), ranks.ties.tolist()) == (better, ties)
    outside = ~candidates[split.log.items[split.test]]
    assert outside.any()
    assert (ranks.better[outside] == candidates[1:].sum()).all()


def test_validation_targets_see_only_what_came_before_them():
    split, retriever = leave_one_out(small_log()), MeanRetriever(small_items())
    mirrored = Split(
        log=split.log, train_ends=split.train_ends, validation=split.test, test=split.validation, leakage=None
    )
    ranks = rank_split(retriever, split, "validation")
    assert ranks.better.tolist() == brute_force(retriever, mirrored)[0]


def test_scores_that_a_float32_matmul_cannot_tell_apart_are_ordered_exactly():
    """Items that differ in the last bit of one coordinate: float32 scores collide or swap, the counts do not."""
    dim, number = 64, 300
    base = torch.rand(dim, generator=torch.Generator().manual_seed(3)) + 0.5
    items = base.repeat(number + 1, 1)
    for row in range(1, number + 1):
        for _ in range(row % 5):
            items[row, 17] = torch.nextafter(items[row, 17], torch.tensor(9.0))
    users = torch.rand(20, dim, generator=torch.Generator().manual_seed(4)) + 0.5
    targets = torch.arange(1, 21)
    pool = Candidates.of(items)
    level = np.arange(1, number + 1) % 5
    for chunk in (1, 7, 64, 300):
        counts = count_better(users, items[targets], pool.position[targets], pool, item_chunk=chunk)
        assert counts.better.tolist() == [int((level > t % 5).sum()) for t in range(1, 21)]
        assert counts.ties.tolist() == [int((level == t % 5).sum()) - 1 for t in range(1, 21)]


def test_pair_scores_do_not_depend_on_what_is_scored_beside_them():
    generator = torch.Generator().manual_seed(0)
    users, items = torch.randn(5, 50, generator=generator), torch.randn(400, 50, generator=generator)
    rows, cols = torch.arange(5).repeat_interleave(400), torch.arange(400).repeat(5)
    together = pair_scores(users, items, Pairs(rows, cols))
    alone = torch.cat([pair_scores(users, items, Pairs(rows[i : i + 1], cols[i : i + 1])) for i in range(0, 2000, 37)])
    assert torch.equal(together[::37], alone)
    torch.testing.assert_close(together.view(5, 400), users.double() @ items.double().T, atol=1e-12, rtol=0)


def test_a_constant_scorer_gets_chance_level():
    split, retriever = leave_one_out(small_log()), MeanRetriever(torch.zeros(61, 7))
    ranks = rank_split(retriever, split, "test", exclude_seen=False, item_chunk=16)
    assert (ranks.better == 0).all()
    assert (ranks.ties == 59).all()
    metrics = per_target(ranks, ks=(6,))
    np.testing.assert_allclose(metrics["recall@6"], 0.1)
    np.testing.assert_allclose(metrics["mrr"], (1 / np.arange(1, 61)).sum() / 60)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_are_ranked_as_float32(dtype):
    split = leave_one_out(small_log())
    items = small_items().to(dtype)

    @dataclass(frozen=True)
    class Fixed:
        max_length: int = 3

        def user_vectors(self, history: Tensor) -> Tensor:
            return items[history[:, 0]]

        def item_vectors(self) -> Tensor:
            return items

    @dataclass(frozen=True)
    class Upcast(Fixed):
        def user_vectors(self, history: Tensor) -> Tensor:
            return items[history[:, 0]].float()

        def item_vectors(self) -> Tensor:
            return items.float()

    one, other = rank_split(Fixed(), split, "test"), rank_split(Upcast(), split, "test")
    assert one.better.tolist() == other.better.tolist()


@pytest.mark.parametrize("item_chunk", [1, 10, 25, 4096])
def test_recommended_lists_equal_brute_force_and_break_ties_by_row(item_chunk):
    split, retriever = leave_one_out(small_log()), MeanRetriever(small_items())
    ranks = rank_split(retriever, split, "test", item_chunk=item_chunk, top_k=9, batch_size=16)
    zeros = torch.zeros(61, dtype=torch.int64)
    for place, event in enumerate(split.test):
        user = int(split.log.users_of(np.array([event]))[0])
        history = split.log.items[split.log.offsets[user] : event]
        vector = retriever.user_vectors(torch.from_numpy(history[-6:])[None])
        scores = pair_scores(vector, retriever.items, Pairs(zeros, torch.arange(61))).numpy()
        allowed = np.setdiff1d(np.arange(1, 61), history[history != split.log.items[event]])
        expected = allowed[np.lexsort((allowed, -scores[allowed]))][:9]
        assert ranks.recommended is not None
        assert ranks.recommended[place].tolist() == expected.tolist()


def test_best_items_of_a_constant_scorer_are_the_first_rows_and_short_lists_end_in_padding():
    pool = Candidates.of(torch.zeros(6, 3))
    seen = Pairs(torch.tensor([0, 0]), torch.tensor([0, 3]))
    for chunk in (1, 2, 5):
        best = best_items(torch.ones(2, 3), pool, 7, seen=seen, item_chunk=chunk)
        assert best.rows.tolist() == [[2, 3, 5, 0, 0, 0, 0], [1, 2, 3, 4, 5, 0, 0]]
        assert torch.isneginf(best.scores[0, 3:]).all()


def test_histories_are_the_last_events_right_padded():
    log = Interactions(["a", "b"], np.array([0, 4, 5]), np.array([1, 2, 3, 4, 5]), None, num_items=5, catalog="test")
    split = leave_one_out(log)
    assert history_rows(split, np.array([3, 1, 4, 0]), 2).tolist() == [[2, 3], [1, 0], [0, 0], [0, 0]]
    assert history_rows(split, np.array([4]), 2).tolist() == [[0]]


def test_per_target_equals_the_average_over_all_orders_of_the_ties():
    better, ties = np.array([0, 0, 3, 9, 4, 30]), np.array([0, 4, 9, 3, 1, 0])
    metrics = per_target(Ranks(better=better, ties=ties), ks=(1, 5, 10))
    for row, (b, t) in enumerate(zip(better, ties, strict=True)):
        places = np.arange(b, b + t + 1)
        for k in (1, 5, 10):
            assert metrics[f"recall@{k}"][row] == pytest.approx((places < k).mean())
            assert metrics[f"hit@{k}"][row] == metrics[f"recall@{k}"][row]
            assert metrics[f"ndcg@{k}"][row] == pytest.approx(np.where(places < k, 1 / np.log2(places + 2), 0).mean())
        assert metrics["mrr"][row] == pytest.approx((1 / (places + 1)).mean())


@settings(max_examples=60, deadline=None)
@given(
    scores=st.lists(st.lists(st.integers(-50, 50), min_size=12, max_size=12, unique=True), min_size=1, max_size=5),
    target=st.integers(0, 11),
)
def test_metrics_equal_argsort_when_nothing_ties(scores, target):
    table = np.array(scores)
    places = np.argsort(np.argsort(-table, axis=1), axis=1)[:, target]
    ranks = Ranks(better=places.astype(np.int64), ties=np.zeros(len(table), dtype=np.int64))
    metrics = per_target(ranks, ks=(1, 3))
    assert metrics["recall@3"].tolist() == (places < 3).astype(float).tolist()
    assert metrics["ndcg@3"].tolist() == np.where(places < 3, 1 / np.log2(places + 2.0), 0).tolist()
    assert metrics["mrr"].tolist() == (1 / (places + 1.0)).tolist()


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.integers(-2, 2), min_size=40, max_size=40), chunk=st.integers(1, 25), target=st.integers(1, 19)
)
def test_counts_are_those_of_a_loop_for_any_chunk(values, chunk, target):
    items = torch.tensor(values, dtype=torch.float32).view(20, 2)
    users = torch.tensor([[1.0, 2.0], [-3.0, 0.5]])
    pool = Candidates.of(items)
    rows = torch.tensor([target, target])
    counts = count_better(users, items[rows], pool.position[rows], pool, item_chunk=chunk)
    scores = (users.double() @ items.double().T)[:, 1:]
    own = scores[:, target - 1 : target]
    assert counts.better.tolist() == (scores > own).sum(1).tolist()
    assert counts.ties.tolist() == ((scores == own).sum(1) - 1).tolist()


def test_the_ranking_restores_the_callers_matmul_precision():
    before = torch.get_float32_matmul_precision()
    split = leave_one_out(small_log())
    rank_split(MeanRetriever(small_items()), split, "test", item_chunk=7)
    assert torch.get_float32_matmul_precision() == before


def test_ranks_are_the_same_inside_autocast():
    split, retriever = leave_one_out(small_log()), MeanRetriever(small_items())
    expected = rank_split(retriever, split, "test")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ranks = rank_split(retriever, split, "test")
    assert ranks.better.tolist() == expected.better.tolist()


def test_a_user_vector_that_is_not_a_number_is_an_error_that_names_the_target():
    split = leave_one_out(small_log())

    @dataclass(frozen=True)
    class Broken(MeanRetriever):
        def user_vectors(self, history: Tensor) -> Tensor:
            return super().user_vectors(history) * torch.nan

    with pytest.raises(DataError, match="the user vector of test target 0 is not finite"):
        rank_split(Broken(small_items()), split, "test")


def test_an_item_vector_that_is_not_finite_is_an_error_that_names_the_row():
    items = small_items()
    items[8, 2] = torch.inf
    items[9, 2] = torch.nan
    with pytest.raises(DataError, match=r"2 item vectors are not finite \(NaN or infinite\), the first at item row 8"):
        rank_split(MeanRetriever(items), leave_one_out(small_log()), "test")


def test_scores_beyond_float32_are_an_error():
    items = small_items() * 1e20
    with pytest.raises(DataError, match="beyond the range of float32; the model has diverged"):
        rank_split(MeanRetriever(items), leave_one_out(small_log()), "test")


def test_a_model_of_another_catalog_is_an_error():
    with pytest.raises(DataError, match="the model has vectors for 59 items but the split's catalog has 60"):
        rank_split(MeanRetriever(small_items()[:-1]), leave_one_out(small_log()), "test")


def test_a_candidate_mask_of_another_size_is_an_error():
    with pytest.raises(DataError, match="the candidate mask has 60 entries, expected 61"):
        rank_split(MeanRetriever(small_items()), leave_one_out(small_log()), "test", candidates=np.ones(60, dtype=bool))


def test_ks_below_one_are_an_error():
    with pytest.raises(ValueError, match=r"ks must be at least 1 each, got \(0, 5\)"):
        per_target(Ranks(better=np.array([0]), ties=np.array([0])), ks=(0, 5))


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"item_chunk": 0}, {"top_k": -1}])
def test_sizes_below_one_are_an_error(options):
    with pytest.raises(ValueError, match="batch_size and item_chunk must be at least 1 and top_k at least 0, got"):
        rank_split(MeanRetriever(small_items()), leave_one_out(small_log()), "test", **options)


def test_coverage_of_more_than_the_lists_hold_is_an_error():
    with pytest.raises(ValueError, match="coverage@3 needs lists of at least 3 items, got 2; raise top_k"):
        coverage(np.array([[1, 2]]), num_items=4, k=3)


def test_a_part_without_targets_gives_empty_ranks():
    split = leave_one_out(small_log())
    none = np.array([], dtype=np.int64)
    empty = Split(log=split.log, train_ends=split.train_ends, validation=none, test=none, leakage=None)
    ranks = rank_split(MeanRetriever(small_items()), empty, "test", top_k=2)
    assert ranks.better.shape == (0,)
    assert per_target(ranks)["mrr"].shape == (0,)


@dataclass(frozen=True)
class OneBroken(MeanRetriever):
    """Test target 3 alone has no user vector: one of two processes meets it, both must say so."""

    def user_vectors(self, history: Tensor) -> Tensor:
        split = leave_one_out(small_log())
        own = torch.from_numpy(history_rows(split, split.test[3:4], self.max_length))
        width = max(own.shape[1], history.shape[1])
        own, padded = (torch.nn.functional.pad(rows, (0, width - rows.shape[1])) for rows in (own, history))
        broken = (padded == own).all(dim=1, keepdim=True)
        return super().user_vectors(history).masked_fill(broken, torch.nan)


def _rank_in_process(rank: int, processes: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=processes)
    ranks = rank_split(
        MeanRetriever(small_items()), leave_one_out(small_log()), "test", batch_size=4, item_chunk=11, top_k=5
    )
    assert ranks.recommended is not None
    np.savez(os.path.join(folder, f"{rank}.npz"), better=ranks.better, ties=ranks.ties, top=ranks.recommended)  # noqa: PTH118
    with pytest.raises(DataError, match="the user vector of test target 3 is not finite"):
        rank_split(OneBroken(small_items()), leave_one_out(small_log()), "test", batch_size=4)
    Path(folder, f"{rank}.raised").touch()
    distributed.destroy_process_group()


def test_two_processes_give_the_integers_of_one(tmp_path: Path):
    expected = rank_split(
        MeanRetriever(small_items()), leave_one_out(small_log()), "test", batch_size=4, item_chunk=13, top_k=5
    )
    multiprocessing.spawn(_rank_in_process, args=(2, str(tmp_path)), nprocs=2)
    for rank in range(2):
        assert (tmp_path / f"{rank}.raised").exists()
        found = np.load(tmp_path / f"{rank}.npz")
        assert found["better"].tolist() == expected.better.tolist()
        assert found["ties"].tolist() == expected.ties.tolist()
        assert found["top"].tolist() == expected.recommended.tolist()
