"""Small sources of field vectors, every preset at a small size, and models of them in float64."""

import torch
from torch import Tensor, nn

from ctr_models.batch import FeatureBatch
from ctr_models.interactions import module_presets, multi_embedding, presets
from ctr_models.interactions.afm import AFMConfig
from ctr_models.interactions.attention import AutoIntConfig
from ctr_models.interactions.edcn import EDCNConfig
from ctr_models.interactions.euler import EulerNetConfig
from ctr_models.interactions.finalnet import FinalBlockConfig, FinalNetConfig
from ctr_models.interactions.mask import MaskNetConfig
from ctr_models.interactions.mixture import CrossNetMixConfig
from ctr_models.interactions.polynomial import PolynomialConfig
from ctr_models.interactions.senet import SENetConfig
from ctr_models.layers import MLPConfig
from ctr_models.model import CTRModel, CTRModelConfig

FIELDS, IDS = 4, 6
HIDDEN = MLPConfig(widths=(5, 3))
GROUPS = (0, 1, 0, 2)


class TinySource(nn.Module):
    def __init__(self, num_tables: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_tables, FIELDS, IDS, dim))
        self.num_fields = FIELDS

    def forward(self, batch: FeatureBatch) -> Tensor:
        return torch.stack([self.weight[:, i, batch.ids[:, i]] for i in range(FIELDS)], 2)


class TinyLinear(nn.Module):
    def __init__(self, num_outputs: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(FIELDS, IDS, num_outputs))

    def forward(self, batch: FeatureBatch) -> Tensor:
        return torch.stack([self.weight[i, batch.ids[:, i]] for i in range(FIELDS)]).sum(0)


def tiny_batch(rows: int = 3, seed: int = 0) -> FeatureBatch:
    ids = torch.randint(0, IDS, (rows, FIELDS), generator=torch.Generator().manual_seed(seed))
    return FeatureBatch(ids, torch.zeros(rows, 0), torch.zeros(rows, 0), torch.zeros(rows, 1))


def tiny_model(config: CTRModelConfig, seed: int = 0, dtype: torch.dtype = torch.float64) -> CTRModel:
    """A model whose every parameter is N(0, 0.5^2), so that none hides another."""
    torch.manual_seed(seed)
    model = CTRModel(
        config,
        TinySource(config.num_tables, config.dim) if config.towers else None,
        linear=TinyLinear(config.num_outputs) if config.linear == "weight" else None,
        linear_vectors=TinySource(1, config.dim) if config.linear == "vector" else None,
    ).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.5)
    return model.eval()


def tiny_presets() -> dict[str, CTRModelConfig]:
    p, dim, hidden = presets, 3, HIDDEN
    return {
        "lr": p.lr(),
        "fm": p.fm(dim=dim),
        "fwfm": p.fwfm(dim=dim),
        "fwfm_vector": p.fwfm(dim=dim, linear="vector"),
        "fvfm": p.fvfm(dim=dim),
        "fmfm": p.fmfm(dim=dim),
        "fmfm_rank": p.fmfm(dim=dim, rank=2),
        "ffm": p.ffm(num_fields=FIELDS, slice_dim=2),
        "gwpfm": p.gwpfm(GROUPS, slice_dim=2, hidden=hidden),
        "gwpfm_sum": p.gwpfm(GROUPS, slice_dim=2, head="sum"),
        "hofm": p.hofm(dim=dim, order=4),
        "hofm_tied": p.hofm(dim=dim, order=4, untied=False),
        "deepim": p.deepim(dim=dim, order=4),
        "nfm": p.nfm(dim=dim, hidden=hidden),
        "ipnn": p.ipnn(dim=dim, hidden=hidden),
        "opnn_mat": p.opnn(dim=dim, kernel="mat", hidden=hidden),
        "opnn_vec": p.opnn(dim=dim, kernel="vec", hidden=hidden),
        "opnn_num": p.opnn(dim=dim, kernel="num", hidden=hidden),
        "fibinet_all": p.fibinet(dim=dim, bilinear="all", senet=None, hidden=hidden),
        "fibinet_each": p.fibinet(dim=dim, bilinear="source", senet=None, hidden=hidden),
        "fibinet_pair": p.fibinet(dim=dim, bilinear="pair", senet=None, hidden=hidden),
        "fibinet": p.fibinet(dim=dim, senet=SENetConfig(reduction=1), hidden=hidden),
        "cin": p.cin(dim=dim, widths=(5, 2)),
        "cin_relu": p.cin(dim=dim, widths=(2, 3), activation="relu", bias=True),
        "xdeepfm": p.xdeepfm(dim=dim, widths=(2, 2), hidden=hidden),
        "crossnet": p.crossnet(dim=dim, num_layers=3),
        "dcn": p.dcn(dim=dim, num_layers=2, hidden=hidden),
        "crossnet_v2": p.crossnet_v2(dim=dim, num_layers=3),
        "dcn_v2": p.dcn_v2(dim=dim, num_layers=2, hidden=hidden),
        "dcn_v2_stacked": p.dcn_v2(dim=dim, num_layers=2, hidden=hidden, structure="stacked"),
        "dcn_v2_rank": p.dcn_v2(dim=dim, num_layers=2, hidden=hidden, rank=2),
        "gdcn": p.gdcn(dim=dim, num_layers=2, hidden=hidden),
        "gdcn_parallel": p.gdcn(dim=dim, num_layers=2, hidden=hidden, structure="parallel"),
        "finalnet_product": p.finalnet_product(dim=dim, num_layers=2),
        "dnn": p.dnn(dim=dim, hidden=hidden),
        "wide_deep": p.wide_deep(dim=dim, hidden=hidden),
        "deepfm": p.deepfm(dim=dim, hidden=hidden),
        "pfl": p.pfl(dim=dim, hidden=hidden),
        "pfl_term": p.pfl(dim=dim, hidden=hidden, alpha="term_weight", combine="concat"),
        "pfl_dim": p.pfl(dim=dim, hidden=hidden, alpha="dim_weight", residual=True, bias=True),
    }


def tiny_module_presets() -> dict[str, CTRModelConfig]:
    m, dim, hidden = module_presets, 3, HIDDEN
    attention = AutoIntConfig(num_layers=2, num_heads=2, attention_dim=4)
    mixture = CrossNetMixConfig(num_layers=2, num_experts=2, rank=2)
    stream = MLPConfig(widths=(4, 2))
    return {
        "afm": m.afm(dim=dim, attention=AFMConfig(attention_dim=2)),
        "autoint": m.autoint(dim=dim, attention=attention),
        "autoint_plus": m.autoint_plus(dim=dim, attention=attention, hidden=hidden),
        "eulernet": m.eulernet(dim=8, orders=EulerNetConfig(num_orders=(3, 2))),
        "finalmlp": m.finalmlp(dim=dim, first=stream, second=hidden, num_heads=1, first_context=(2, 0)),
        "finalmlp_heads": m.finalmlp(dim=dim, first=stream, second=stream, num_heads=2, gates=False),
        "finalnet": m.finalnet(dim=dim, blocks=FinalNetConfig(first=FinalBlockConfig(hidden=(4, 2)))),
        "crossnet_mix": m.crossnet_mix(dim=dim, mixture=mixture),
        "dcn_mix": m.dcn_mix(dim=dim, mixture=mixture, hidden=hidden),
        "xdeepint": m.xdeepint(dim=dim, network=PolynomialConfig(num_layers=2)),
        "masknet": m.masknet(dim=dim, blocks=MaskNetConfig(hidden=(4, 3))),
        "masknet_parallel": m.masknet_parallel(
            dim=dim, blocks=MaskNetConfig(hidden=(3,), num_blocks=2, ratio=0.5), hidden=hidden
        ),
        "edcn": m.edcn(dim=dim, layers=EDCNConfig(num_layers=2)),
    }


def tiny_backbones(num_tables: int) -> dict[str, CTRModelConfig]:
    m = multi_embedding
    return {
        "multi_dnn": m.multi_dnn(num_tables=num_tables, dim=3),
        "multi_dcn_v2": m.multi_dcn_v2(num_tables=num_tables, dim=3, num_layers=2),
        "multi_ipnn": m.multi_ipnn(num_tables=num_tables, dim=3),
        "multi_nfwfm": m.multi_nfwfm(num_tables=num_tables, dim=3),
        "multi_xdeepfm": m.multi_xdeepfm(num_tables=num_tables, dim=3),
        "multi_finalmlp": m.multi_finalmlp(num_tables=num_tables, dim=3),
        "multi_finalmlp_shared": m.multi_finalmlp(num_tables=num_tables, dim=3, shared_interaction=True),
        "multi_dcn_v2_shared": m.multi_dcn_v2(num_tables=num_tables, dim=3, num_layers=2, shared_interaction=True),
    }
