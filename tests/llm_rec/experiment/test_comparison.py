"""Paired tests over the seeds that two models share."""

import numpy as np
import pytest

from llm_rec.errors import ConfigError
from llm_rec.experiment import Cell, CellResult, Record, compare
from tests.llm_rec.experiment.series import results_of


class TestCompare:
    def test_differences_are_paired_by_seed(self) -> None:
        values = {"ours": [0.3, 0.5, 0.4, 0.6, 0.5], "base": [0.2, 0.4, 0.3, 0.5, 0.41]}
        found = compare(results_of(values), [("ours", "base")], ["recall@10"])[0]
        gap = np.array(values["ours"]) - np.array(values["base"])
        assert found.difference == pytest.approx(gap.mean())
        assert found.std == pytest.approx(gap.std(ddof=1))
        assert (found.seeds, found.exploratory) == (5, False)
        assert found.sign_flip_p == pytest.approx(2 / 32)  # all five differences positive: the least p there is

    def test_only_seeds_that_both_finished_count(self) -> None:
        found = compare(results_of({"ours": [0.3, 0.5, 0.4], "base": [0.2, 0.4]}), [("ours", "base")], ["recall@10"])
        assert (found[0].seeds, found[0].exploratory) == (2, True)

    def test_seeds_that_differ_by_one_equal_amount_have_no_t_test(self) -> None:
        values = {"ours": [0.1 + 1 / 138, 0.3 + 1 / 138], "base": [0.1, 0.3], "same": [0.1, 0.3]}
        equal, none = compare(results_of(values), [("ours", "base"), ("same", "base")], ["recall@10"])
        assert equal.difference == pytest.approx(1 / 138)
        assert (equal.t_p, equal.holm_t_p) == (None, None)
        assert none.t_p == 1.0

    def test_one_shared_seed_gives_a_difference_without_a_test(self) -> None:
        found = compare(results_of({"ours": [0.3], "base": [0.2]}), [("ours", "base")], ["recall@10"])[0]
        assert found.difference == pytest.approx(0.1)
        assert (found.std, found.t_p, found.sign_flip_p, found.holm_t_p) == (None, None, None, None)

    def test_holm_corrects_over_all_comparisons(self) -> None:
        values = {"x": [0.3, 0.52, 0.4, 0.6], "y": [0.3, 0.4, 0.35, 0.5], "base": [0.2, 0.4, 0.3, 0.5]}
        found = compare(results_of(values), [("x", "base"), ("y", "base")], ["recall@10"])
        p = [c.t_p for c in found]
        assert p[0] is not None
        assert p[1] is not None
        assert p[0] < p[1]
        assert found[0].holm_t_p == pytest.approx(2 * p[0])
        assert found[1].holm_t_p == pytest.approx(max(2 * p[0], p[1]))

    def test_slices_are_compared_with_their_own_kind(self) -> None:
        results = [
            *results_of({"ours": [0.3, 0.4], "base": [0.1, 0.1]}, {"slice": "all"}),
            *results_of({"ours": [0.9, 0.9]}, {"slice": "unseen"}),
        ]
        found = compare(results, [("ours", "base")], ["recall@10"])
        assert [c.columns for c in found] == [{"slice": "all"}]

    def test_several_settings_of_one_model_are_ambiguous(self) -> None:
        results = [CellResult(Cell("a", {"dim": d}, 0), "done", 1.0, [Record("auc", 0.5)]) for d in (8, 16)]
        with pytest.raises(ConfigError, match="a has several settings for seed 0; keep the results of one"):
            compare(results, [("a", "b")], ["auc"])
