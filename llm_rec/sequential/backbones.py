"""The union of backbones."""

from typing import assert_never

from llm_rec.sequential.caser import Caser, CaserConfig
from llm_rec.sequential.gru4rec import GRU4Rec, GRU4RecConfig
from llm_rec.sequential.protocols import Backbone
from llm_rec.sequential.sasrec import SASRec, SASRecConfig

BackboneConfig = SASRecConfig | GRU4RecConfig | CaserConfig


def build_backbone(config: BackboneConfig, dim: int, max_length: int) -> Backbone:
    """The backbone that `config` names, over item vectors of width `dim`; only SASRec is bound to `max_length`."""
    match config:
        case SASRecConfig():
            return SASRec(config, dim, max_length)
        case GRU4RecConfig():
            return GRU4Rec(config, dim)
        case CaserConfig():
            return Caser(config, dim)
        case _:
            assert_never(config)
