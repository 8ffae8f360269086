"""Penalties of the multi-embedding ablations against loops in double precision."""

import pytest
import torch

from ctr_models import losses

TABLES, LAYERS, FIELDS, DIM, ROWS = 3, 2, 4, 3, 20


def weights():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(TABLES, LAYERS, FIELDS * DIM, FIELDS * DIM, dtype=torch.float64, generator=generator)


def vectors():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(TABLES, ROWS, FIELDS, DIM, dtype=torch.float64, generator=generator).requires_grad_()


def block(matrix, i, j):
    return matrix[i * DIM : (i + 1) * DIM, j * DIM : (j + 1) * DIM]


def test_weight_norm_alignment_is_the_variance_of_squared_block_norms():
    weight = weights()
    terms = []
    for layer in range(LAYERS):
        for i in range(FIELDS):
            for j in range(FIELDS):
                norms = torch.stack([block(weight[m, layer], i, j).norm() ** 2 for m in range(TABLES)])
                terms.append(((norms - norms.mean()) ** 2).mean())
    ours = losses.weight_norm_alignment(losses.cross_blocks(weight, FIELDS))
    assert ours.item() == pytest.approx((sum(terms) / len(terms)).item())
    assert losses.weight_norm_alignment(losses.cross_blocks(weight[:1], FIELDS)).item() == 0.0


def test_orthogonality_sums_over_blocks_with_and_without_a_learned_scale():
    weight = weights()
    scale = torch.rand(TABLES, LAYERS, FIELDS, FIELDS, dtype=torch.float64)
    eye, plain, scaled = torch.eye(DIM, dtype=torch.float64), 0.0, 0.0
    for m in range(TABLES):
        for layer in range(LAYERS):
            for i in range(FIELDS):
                for j in range(FIELDS):
                    w = block(weight[m, layer], i, j)
                    plain += ((w @ w.T - eye) ** 2).sum()
                    scaled += ((w.T @ w - scale[m, layer, i, j] * eye) ** 2).sum()
    blocks = losses.cross_blocks(weight, FIELDS)
    assert losses.orthogonality(blocks).item() == pytest.approx(plain.item())
    assert losses.orthogonality(blocks, scale).item() == pytest.approx(scaled.item())
    rotations = torch.linalg.qr(torch.randn(FIELDS, FIELDS, DIM, DIM, dtype=torch.float64)).Q.movedim(-2, -3)
    assert losses.orthogonality(rotations).item() == pytest.approx(0.0, abs=1e-20)


def test_subspace_similarity_squares_the_field_means_of_singular_values():
    e, values = vectors(), []
    for m in range(TABLES):
        for n in range(m):
            per_field = [torch.linalg.svdvals(e[m, :, i].T @ e[n, :, i]) for i in range(FIELDS)]
            values.append(torch.stack(per_field).mean(0))
    naive = (torch.cat(values) ** 2).mean()
    ours = losses.subspace_similarity(e)
    assert ours.item() == pytest.approx(naive.item())
    torch.testing.assert_close(*(torch.autograd.grad(loss, e)[0] for loss in (ours, naive)))
    assert losses.subspace_similarity(e[:1]).item() == 0.0


def test_singular_value_variance_is_that_of_normalised_values():
    e, terms = vectors(), []
    for m in range(TABLES):
        for i in range(FIELDS):
            s = torch.linalg.svdvals(e[m, :, i])
            terms.append((s / s.mean()).var())
    naive, ours = sum(terms) / len(terms), losses.singular_value_variance(e)
    assert ours.item() == pytest.approx(naive.item())
    torch.testing.assert_close(*(torch.autograd.grad(loss, e)[0] for loss in (ours, naive)))


def test_cross_matrices_that_do_not_split_into_fields_are_an_error():
    with pytest.raises(ValueError, match="^cross matrices of width 10 have no equal blocks for 3 fields$"):
        losses.cross_blocks(torch.zeros(10, 10), 3)
