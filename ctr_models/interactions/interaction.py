"""Every interaction by its config: the product network, modules outside its normal form, transforms before either.

A member of the union takes the vectors of all fields, (tables batch fields dim), to one vector a row and set.
"""

from dataclasses import dataclass
from typing import TypeAlias, assert_never

from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.interactions.afm import AFM, AFMConfig
from ctr_models.interactions.attention import AutoInt, AutoIntConfig
from ctr_models.interactions.bilinear import FieldGate, FieldGateConfig, Stream, StreamConfig
from ctr_models.interactions.edcn import EDCN, EDCNConfig
from ctr_models.interactions.euler import EulerNet, EulerNetConfig
from ctr_models.interactions.finalnet import FinalNet, FinalNetConfig
from ctr_models.interactions.mask import MaskNet, MaskNetConfig
from ctr_models.interactions.mixture import CrossNetMix, CrossNetMixConfig
from ctr_models.interactions.network import Flatten, FlattenConfig, ProductNetwork, ProductNetworkConfig
from ctr_models.interactions.polynomial import PolynomialConfig, PolynomialNet
from ctr_models.interactions.senet import SENet, SENetConfig

PlainInteractionConfig: TypeAlias = (
    ProductNetworkConfig
    | FlattenConfig
    | AFMConfig
    | AutoIntConfig
    | CrossNetMixConfig
    | EDCNConfig
    | EulerNetConfig
    | FinalNetConfig
    | MaskNetConfig
    | PolynomialConfig
    | StreamConfig
)
PlainInteraction: TypeAlias = (
    ProductNetwork
    | Flatten
    | AFM
    | AutoInt
    | CrossNetMix
    | EDCN
    | EulerNet
    | FinalNet
    | MaskNet
    | PolynomialNet
    | Stream
)
FieldTransformConfig: TypeAlias = SENetConfig | FieldGateConfig  # field vectors -> field vectors of the same shape
FieldTransform: TypeAlias = SENet | FieldGate


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformedConfig:
    """`transforms` of the field vectors, one after the other, then `interaction`: FiBiNET's second half is SENet before
    bilinear products, a gated stream of FinalMLP a field gate before an MLP.
    """

    transforms: tuple[FieldTransformConfig, ...]
    interaction: PlainInteractionConfig

    def __post_init__(self) -> None:
        if not self.transforms:
            raise ValueError("transforms must name at least one; without any use the interaction itself")


InteractionConfig: TypeAlias = PlainInteractionConfig | TransformedConfig


class Transformed(nn.Module):
    """See `TransformedConfig`."""

    def __init__(self, config: TransformedConfig, num_tables: int, num_fields: int, dim: int) -> None:
        super().__init__()
        transforms = (build_transform(transform, num_tables, num_fields, dim) for transform in config.transforms)
        self.transforms = nn.Sequential(*transforms)
        self.interaction = build_plain_interaction(config.interaction, num_tables, num_fields, dim)
        self.width = self.interaction.width

    def forward(self, fields: Float[Tensor, "tables batch fields dim"]) -> Float[Tensor, "tables batch width"]:
        out: Tensor = self.interaction(self.transforms(fields))
        return out


InteractionModule: TypeAlias = PlainInteraction | Transformed


def build_interaction(config: InteractionConfig, num_tables: int, num_fields: int, dim: int) -> InteractionModule:
    """The module of `config` over fields of `dim` numbers, with its own parameters for each of `num_tables` sets."""
    if isinstance(config, TransformedConfig):
        return Transformed(config, num_tables, num_fields, dim)
    return build_plain_interaction(config, num_tables, num_fields, dim)


def build_transform(config: FieldTransformConfig, num_tables: int, num_fields: int, dim: int) -> FieldTransform:
    """`build_interaction` for transforms."""
    match config:
        case SENetConfig():
            return SENet(config, num_tables, num_fields, dim)
        case FieldGateConfig():
            return FieldGate(config, num_tables, num_fields, dim)
        case _:
            assert_never(config)


def build_plain_interaction(
    config: PlainInteractionConfig, num_tables: int, num_fields: int, dim: int
) -> PlainInteraction:
    """`build_interaction` for interactions without a transform before them."""
    match config:
        case ProductNetworkConfig():
            return ProductNetwork(config, num_tables, num_fields, dim)
        case FlattenConfig():
            return Flatten(num_fields, dim)
        case AFMConfig():
            return AFM(config, num_tables, num_fields, dim)
        case AutoIntConfig():
            return AutoInt(config, num_tables, num_fields, dim)
        case CrossNetMixConfig():
            return CrossNetMix(config, num_tables, num_fields, dim)
        case EDCNConfig():
            return EDCN(config, num_tables, num_fields, dim)
        case EulerNetConfig():
            return EulerNet(config, num_tables, num_fields, dim)
        case FinalNetConfig():
            return FinalNet(config, num_tables, num_fields, dim)
        case MaskNetConfig():
            return MaskNet(config, num_tables, num_fields, dim)
        case PolynomialConfig():
            return PolynomialNet(config, num_tables, num_fields, dim)
        case StreamConfig():
            return Stream(config, num_tables, num_fields, dim)
        case _:
            assert_never(config)
