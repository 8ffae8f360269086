"""Named click methods: ``llm-rec train ctr --preset``. Each is a model of `ctr_models.interactions` with the training
of public CTR benchmarks; every number can be set."""

from ctr_models.embeddings import NormalInit
from ctr_models.interactions import multi_embedding, presets
from ctr_models.model import CTRModelConfig
from llm_rec.ctr.item_fields import ItemFieldsConfig
from llm_rec.ctr.method import ClickMethodConfig
from semantic_ids.fusion import GateFusionConfig

PFL_STD = 0.1  # its high orders are products of vectors: near zero they would stay dead


def _method(model: CTRModelConfig, *, items: ItemFieldsConfig | None = None) -> ClickMethodConfig:
    return ClickMethodConfig(model=model, item_fields=items)


CLICK_METHODS: dict[str, ClickMethodConfig] = {
    "dcn_v2": _method(presets.dcn_v2()),
    "lr": _method(presets.lr()),
    "fm": _method(presets.fm()),
    "fwfm": _method(presets.fwfm()),
    "fmfm": _method(presets.fmfm()),
    "dnn": _method(presets.dnn()),
    "wide_deep": _method(presets.wide_deep()),
    "deepfm": _method(presets.deepfm()),
    "nfm": _method(presets.nfm()),
    "ipnn": _method(presets.ipnn()),
    "xdeepfm": _method(presets.xdeepfm()),
    "dcn": _method(presets.dcn()),
    "gdcn": _method(presets.gdcn()),
    "finalnet": _method(presets.finalnet_product()),
    "pfl": ClickMethodConfig(model=presets.pfl(), init=NormalInit(std=PFL_STD)),
    "multi_dnn": _method(multi_embedding.multi_dnn(num_tables=2)),
    "multi_dcn_v2": _method(multi_embedding.multi_dcn_v2(num_tables=2)),
    "multi_ipnn": _method(multi_embedding.multi_ipnn(num_tables=2)),
    "multi_nfwfm": _method(multi_embedding.multi_nfwfm(num_tables=2)),
    "multi_xdeepfm": _method(multi_embedding.multi_xdeepfm(num_tables=2)),
    "dcn_v2-codes": _method(presets.dcn_v2(), items=ItemFieldsConfig(fusion=GateFusionConfig())),
    "dcn_v2-texts": _method(presets.dcn_v2(), items=ItemFieldsConfig(texts=True)),
}
NEEDS_CODES, NEEDS_TEXT = ("dcn_v2-codes",), ("dcn_v2-texts",)
