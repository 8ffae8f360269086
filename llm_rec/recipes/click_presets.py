"""Named click methods: ``llm-rec train ctr --preset``. Each is a model of `ctr_models.interactions.named` with the
training of public CTR benchmarks, or of `ctr_models.sequences.presets`, for logs with histories, with that of DARE's
released code; every number can be set. Presets that need the schema (FFM, GwPFM) are for Python.
"""

from dataclasses import replace

from ctr_models.embeddings import NormalInit
from ctr_models.interactions.named import FIXED
from ctr_models.interactions.presets import dcn_v2
from ctr_models.sequences import presets as sequences
from llm_rec.ctr.item_fields import ItemFieldsConfig
from llm_rec.ctr.method import ClickMethodConfig
from llm_rec.ctr.pattern_pretraining import PatternPretrainingConfig
from llm_rec.ctr.sequence_method import dare_protocol
from semantic_ids.fusion import GateFusionConfig

PFL_STD = 0.1  # its high orders are products of vectors: near zero they would stay dead
SETS = 2  # embedding sets of the multi-embedding presets: the fewest that are multiple


def _method(name: str) -> ClickMethodConfig:
    model = FIXED[name]()
    if name.startswith("multi_"):
        return ClickMethodConfig(model=replace(model, num_tables=SETS))
    if name == "pfl":
        return ClickMethodConfig(model=model, init=NormalInit(std=PFL_STD))
    return ClickMethodConfig(model=model)


CLICK_METHODS: dict[str, ClickMethodConfig] = {
    "dcn_v2": _method("dcn_v2"),  # the first is the default
    **{name: _method(name) for name in FIXED},
    **{name: dare_protocol(make()) for name, make in sequences.PRESETS.items()},
    "dpn": replace(dare_protocol(sequences.dpn()), pattern_pretraining=PatternPretrainingConfig()),
    "dcn_v2-codes": ClickMethodConfig(model=dcn_v2(), item_fields=ItemFieldsConfig(fusion=GateFusionConfig())),
    "dcn_v2-texts": ClickMethodConfig(model=dcn_v2(), item_fields=ItemFieldsConfig(texts=True)),
}
NEEDS_CODES, NEEDS_TEXT = ("dcn_v2-codes",), ("dcn_v2-texts",)
