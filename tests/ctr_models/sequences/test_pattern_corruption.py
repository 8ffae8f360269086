import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ctr_models.sequences.pattern_corruption import CorruptedPatterns, CorruptionConfig, NoiseItems, corrupt

ITEMS = NoiseItems.seen(torch.tensor([[2, 7], [2, 7], [3, 8], [4, 7], [4, 7], [4, 7], [5, 9], [1, 1], [0, 0]]))


def patterns(rows: int, seed: int = 0, slots: int = 4) -> Tensor:
    """Events of items 2..5 with their categories, some windows cut at the left edge."""
    generator = torch.Generator().manual_seed(seed)
    items = torch.randint(2, 6, (rows, slots), generator=generator)
    first = torch.randint(0, slots, (rows, 1), generator=generator)
    items = items * (torch.arange(slots) >= first)
    return torch.stack([items, ITEMS.events[items][:, :, 1] * items.ne(0)], -1)


def noisy(ids: Tensor, config: CorruptionConfig, seed: int = 0) -> CorruptedPatterns:
    return corrupt(ids, ITEMS, config, torch.Generator().manual_seed(seed))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), ratio=st.sampled_from([0.1, 0.3, 0.8]), kind=st.sampled_from(["all", "replace"]))
def test_the_mask_marks_exactly_the_changed_slots(seed: int, ratio: float, kind: str) -> None:
    ids = patterns(50, seed)
    config = CorruptionConfig(ratio=ratio) if kind == "all" else CorruptionConfig(ratio=ratio, insert=0.0, drop=0.0)
    found = noisy(ids, config, seed)
    assert torch.equal(found.changed, found.ids.ne(found.clean).any(-1))
    assert torch.equal(found.changed, found.ids[:, :, 0].ne(found.clean[:, :, 0]))
    kinds = found.inserted.long() + found.replaced.long() + found.dropped.long()
    assert int(kinds.max()) <= 1
    if kind == "replace":
        assert torch.equal(found.clean, ids)
        assert torch.equal(found.mask, ids[:, :, 0].ne(0))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_insertion_keeps_the_newest_events_in_order(seed: int) -> None:
    ids = patterns(30, seed)
    found = noisy(ids, CorruptionConfig(ratio=0.4, replace=0.0, drop=0.0), seed)
    for row in range(30):
        kept = found.ids[row, ~found.inserted[row] & found.mask[row], 0].tolist()
        real = [item for item in ids[row, :, 0].tolist() if item]
        assert kept == real[len(real) - len(kept) :]
        assert found.inserted[row].sum() + len(kept) == min(4, found.inserted[row].sum() + len(real))


def test_padding_is_never_changed() -> None:
    ids = patterns(500)
    found = noisy(ids, CorruptionConfig(ratio=0.5, insert=0.0))
    assert not (found.changed & ids[:, :, 0].eq(0)).any()
    assert bool(found.ids[~found.mask].eq(0).all())


@pytest.mark.parametrize("ratio", [0.1, 0.2, 0.3])
def test_the_ratio_is_met_in_expectation_and_kinds_by_their_shares(ratio: float) -> None:
    ids = patterns(20_000)
    found, events = (
        noisy(ids, CorruptionConfig(ratio=ratio, insert=1.0, replace=2.0, drop=1.0)),
        ids[:, :, 0].ne(0).sum(),
    )
    rates = [float(kind.sum() / events) for kind in (found.inserted, found.replaced, found.dropped)]
    assert rates == pytest.approx([ratio / 4, ratio / 2, ratio / 4], abs=0.006)


def test_a_seeded_generator_gives_the_same_noise() -> None:
    ids, config = patterns(40), CorruptionConfig(ratio=0.5)
    first, again, other = noisy(ids, config, 3), noisy(ids, config, 3), noisy(ids, config, 4)
    assert torch.equal(first.ids, again.ids)
    assert torch.equal(first.changed, again.changed)
    assert not torch.equal(first.ids, other.ids)


def test_noise_follows_frequency_to_the_three_quarters_without_the_item_it_replaces() -> None:
    drawn = ITEMS.draw(torch.full((40_000,), 4), torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn[:, 0], minlength=6) / len(drawn)
    weights = torch.tensor([2.0, 1.0, 0.0, 1.0]) ** 0.75 * torch.tensor([1, 1, 0, 1])
    torch.testing.assert_close(shares[2:], weights / weights.sum(), atol=0.01, rtol=0)
    assert shares[:2].sum() == 0
    assert torch.equal(drawn[:, 1], torch.tensor([0, 0, 7, 8, 7, 9])[drawn[:, 0]])


def test_items_that_were_never_seen_are_replaced_by_the_whole_law() -> None:
    drawn = ITEMS.draw(torch.full((500,), 99), torch.Generator().manual_seed(0))
    assert set(drawn[:, 0].tolist()) == {2, 3, 4, 5}


def test_uniform_items_are_equally_likely() -> None:
    drawn = ITEMS.uniform(20_000, torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn[:, 0]) / len(drawn)
    torch.testing.assert_close(shares[2:], torch.full((4,), 0.25), atol=0.015, rtol=0)


def test_expected_counts_add_popular_and_uniform_draws() -> None:
    found = ITEMS.log_expected(torch.tensor([4, 5, 99]), popular=14, uniform=8)
    expected = torch.tensor([14 * 3 / 7 + 8 / 4, 14 / 7 + 8 / 4, 1e-12]).log()
    torch.testing.assert_close(found, expected)


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="ratio must be in \\[0, 1\\), got 1.5"):
        CorruptionConfig(ratio=1.5)
    with pytest.raises(ValueError, match="ratio must be above 0, got 0.0"):
        CorruptionConfig(ratio=0.0)
    with pytest.raises(ValueError, match="are shares: none negative, one above 0; got \\(-1.0, 1.0, 1.0\\)"):
        CorruptionConfig(insert=-1.0)
    with pytest.raises(ValueError, match="noise needs at least two items that were seen, got 1"):
        NoiseItems.seen(torch.tensor([[2], [2]]))
