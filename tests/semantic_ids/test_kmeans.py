"""k-means against its definition, and its promises about empty clusters, duplicates and few rows."""

import warnings

import pytest
import torch

from semantic_ids.kmeans import (
    FewRowsWarning,
    capped_assignment,
    group_means,
    kmeans,
    nearest,
    seed_centroids,
    squared_distances,
)
from semantic_ids.vectors import seeded


def rows(count=300, dim=5, seed=0):
    return torch.randn(count, dim, generator=seeded(seed))


def test_distances_and_nearest_equal_a_naive_loop():
    data, centroids = rows(40).double(), rows(7, seed=1).double()
    naive = torch.stack([torch.stack([(row - c).square().sum() for c in centroids]) for row in data])
    torch.testing.assert_close(squared_distances(data, centroids), naive)
    assert torch.equal(nearest(data, centroids, chunk=9), naive.argmin(1))


def test_group_means_equal_a_naive_loop_and_keep_empty_groups():
    data, codes = rows(30).double(), torch.arange(30) % 3
    means = group_means(data, codes, torch.full((4, 5), 7.0, dtype=torch.float64))
    for code in range(3):
        torch.testing.assert_close(means[code], data[codes == code].mean(0))
    assert means[3].tolist() == [7.0] * 5


@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_result_is_a_fixed_point_with_every_code_used(init):
    data = rows()
    found = kmeans(data, 8, generator=seeded(0), init=init, iterations=200)
    assert torch.equal(found.codes, nearest(data, found.centroids))
    assert torch.bincount(found.codes, minlength=8).min() > 0
    torch.testing.assert_close(found.centroids, group_means(data, found.codes, found.centroids))
    assert found.inertia == pytest.approx(float((data - found.centroids[found.codes]).square().sum(1).mean()), rel=1e-4)


def test_planted_clusters_are_found():
    centres = torch.eye(6) * 10
    data = centres.repeat_interleave(20, 0) + 0.1 * rows(120, 6)
    found = kmeans(data, 6, generator=seeded(3))
    assert [len(set(found.codes[20 * c : 20 * c + 20].tolist())) for c in range(6)] == [1] * 6
    assert found.codes.unique().numel() == 6


def test_same_generator_same_bits_and_other_seed_other_centroids():
    data = rows()
    one, two = (kmeans(data, 8, generator=seeded(5)).centroids for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, kmeans(data, 8, generator=seeded(6)).centroids)


def test_distinct_data_gives_no_duplicate_centroids_even_from_duplicate_seeds():
    data = torch.cat([torch.zeros(200, 3), rows(50, 3)])  # most rows are equal: random seeding picks copies
    found = kmeans(data, 20, generator=seeded(0), init="random")
    assert len(found.centroids.unique(dim=0)) == 20
    assert len(seed_centroids(data, 20, generator=seeded(0)).unique(dim=0)) == 20


def test_fewer_distinct_rows_than_codes_leaves_codes_unused_without_noise():
    data = torch.eye(3).repeat(40, 1)
    found = kmeans(data, 5, generator=seeded(0))
    assert found.inertia == 0.0
    assert found.codes.unique().numel() == 3


def test_rows_are_refused_below_the_codes_and_warned_about_below_ten_a_code():
    with pytest.raises(ValueError, match="5 rows cannot fill 8 codes; lower codebook_size to at most 5"):
        kmeans(rows(5), 8, generator=seeded(0))
    with pytest.warns(FewRowsWarning, match="79 rows for 8 codes is fewer than 10 rows a code"):
        kmeans(rows(79), 8, generator=seeded(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kmeans(rows(80), 8, generator=seeded(0))


def test_capped_assignment_equals_a_naive_loop_of_rounds_and_respects_the_cap():
    costs = rows(50, 6).double()
    found = capped_assignment(costs, 9)
    assert torch.bincount(found, minlength=6).max() <= 9
    room, expected = [9] * 6, [-1] * 50
    while -1 in expected:
        wishes = {c: [] for c in range(6)}
        for row in (r for r in range(50) if expected[r] < 0):
            open_codes = [c for c in range(6) if room[c] > 0]
            wishes[min(open_codes, key=lambda c: costs[row, c].item())].append(row)
        for code, asking in wishes.items():
            for row in sorted(asking, key=lambda r: costs[r, code].item())[: room[code]]:
                expected[row] = code
            room[code] -= min(room[code], len(asking))
    assert found.tolist() == expected


def test_capped_assignment_refuses_too_little_room():
    with pytest.raises(ValueError, match="2 codes of capacity 3 cannot hold 7 rows"):
        capped_assignment(torch.zeros(7, 2), 3)


def test_balanced_clusters_are_capped():
    data = torch.cat([torch.zeros(100, 2), rows(20, 2)])
    found = kmeans(data, 12, generator=seeded(0), balanced=True)
    assert torch.bincount(found.codes, minlength=12).max() <= 10
