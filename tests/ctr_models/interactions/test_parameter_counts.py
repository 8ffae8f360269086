"""Parameter counts of published benchmark logs. Models are built on the meta device: nothing is allocated."""

import math

import pytest
import torch
from torch import nn

from ctr_models.batch import FeatureBatch
from ctr_models.interactions import multi_embedding, presets
from ctr_models.layers import MLPConfig
from ctr_models.model import CTRModel, CTRModelConfig

CRITEO, AVAZU = (2_086_316, 39), (1_298_599, 22)  # ids and fields of Criteo_x1 and Avazu_x1
DEEP = MLPConfig(widths=(500, 500, 500))


class Table(nn.Module):
    def __init__(self, rows: int, num_fields: int, num_tables: int, dim: int) -> None:
        super().__init__()
        self.num_fields = num_fields
        self.weight = nn.Parameter(torch.empty(rows, num_tables * dim))

    def forward(self, batch: FeatureBatch) -> torch.Tensor:
        raise NotImplementedError


def model_on_meta(config: CTRModelConfig, rows: int, num_fields: int) -> CTRModel:
    with torch.device("meta"):
        return CTRModel(
            config,
            Table(rows, num_fields, config.num_tables, config.dim) if config.towers else None,
            linear=Table(rows, num_fields, 1, 1) if config.linear == "weight" else None,
            linear_vectors=Table(rows, num_fields, 1, config.dim) if config.linear == "vector" else None,
        )


def count(config: CTRModelConfig, rows: int, num_fields: int) -> int:
    return sum(p.numel() for p in model_on_meta(config, rows, num_fields).parameters())


@pytest.mark.parametrize(
    ("config", "data", "expected"),
    [
        (presets.fm(), CRITEO, 22_949_477),  # 11 V + 1
        (presets.fwfm(linear="vector"), CRITEO, 41_727_062),  # 20 V + 741 + 1
        (presets.fmfm(), CRITEO, 23_023_577),  # FM + 741 * 100
        (presets.hofm(order=3), CRITEO, 43_812_637),  # 21 V + 1
        (presets.ffm(num_fields=39, slice_dim=5), CRITEO, 398_486_357),  # (38 * 5 + 1) V + 1
        (presets.crossnet_v2(num_layers=5), CRITEO, 21_626_001),  # 10 V + 5 (390^2 + 390) + 391
        (presets.dcn_v2(num_layers=3, hidden=DEEP), CRITEO, 22_018_021),  # 10 V + 3 (390^2 + 390) + 696500 + 891
        (presets.crossnet(num_layers=5), AVAZU, 12_988_411),  # 10 V + 5 (220 + 220) + 221
    ],
    ids=["fm", "fwfm", "fmfm", "hofm-3", "ffm", "crossnet_v2-5", "dcn_v2", "crossnet-5"],
)
def test_published_counts(config: CTRModelConfig, data: tuple[int, int], expected: int) -> None:
    assert count(config, *data) == expected


def test_pfl_adds_a_matrix_a_layer_and_a_number_an_order() -> None:
    plain = count(presets.dnn(hidden=DEEP), *CRITEO)
    assert count(presets.pfl(num_layers=3, hidden=DEEP), *CRITEO) == plain + 3 * 152_100 + 4


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 10])
@pytest.mark.parametrize("backbone", ["dnn", "dcn_v2", "ipnn", "nfwfm", "xdeepfm", "finalmlp"])
def test_single_and_multi_have_equal_embedding_budgets(backbone, factor: int) -> None:
    base = 50 if backbone == "nfwfm" else 10
    for mode in ("single", "multi"):
        model = model_on_meta(multi_embedding.scaled(backbone, factor, mode), 1000, 39)
        assert sum(p.numel() for p in model.split_parameters().embeddings) == 1000 * base * factor


def test_cross_matrices_grow_with_the_square_of_dim_but_linearly_with_sets() -> None:
    def cross(mode) -> int:
        model = model_on_meta(multi_embedding.scaled("dcn_v2", 10, mode), 1000, 39)
        return sum(p.numel() for name, p in model.named_parameters() if "function" in name)

    assert cross("single") == 4 * 3900**2 == 60_840_000
    assert cross("multi") == 10 * 4 * 390**2 == 6_084_000


def test_one_factor_is_one_model_but_for_ipnn() -> None:
    for backbone in ("dnn", "dcn_v2", "nfwfm", "xdeepfm", "finalmlp"):
        assert multi_embedding.scaled(backbone, 1, "single") == multi_embedding.scaled(backbone, 1, "multi")
    widths = {
        mode: model_on_meta(multi_embedding.scaled("ipnn", 1, mode), 1000, 39).towers[0].interactions[0].width
        for mode in ("single", "multi")
    }
    assert widths == {"single": 390 + math.comb(39, 2), "multi": math.comb(39, 2)}


def test_a_factor_below_one_is_named() -> None:
    with pytest.raises(ValueError, match="^factor must be at least 1, got 0$"):
        multi_embedding.scaled("dnn", 0, "multi")
