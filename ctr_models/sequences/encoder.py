"""Every encoder of event sequences by its config. A member of the union follows `SequenceEncoder`."""

from typing import TypeAlias, assert_never

from ctr_models.sequences.bst import BST, BSTConfig
from ctr_models.sequences.dien import DIEN, DIENConfig
from ctr_models.sequences.din import DIN, DINConfig
from ctr_models.sequences.eta import ETA, ETAConfig
from ctr_models.sequences.events import EventLayout
from ctr_models.sequences.hstu import HSTU, HSTUConfig
from ctr_models.sequences.sdim import SDIM, SDIMConfig
from ctr_models.sequences.sim import SIM, SIMConfig, SoftSearchConfig
from ctr_models.sequences.target_attention import TargetAttention, TargetAttentionConfig
from ctr_models.sequences.tin import TIN, TINConfig
from ctr_models.sequences.twin import TWIN, TWINConfig
from ctr_models.sequences.twin_v2 import TWINV2, TWINV2Config

EncoderConfig: TypeAlias = (
    TargetAttentionConfig
    | DINConfig
    | TINConfig
    | SIMConfig
    | ETAConfig
    | SDIMConfig
    | TWINConfig
    | TWINV2Config
    | DIENConfig
    | BSTConfig
    | HSTUConfig
)
Encoder: TypeAlias = TargetAttention | DIN | TIN | SIM | ETA | SDIM | TWIN | TWINV2 | DIEN | BST | HSTU


def build_encoder(config: EncoderConfig, num_tables: int, layout: EventLayout) -> Encoder:
    """The module of `config` over events of `layout`, with its own parameters for each of `num_tables` sets."""
    match config:
        case TargetAttentionConfig():
            return TargetAttention(config, num_tables, layout)
        case DINConfig():
            return DIN(config, num_tables, layout)
        case TINConfig():
            return TIN(config, num_tables, layout)
        case SIMConfig():
            return SIM(config, num_tables, layout.parts, layout.dim)
        case ETAConfig():
            return ETA(config, num_tables, layout.parts, layout.dim)
        case SDIMConfig():
            return SDIM(config, num_tables, layout.parts, layout.dim)
        case TWINConfig():
            return TWIN(config, num_tables, layout.parts, layout.dim)
        case TWINV2Config():
            return TWINV2(config, num_tables, layout.parts, layout.dim)
        case DIENConfig():
            return DIEN(config, num_tables, layout.parts, layout.dim)
        case BSTConfig():
            return BST(config, num_tables, layout.parts, layout.dim)
        case HSTUConfig():
            return HSTU(config, num_tables, layout.parts, layout.dim)
        case _:
            assert_never(config)


def reads_attention(config: EncoderConfig) -> bool:
    """Whether an encoder looks at attention vectors of their own; one that does not needs `decouple="shared"`."""
    return needs_attention(config) or isinstance(config, TargetAttentionConfig | DINConfig | TINConfig)


def needs_attention(config: EncoderConfig) -> bool:
    """Whether an encoder cannot do without attention vectors of their own; others read the shared ones instead."""
    match config:
        case SIMConfig(search=SoftSearchConfig(embeddings="tables")):
            return True
        case _:
            return False
