"""Symmetric InfoNCE against a loop in float64, forward and backward, whole and in tiles."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from llm_rec.tuning import InfoNCEConfig, PairLabels, info_nce


def labels_of(anchors: list[int], positives: list[int], known: list[tuple[int, int]]) -> PairLabels:
    pairs = torch.tensor(sorted(known), dtype=torch.int64).reshape(-1, 2).T
    return PairLabels(torch.tensor(anchors), torch.tensor(positives), pairs)


def case(pairs: int = 9, dim: int = 5) -> tuple[Tensor, Tensor, PairLabels]:
    rng = np.random.default_rng(0)
    vectors = torch.from_numpy(rng.normal(size=(2, pairs, dim)))
    anchors, positives = rng.integers(1, 8, (2, pairs)).tolist()
    known = [(i, j) for i in range(pairs) for j in range(pairs) if rng.random() < 0.15]
    return vectors[0], vectors[1], labels_of(anchors, positives, known)


def by_loop(one: Tensor, other: Tensor, labels: PairLabels, temperature: float) -> Tensor:
    known = {(i, j) for i, j in labels.known.T.tolist()}
    a, p = labels.anchors.tolist(), labels.positives.tolist()
    cosine = torch.nn.functional.cosine_similarity
    total = torch.zeros((), dtype=one.dtype)
    for i in range(len(a)):
        forth, back = [], []
        for j in range(len(a)):
            if j == i or not (p[j] == a[i] or p[j] == p[i] or (i, j) in known):
                forth.append(cosine(one[i], other[j], dim=0) / temperature)
            if j == i or not (a[j] == p[i] or a[j] == a[i] or (j, i) in known):
                back.append(cosine(other[i], one[j], dim=0) / temperature)
        own = cosine(one[i], other[i], dim=0) / temperature
        total = total + torch.logsumexp(torch.stack(forth), 0) + torch.logsumexp(torch.stack(back), 0) - 2 * own
    return total / (2 * len(a))


@pytest.mark.parametrize("tile", [1, 4, 9, 100])
def test_the_loss_and_its_gradient_equal_a_loop(tile: int) -> None:
    one, other, labels = case()
    exact = [t.clone().requires_grad_() for t in (one, other)]
    expected = by_loop(exact[0], exact[1], labels, 0.2)
    expected.backward()
    fast = [t.float().requires_grad_() for t in (one, other)]
    loss = info_nce(fast[0], fast[1], labels, InfoNCEConfig(temperature=0.2, tile=tile))
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    for a, b in zip(fast, exact, strict=True):
        torch.testing.assert_close(a.grad.double(), b.grad, atol=1e-5, rtol=1e-4)


def test_swapping_anchors_and_positives_changes_nothing() -> None:
    one, other, labels = case()
    config = InfoNCEConfig(temperature=0.3)
    there, back = info_nce(one, other, labels, config), info_nce(other, one, labels.swapped, config)
    assert there.item() == pytest.approx(back.item(), abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "softmaxes_of_two"),
    [
        (labels_of([1, 2], [3, 4], []), 4),
        (labels_of([1, 2], [3, 3], []), 2),  # one positive twice: either anchor has no negative
        (labels_of([1, 3], [3, 4], []), 2),  # the second anchor is the first positive
        (labels_of([1, 2], [3, 4], [(0, 1)]), 2),
        (labels_of([1, 2], [3, 4], [(0, 1), (1, 0)]), 0),
    ],
)
def test_false_negatives_leave_the_softmax(labels: PairLabels, softmaxes_of_two: int) -> None:
    """With orthogonal vectors a direction of a pair costs log of the number of its candidates."""
    vectors = torch.eye(4)
    loss = info_nce(vectors[:2], vectors[2:], labels, InfoNCEConfig(temperature=1.0))
    assert loss.item() == pytest.approx(softmaxes_of_two * math.log(2) / 4, abs=1e-6)


def test_a_known_pair_is_masked_in_both_directions_and_no_other() -> None:
    one, other, _ = case(pairs=3)
    config = InfoNCEConfig(temperature=0.5)
    labels = labels_of([1, 2, 3], [4, 5, 6], [(0, 2)])
    unmasked = labels_of([1, 2, 3], [4, 5, 6], [])
    far = other.clone()
    far[2] = one[0]  # the positive of pair 2 is as near to anchor 0 as can be: no cost, for it is no negative
    first = [info_nce(one, far, chosen, config).item() for chosen in (labels, unmasked)]
    assert first[0] < first[1]
    assert info_nce(one, far, labels, config).item() == pytest.approx(by_loop(one, far, labels, 0.5).item(), abs=1e-5)


def test_settings_of_the_loss_are_checked() -> None:
    with pytest.raises(ValueError, match="temperature must be positive, got 0.0"):
        InfoNCEConfig(temperature=0.0)
    with pytest.raises(ValueError, match="tile must be at least 1, got 0"):
        InfoNCEConfig(tile=0)
