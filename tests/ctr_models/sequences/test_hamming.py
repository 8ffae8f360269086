"""Hamming distances against a count bit by bit, and codes against signs of projections."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr_models.sequences.found import best_events
from ctr_models.sequences.hamming import SimHash, hamming_distance, hamming_search, pack_bits, popcount

WORDS = st.integers(-(2**31), 2**31 - 1)


@settings(max_examples=100, deadline=None)
@given(words=st.lists(WORDS, min_size=1, max_size=9))
def test_population_count_equals_pythons(words):
    counted = popcount(torch.tensor(words, dtype=torch.int32))
    assert counted.tolist() == [(word & 0xFFFFFFFF).bit_count() for word in words]


def test_population_count_of_every_single_bit_and_of_the_extremes():
    words = [*(1 << bit for bit in range(31)), -(2**31), 2**31 - 1, -1, 0]
    assert popcount(torch.tensor(words, dtype=torch.int32)).tolist() == [1] * 32 + [31, 32, 0]


@settings(max_examples=60, deadline=None)
@given(bits=st.integers(1, 100), seed=st.integers(0, 1000))
def test_distance_equals_a_count_bit_by_bit(bits, seed):
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.rand(2, 3, 4, bits, generator=generator).gt(0.4)
    counted = [
        [sum(bool(a) != bool(b) for a, b in zip(*pair, strict=True)) for pair in zip(*row, strict=True)]
        for row in zip(first, second, strict=True)
    ]
    codes = pack_bits(first), pack_bits(second)
    assert codes[0].shape == (3, 4, -(-bits // 32))
    assert hamming_distance(*codes).tolist() == counted


def test_packed_bits_are_binary_numbers_with_the_first_bit_lowest():
    assert pack_bits(torch.tensor([False] * 31 + [True])).tolist() == [-(2**31)]
    assert pack_bits(torch.ones(33, dtype=torch.bool)).tolist() == [-1, 1]


def test_codes_are_signs_of_projections_for_each_table():
    hashing = SimHash(2, 5, 40, seed=3)
    vectors = torch.randn(2, 3, 4, 5)
    for table in range(2):
        signs = torch.einsum("blw,wm->blm", vectors[table], hashing.planes[table]) > 0
        assert torch.equal(hashing.signs(vectors)[table], signs)
        assert torch.equal(hashing.codes(vectors)[table], pack_bits(signs))
    assert not torch.equal(hashing.planes[0], hashing.planes[1])


def test_planes_follow_the_seed_are_stored_and_never_trained():
    hashing = SimHash(1, 5, 8, seed=3)
    assert torch.equal(hashing.planes, SimHash(1, 5, 8, seed=3).planes)
    assert not torch.equal(hashing.planes, SimHash(1, 5, 8, seed=4).planes)
    assert list(hashing.state_dict()) == ["planes"]
    assert not list(hashing.parameters())


def test_codes_do_not_change_with_the_precision_of_the_module():
    vectors = torch.randn(1, 50, 6)
    hashing = SimHash(1, 6, 32)
    exact = hashing.codes(vectors)
    assert torch.equal(hashing.codes(2.5 * vectors), exact)
    assert torch.equal(hashing.double().codes(vectors.double()), exact)


def test_autocast_changes_no_code():
    vectors, hashing = torch.randn(1, 500, 6), SimHash(1, 6, 48)
    exact = hashing.codes(vectors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(hashing.codes(vectors), exact)


def test_the_share_of_differing_bits_is_the_angle_over_pi():
    torch.manual_seed(0)
    hashing = SimHash(1, 2, 4096)
    angles = torch.linspace(0, torch.pi, 7)
    vectors = torch.stack([angles.cos(), angles.sin()], -1).unsqueeze(0)
    codes = hashing.codes(vectors)
    share = hamming_distance(codes[:, :1], codes)[0] / 4096
    torch.testing.assert_close(share, angles / torch.pi, atol=0.03, rtol=0)


def test_search_finds_the_nearest_codes_and_padding_last():
    target = torch.tensor([[[0b0000]]], dtype=torch.int32)
    events = torch.tensor([[[[0b0000], [0b0111], [0b0001], [0b1000], [0b1111]]]], dtype=torch.int32)
    mask = torch.tensor([[False, True, True, True, True]])
    found = hamming_search(target, events, mask, 5)
    assert found.indices[0, 0, :4].tolist() == [3, 2, 1, 4]
    assert found.mask[0, 0].tolist() == [True, True, True, True, False]


def test_longer_codes_find_more_of_the_nearest_by_angle():
    torch.manual_seed(0)
    centres = torch.randn(50, 48)
    target, events = (centres[torch.randint(50, shape)] + 0.7 * torch.randn(*shape, 48) for shape in ((8,), (8, 500)))
    mask = torch.ones(8, 500, dtype=torch.bool)
    cosine = torch.nn.functional.cosine_similarity(target.unsqueeze(1), events, dim=-1)
    nearest = best_events(cosine.unsqueeze(0), mask, 20).indices[0]
    recalls = []
    for bits in (16, 256):
        hashing = SimHash(1, 48, bits)
        found = hamming_search(hashing.codes(target.unsqueeze(0)), hashing.codes(events.unsqueeze(0)), mask, 20).indices
        recalls.append(float(found[0].unsqueeze(2).eq(nearest.unsqueeze(1)).any(2).float().mean()))
    assert recalls[0] < 0.6 < recalls[1]


def test_a_code_needs_a_bit():
    with pytest.raises(ValueError, match="bits must be at least 1, got 0"):
        SimHash(1, 4, 0)
