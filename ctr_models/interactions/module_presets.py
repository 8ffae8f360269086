"""Models outside the normal form of products by name: attention, learned orders, masks, gates, streams.

The interactions and the sources of their equations are in the modules beside this one. Their heads are linear, as
published; numbers without a source are ours, as in `presets`, whose hidden layers parallel branches have here too.
"""

from dataclasses import replace

from ctr_models.interactions.afm import AFMConfig
from ctr_models.interactions.attention import AutoIntConfig
from ctr_models.interactions.bilinear import BilinearFusionConfig, FieldGateConfig, StreamConfig
from ctr_models.interactions.edcn import EDCNConfig
from ctr_models.interactions.euler import EulerNetConfig
from ctr_models.interactions.finalnet import FinalNetConfig
from ctr_models.interactions.interaction import PlainInteractionConfig
from ctr_models.interactions.mask import MaskNetConfig
from ctr_models.interactions.mixture import CrossNetMixConfig
from ctr_models.interactions.polynomial import PolynomialConfig
from ctr_models.interactions.presets import HIDDEN, Structure, crosses
from ctr_models.layers import MLPConfig
from ctr_models.model import CTRModelConfig
from ctr_models.towers import FinalMLPConfig, TowerConfig

FIRST_STREAM = MLPConfig(widths=(400, 400, 400), batch_norm=True, dropout=0.2)
SECOND_STREAM = MLPConfig(widths=(1000,), batch_norm=True, dropout=0.3)
AFM, AUTOINT, EULERNET, EDCN = AFMConfig(), AutoIntConfig(), EulerNetConfig(), EDCNConfig(batch_norm=True)
FINALNET, MIXTURE, XDEEPINT = FinalNetConfig(), CrossNetMixConfig(), PolynomialConfig()
SERIAL_MASKS, PARALLEL_MASKS = MaskNetConfig(), MaskNetConfig(hidden=(64,), num_blocks=3)


def afm(*, dim: int = 10, attention: AFMConfig = AFM) -> CTRModelConfig:
    """Attentional FM: sum_(i<j) a_ij (e_i * e_j) with weights of the row -> linear head, and the linear part."""
    return replace(_headed(attention, dim), linear="weight")


def autoint(*, dim: int = 10, attention: AutoIntConfig = AUTOINT) -> CTRModelConfig:
    """Self-attention between fields: 3 layers, 2 heads of 32 -> linear head."""
    return _headed(attention, dim)


def autoint_plus(*, dim: int = 10, attention: AutoIntConfig = AUTOINT, hidden: MLPConfig = HIDDEN) -> CTRModelConfig:
    """`autoint` beside an MLP."""
    return _beside(attention, dim, hidden)


def eulernet(*, dim: int = 16, orders: EulerNetConfig = EULERNET) -> CTRModelConfig:
    """Products of learned orders in polar form -> linear head on real and imaginary parts. dim 16 is that of the
    authors' runs on Criteo; one layer of 16 order vectors is ours.
    """
    return _headed(orders, dim)


def finalmlp(
    *,
    dim: int = 10,
    first: MLPConfig = FIRST_STREAM,
    second: MLPConfig = SECOND_STREAM,
    num_heads: int = 200,
    first_context: tuple[int, ...] = (),
    second_context: tuple[int, ...] = (),
    gates: bool = True,
) -> CTRModelConfig:
    """Two gated MLP streams and their bilinear fusion. Streams and heads are those of the public benchmark on Criteo
    (its gates read the numeric fields there, and one category: name fields by `*_context`; without, a gate is
    learned). `num_heads` must divide the last width of both. The fusion's Xavier start is our choice.
    """
    tower = FinalMLPConfig(
        first=StreamConfig(hidden=first, gate=FieldGateConfig(context=first_context) if gates else None),
        second=StreamConfig(hidden=second, gate=FieldGateConfig(context=second_context) if gates else None),
        fusion=BilinearFusionConfig(num_heads=num_heads, initial="xavier"),
    )
    return CTRModelConfig(towers=(tower,), dim=dim)


def finalnet(*, dim: int = 10, blocks: FinalNetConfig = FINALNET) -> CTRModelConfig:
    """Factorised interaction layers of any width -> linear head. With a `second` block its two heads are averaged, but
    neither is taught by the other.
    """
    return _headed(blocks, dim)


def dcn_mix(
    *,
    dim: int = 10,
    mixture: CrossNetMixConfig = MIXTURE,
    hidden: MLPConfig = HIDDEN,
    structure: Structure = "parallel",
) -> CTRModelConfig:
    """`dcn_v2` with a gated mixture of low-rank experts for each W."""
    return crosses(mixture, dim, hidden, structure)


def crossnet_mix(*, dim: int = 10, mixture: CrossNetMixConfig = MIXTURE) -> CTRModelConfig:
    """`dcn_mix` without an MLP."""
    return crosses(mixture, dim, None, "crossnet_only")


def xdeepint(*, dim: int = 10, network: PolynomialConfig = XDEEPINT) -> CTRModelConfig:
    """Polynomial layers over fields and subspaces -> linear head."""
    return _headed(network, dim)


def masknet(*, dim: int = 10, blocks: MaskNetConfig = SERIAL_MASKS) -> CTRModelConfig:
    """Mask blocks one after the other -> linear head."""
    return _headed(blocks, dim)


def masknet_parallel(
    *, dim: int = 10, blocks: MaskNetConfig = PARALLEL_MASKS, hidden: MLPConfig = HIDDEN
) -> CTRModelConfig:
    """Mask blocks side by side -> MLP."""
    return CTRModelConfig(towers=(TowerConfig(interactions=(blocks,), hidden=hidden),), dim=dim)


def edcn(*, dim: int = 10, layers: EDCNConfig = EDCN) -> CTRModelConfig:
    """Cross and deep layers that meet after every layer -> linear head. The batch norm after each regulation is our
    choice: tables that start near zero make products of products too small to learn from without it.
    """
    return _headed(layers, dim)


def _headed(interaction: PlainInteractionConfig, dim: int) -> CTRModelConfig:
    return CTRModelConfig(towers=(TowerConfig(interactions=(interaction,)),), dim=dim)


def _beside(interaction: PlainInteractionConfig, dim: int, hidden: MLPConfig) -> CTRModelConfig:
    towers = (TowerConfig(interactions=(interaction,)), TowerConfig(hidden=hidden))
    return CTRModelConfig(towers=towers, dim=dim)
