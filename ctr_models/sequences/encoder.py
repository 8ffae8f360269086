"""Every encoder of event sequences by its config. A member of the union follows `SequenceEncoder`."""

from typing import TypeAlias, assert_never

from ctr_models.sequences.din import DIN, DINConfig
from ctr_models.sequences.events import EventLayout
from ctr_models.sequences.target_attention import TargetAttention, TargetAttentionConfig
from ctr_models.sequences.tin import TIN, TINConfig

EncoderConfig: TypeAlias = TargetAttentionConfig | DINConfig | TINConfig
Encoder: TypeAlias = TargetAttention | DIN | TIN


def build_encoder(config: EncoderConfig, num_tables: int, layout: EventLayout) -> Encoder:
    """The module of `config` over events of `layout`, with its own parameters for each of `num_tables` sets."""
    match config:
        case TargetAttentionConfig():
            return TargetAttention(config, num_tables, layout)
        case DINConfig():
            return DIN(config, num_tables, layout)
        case TINConfig():
            return TIN(config, num_tables, layout)
        case _:
            assert_never(config)


def reads_attention(config: EncoderConfig) -> bool:
    """Whether an encoder looks at attention vectors of their own; one that does not needs `decouple="shared"`."""
    return isinstance(config, TargetAttentionConfig | DINConfig | TINConfig)
