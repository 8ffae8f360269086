import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_rec.encoders.shard_job import EncodeConfig
from llm_rec.encoders.tokens import TokenRows, one_batch, token_batches

LISTS = st.lists(st.lists(st.integers(0, 99), max_size=9), min_size=1, max_size=30)


@given(rows=LISTS, left=st.booleans())
def test_padding_equals_a_loop(rows: list[list[int]], left: bool) -> None:
    tokens = TokenRows.from_lists(rows)
    batch = np.arange(len(rows))[::-1].copy()
    ids, mask = tokens.padded(batch, left=left)
    width = max(1, max(map(len, rows)))
    for line, real, row in zip(ids.tolist(), mask.tolist(), rows[::-1], strict=True):
        pad = [0] * (width - len(row))
        assert line == (pad + row if left else row + pad)
        assert real == ([False] * len(pad) + [True] * len(row) if left else [True] * len(row) + [False] * len(pad))


@given(lengths=st.lists(st.integers(0, 40), max_size=80), budget=st.integers(1, 100), most=st.integers(1, 9))
def test_batches_hold_every_row_once_longest_first_within_the_budget(
    lengths: list[int], budget: int, most: int
) -> None:
    array = np.array(lengths, dtype=np.int64)
    batches = token_batches(array, budget, most)
    rows = [row for batch in batches for row in batch.tolist()]
    assert sorted(rows) == list(range(len(lengths)))
    assert [lengths[row] for row in rows] == sorted(lengths, reverse=True)
    for batch in batches:
        assert len(batch) == 1 or (len(batch) <= most and len(batch) * array[batch].max() <= budget)


def test_no_text_is_no_batch() -> None:
    assert list(one_batch(TokenRows.from_lists([]))) == []


@pytest.mark.parametrize("name", ["shard_rows", "tokens_per_batch", "texts_per_batch"])
def test_sizes_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        EncodeConfig(**{name: 0})
