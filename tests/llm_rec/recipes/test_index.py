"""Collisions are resolved by each item's own distances."""

import numpy as np
import pytest
import torch

from llm_rec.errors import ConfigError
from llm_rec.recipes.codes import IndexJob, resolve
from semantic_ids.code_table import CodeTable
from semantic_ids.collisions import resolve_by_sinkhorn
from semantic_ids.quantizers import Quantizer, RandomConfig, RQKMeansConfig, build_quantizer


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Four far groups of twelve; within a group, item i sits near place i mod 4 of the second level."""
    rng = np.random.default_rng(0)
    index = np.arange(48)
    places = np.eye(8)[index // 12] * 10 + np.eye(8)[4 + index % 4]
    return (places + rng.standard_normal((48, 8)) * 0.05).astype(np.float32)


@pytest.fixture(scope="module")
def quantizer(vectors: np.ndarray) -> Quantizer:
    quantizer = build_quantizer(RQKMeansConfig(num_codebooks=2, codebook_size=4), 8)
    quantizer.fit(vectors, seed=0)
    return quantizer


def test_sinkhorn_sees_the_distances_of_each_item_itself(quantizer: Quantizer, vectors: np.ndarray) -> None:
    codes = quantizer.encode(vectors)
    table = CodeTable.from_codes(codes, quantizer.codebook_sizes)

    def costs(rows: np.ndarray) -> torch.Tensor:
        """Item by item: how far its vector is from what each last code would decode to."""
        found = np.zeros((len(rows), 4), dtype=np.float32)
        for place, row in enumerate(rows):
            for last in range(4):
                decoded = quantizer.decode(np.array([[codes[row - 1, 0], last]]))[0]
                found[place, last] = np.sum((vectors[row - 1] - decoded) ** 2)
        return torch.from_numpy(found)

    wanted = resolve_by_sinkhorn(table, costs).table.items
    found = resolve(table, quantizer, vectors, "sinkhorn").items
    assert np.array_equal(found, wanted)
    assert not np.array_equal(found, codes)


@pytest.mark.parametrize("how", ["digit", "grid-digit", "sinkhorn+digit", "balanced+digit"])
def test_a_digit_leaves_no_two_items_alike(quantizer: Quantizer, vectors: np.ndarray, how) -> None:
    table = CodeTable.from_codes(quantizer.encode(vectors), quantizer.codebook_sizes)
    found = resolve(table, quantizer, vectors, how).items
    assert found.shape == (48, 3)
    assert len(np.unique(found, axis=0)) == 48


def test_balance_moves_no_more_items_than_it_must_and_says_so(
    quantizer: Quantizer, vectors: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    table = CodeTable.from_codes(quantizer.encode(vectors), quantizer.codebook_sizes)
    found = resolve(table, quantizer, vectors, "balanced")
    moved = (found.items != table.items).any(1).sum()
    assert len(np.unique(found.items, axis=0)) == 16  # all codes of two books of four, had by 48 items
    assert capsys.readouterr().out == f"{moved} items moved to free codes, {48 - 16} found none and share theirs\n"


def test_grid_digits_begin_with_one_where_codes_are_shared(quantizer: Quantizer, vectors: np.ndarray) -> None:
    table = CodeTable.from_codes(quantizer.encode(vectors), quantizer.codebook_sizes)
    digits = resolve(table, quantizer, vectors, "grid-digit").items[:, -1]
    shared = np.array([len(table.items_of(codes)) > 1 for codes in table.items])
    assert (digits[shared] >= 1).all()
    assert (digits[~shared] == 0).all()
    assert shared.any()


def test_sharing_leaves_the_table_as_it_is(quantizer: Quantizer, vectors: np.ndarray) -> None:
    table = CodeTable.from_codes(quantizer.encode(vectors), quantizer.codebook_sizes)
    assert resolve(table, quantizer, vectors, "share") is table


def test_random_codes_have_no_distances() -> None:
    with pytest.raises(
        ConfigError, match="^random codes have no distances for sinkhorn to choose by; set collisions share or"
    ):
        IndexJob(quantizer=RandomConfig(), collisions="sinkhorn+digit")
    with pytest.raises(ConfigError, match="^random codes have no distances for balanced to choose by"):
        IndexJob(quantizer=RandomConfig(), collisions="balanced")
