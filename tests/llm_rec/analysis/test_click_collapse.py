"""Collapse of a click model: what is counted, what a cross layer makes of it, and the figures about it."""

import numpy as np
import pytest
import torch

from ctr_models.interactions.multi_embedding import multi_dcn_v2, multi_dnn
from ctr_models.interactions.presets import lr
from ctr_models.schema import Categorical, Schema
from llm_rec.analysis.click_collapse import analyse_collapse, first_cross_blocks, id_table, row_counts
from llm_rec.ctr.method import ClickMethodConfig, build_click_model
from llm_rec.data.columns import ClickColumns, ClickLog, ClickWriter
from llm_rec.errors import DataError
from llm_rec.report.collapse import collapse_page

SIZES = {"user": 40, "item": 30, "<day>": 9}
SCHEMA = Schema(fields=tuple(Categorical(name=name, size=size) for name, size in SIZES.items()))
ROWS = 400


@pytest.fixture
def log(tmp_path):
    """Id 2 + (row modulo size of a field less 4), so that the last two ids of a field never occur."""
    number = np.arange(ROWS)
    ids = np.stack([2 + number % (size - 4) for size in SIZES.values()], axis=1).astype(np.int32)
    empty = np.zeros((ROWS, 0), dtype=np.float32)
    with ClickWriter(tmp_path, SCHEMA, (), {"train": ROWS}) as writer:
        writer.append("train", ClickColumns(ids, empty, empty, np.zeros((ROWS, 1), dtype=np.float32)))
    return ClickLog(tmp_path, SCHEMA, (), {"train": ROWS}, "none")


def model_of(config):
    torch.manual_seed(0)
    return build_click_model(ClickMethodConfig(model=config), SCHEMA)


def exact(matrix):
    values = np.linalg.svd(matrix.detach().double().numpy(), compute_uv=False)
    return values.sum() / values[0]


def test_abundance_is_that_of_the_values_seen_in_training(log):
    model = model_of(multi_dcn_v2(num_tables=2, dim=4))
    found = analyse_collapse(model, log, min_count=12)
    table = id_table(model)
    counts = row_counts(table, log)
    assert counts[: SIZES["user"]].tolist() == log.train_counts("user").tolist()
    assert found.seen.rows.tolist() == [size - 4 for size in SIZES.values()]
    assert found.frequent.rows.tolist() == [4, 26, 5]  # 400 rows over 36 users: 4 have 12, the others 11
    for place, (name, size) in enumerate(SIZES.items()):
        for number in range(2):
            rows = table.field_weight(name)[number, 2 : size - 2]
            assert found.seen.abundance[number, place] == pytest.approx(exact(rows), rel=1e-6)
    assert found.spectra.shape == (2, 3, 4)
    assert np.allclose(found.spectra[..., 0], 1)
    assert np.allclose(found.spectra.sum(-1), found.seen.abundance)


def test_sub_embeddings_are_those_of_the_first_cross_layer(log):
    model = model_of(multi_dcn_v2(num_tables=2, dim=4))
    found = analyse_collapse(model, log)
    weight = model.towers[0].interactions[0].stack.layers[0].function.block_weight().detach()  # e_i W_ij
    table = id_table(model)
    for i, (name, size) in enumerate(SIZES.items()):
        for j in range(3):
            rows = table.field_weight(name)[1, 2 : size - 2] @ weight[1, i, j]
            assert found.projected[1, i, j] == pytest.approx(exact(rows), rel=1e-5)
            assert found.norms[1, i, j] == pytest.approx(float(weight[1, i, j].norm()), rel=1e-5)
    assert found.means()["abundance_projected"] == pytest.approx(found.projected.mean())


def test_a_model_without_cross_layers_has_no_heat_map_and_one_without_table_is_refused(log):
    model = model_of(multi_dnn(dim=4))
    assert first_cross_blocks(model, 3) is None
    found = analyse_collapse(model, log)
    assert found.projected is None
    assert "abundance_projected" not in found.means()
    with pytest.raises(DataError, match="has no embedding table of ids"):
        analyse_collapse(model_of(lr()), log)


def test_a_collapsed_table_shows(log):
    model = model_of(multi_dnn(dim=4))
    with torch.no_grad():
        id_table(model).embedding.weight[:] = torch.randn(sum(SIZES.values()), 1) @ torch.randn(1, 4)
    found = analyse_collapse(model, log)
    assert np.allclose(found.seen.abundance, 1, atol=1e-3)
    assert (found.seen.relative_to_initial < 0.6).all()


def test_the_page_names_all_fields_escaped_and_every_set(log):
    found = analyse_collapse(model_of(multi_dcn_v2(num_tables=2, dim=4)), log)
    page = collapse_page("Collapse", [("DCNv2 <3x>", found)])
    assert page.count("<figure>") == 2 * 3
    assert "Sub-embeddings, DCNv2 &lt;3x&gt;, set 2" in page
    assert "&lt;day&gt;" in page
    assert "<day>" not in page
    assert "<script" not in page
    assert page.count("<rect") == 4 * 9
