"""Information abundance of tables and of what interactions make of them; the toy experiment of collapse."""

import numpy as np
import pytest
import torch

from ctr_models.losses import cross_blocks
from llm_rec.analysis.collapse import (
    block_norms,
    collapse_report,
    field_aware_abundance,
    field_factors,
    projected_abundance,
    toy_collapse,
)
from llm_rec.analysis.spectrum import abundance_of, compact_factor

FIELDS = {"user": slice(2, 60), "day": slice(62, 66), "item": slice(68, 200)}
TABLES, DIM = 2, 6


def table(seed=0):
    generator = torch.Generator().manual_seed(seed)
    scales = torch.linspace(2, 0.2, DIM)
    return torch.randn(200, TABLES, DIM, generator=generator) * scales


def exact(matrix):
    values = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    return values.sum() / values[0]


def conditioned(rows, dim, condition):
    generator = torch.Generator().manual_seed(0)
    left, right = (
        torch.linalg.qr(torch.randn(n, dim, dtype=torch.float64, generator=generator)).Q for n in (rows, dim)
    )
    values = torch.logspace(0, -np.log10(condition), dim, dtype=torch.float64)
    return left * values @ right.T, values.numpy()


@pytest.mark.parametrize("method", ["auto", "gram", "qr"])
def test_every_method_finds_the_singular_values_of_a_tall_table(method, monkeypatch):
    monkeypatch.setattr("llm_rec.analysis.spectrum._CHUNK", 700)
    matrix, values = conditioned(5000, 10, 1e3)
    found = torch.linalg.svdvals(compact_factor(matrix, method=method)).numpy()
    np.testing.assert_allclose(found, values, rtol=1e-7)


def test_auto_keeps_the_digits_of_tiny_values_which_gram_loses():
    matrix, values = conditioned(400, 6, 1e11)
    by_method = {name: torch.linalg.svdvals(compact_factor(matrix, method=name)) for name in ("auto", "gram")}
    np.testing.assert_allclose(by_method["auto"].numpy(), values, rtol=1e-4)
    assert abs(by_method["gram"][-1].item() - values[-1]) > 0.5 * values[-1]


@pytest.mark.parametrize(("rows", "dim"), [(3, 8), (8, 8), (1, 4), (50, 4)])
def test_abundance_lies_between_one_and_the_smaller_side(rows, dim):
    matrix = torch.randn(rows, dim, generator=torch.Generator().manual_seed(rows))
    abundance = float(abundance_of(compact_factor(matrix)))
    assert abundance == pytest.approx(exact(matrix), rel=1e-9)
    assert 1 - 1e-12 <= abundance <= min(rows, dim) + 1e-12


def test_an_orthogonal_table_has_as_much_abundance_as_dimensions():
    matrix = torch.linalg.qr(torch.randn(40, 7, dtype=torch.float64)).Q
    assert float(abundance_of(compact_factor(matrix))) == pytest.approx(7.0)


def test_a_report_holds_every_set_and_field_and_compares_with_initialisation():
    weight = table()
    initial = torch.randn(200, TABLES, DIM, generator=torch.Generator().manual_seed(1))
    report = collapse_report(weight, FIELDS, initial=initial)
    assert report.fields == ("user", "day", "item")
    assert report.rows.tolist() == [58, 4, 132]
    for m in range(TABLES):
        for f, rows in enumerate(FIELDS.values()):
            assert report.abundance[m, f] == pytest.approx(exact(weight[rows, m]))
            relative = exact(weight[rows, m]) / exact(initial[rows, m])
            assert report.relative_to_initial[m, f] == pytest.approx(relative)
    np.testing.assert_allclose(report.relative_to_dim, report.abundance / np.array([6, 4, 6]))
    against_random = collapse_report(weight, FIELDS).relative_to_initial
    assert (against_random < 1).all()


def test_rare_rows_are_left_out_and_an_empty_field_is_nan():
    weight, counts = table(), np.arange(200) % 5
    counts[FIELDS["day"]] = 0
    report = collapse_report(weight, FIELDS, counts=counts, min_count=3)
    rows = np.arange(200)[FIELDS["item"]]
    rows = rows[counts[rows] >= 3]
    assert report.abundance[1, 2] == pytest.approx(exact(weight[torch.from_numpy(rows), 1]))
    assert report.rows.tolist() == [len([r for r in range(2, 60) if r % 5 >= 3]), 0, len(rows)]
    assert np.isnan(report.abundance[:, 1]).all()
    with pytest.raises(ValueError, match="^the table has 200 rows but there are 3 counts; count every row$"):
        collapse_report(weight, FIELDS, counts=counts[:3])


def test_projected_heat_map_is_that_of_projected_tables():
    weight, fields = table(), list(FIELDS.values())
    cross = torch.randn(TABLES, 3 * DIM, 3 * DIM, generator=torch.Generator().manual_seed(2))
    found = projected_abundance(field_factors(weight, fields), cross_blocks(cross, 3))
    for m in range(TABLES):
        for i, rows in enumerate(fields):
            for j in range(3):
                into = cross[m, j * DIM : (j + 1) * DIM, i * DIM : (i + 1) * DIM]
                assert found[m, i, j] == pytest.approx(exact(weight[rows, m].double() @ into.double().T), rel=1e-6)


def test_field_aware_heat_map_is_that_of_sub_embeddings():
    weight = torch.randn(200, 3, DIM, generator=torch.Generator().manual_seed(3))
    found = field_aware_abundance(weight, list(FIELDS.values()))
    for i, rows in enumerate(FIELDS.values()):
        for j in range(3):
            assert found[i, j] == pytest.approx(exact(weight[rows, j]))


def test_block_norms_name_the_source_first():
    cross = torch.zeros(1, 3 * DIM, 3 * DIM)
    cross[0, DIM : 2 * DIM, :DIM] = 2.0  # field 0 into field 1
    norms = block_norms(cross_blocks(cross, 3))
    assert norms[0, 0, 1] == pytest.approx(2.0 * DIM)
    assert norms.sum() == pytest.approx(2.0 * DIM)


def test_a_partner_of_three_values_collapses_the_trained_table():
    """Measured apart in numpy: final abundance 6.54 and 5.98 with 3 values, 7.61 and 7.13 with 100 (dim 10)."""
    few, many = ([toy_collapse(size, seed=seed) for seed in (0, 1)] for size in (3, 100))
    mean = [np.mean([run.final for run in runs]) for runs in (few, many)]
    assert mean[0] < mean[1] - 0.5
    assert all(run.partner < 3 for run in few)
    assert all(run.final < run.initial for run in few)
