"""Backbones of multi-embedding (arXiv 2310.04400): M complete embedding sets, each with its own interaction module and
a non-linear layer, averaged before a shared tail.

    h = (1/M) sum_m I^(m)(e_1^(m), .., e_N^(m)),    y = F(h)

The non-linear layer of each set is needed (without it the model is a single-embedding one with a block-diagonal cross
matrix) and F has one layer less for it. With one set each backbone is the plain model, but for IPNN: the public code
feeds the plain one [embeddings; products] and the multiple one products alone. Numbers: layers of 400, batch
normalisation, dropout 0.2, 4 cross layers, CIN (16, 16) with ReLU, dim 10 (NFwFM 50).
"""

from typing import Literal, assert_never

from ctr_models.interactions.aggregators import AggregatorConfig
from ctr_models.interactions.bilinear import StreamConfig
from ctr_models.interactions.interaction import InteractionConfig
from ctr_models.interactions.network import FlattenConfig, ProductNetworkConfig
from ctr_models.interactions.pooling import FieldPooling, PairsPooling, SumPooling, WeightedPooling
from ctr_models.interactions.weights import FunctionConfig
from ctr_models.layers import MLPConfig
from ctr_models.model import CTRModelConfig
from ctr_models.towers import FinalMLPConfig, TowerConfig

Backbone = Literal["dnn", "dcn_v2", "ipnn", "nfwfm", "xdeepfm", "finalmlp"]
LAYER = MLPConfig(widths=(400,), batch_norm=True, dropout=0.2)


def multi_dnn(*, num_tables: int = 1, dim: int = 10, shared_interaction: bool = False) -> CTRModelConfig:
    """Concatenation -> 400 in each set, mean, 400 -> 1."""
    return _model((_tower(FlattenConfig(), shared_interaction),), num_tables, dim)


def multi_dcn_v2(
    *, num_tables: int = 1, dim: int = 10, num_layers: int = 4, shared_interaction: bool = False
) -> CTRModelConfig:
    """Full-matrix cross layers -> 400 in each set, mean, 400 -> 1: stacked, without a parallel branch."""
    network = ProductNetworkConfig(
        function=FunctionConfig(kind="projected", init="xavier_whole"),
        pooling=FieldPooling(residual="previous", bias="inner"),
        num_layers=num_layers,
    )
    return _model((_tower(network, shared_interaction),), num_tables, dim)


def multi_ipnn(
    *, num_tables: int = 1, dim: int = 10, include_raw: bool = False, shared_interaction: bool = False
) -> CTRModelConfig:
    """Inner products of all pairs (with the vectors, `include_raw`, in the plain model) -> 400 in each set, mean."""
    network = ProductNetworkConfig(
        function=FunctionConfig(triangular=True),
        pooling=PairsPooling(),
        aggregator=AggregatorConfig(kind="concat", reduce_dim=True, include_raw=include_raw),
    )
    return _model((_tower(network, shared_interaction),), num_tables, dim)


def multi_nfwfm(*, num_tables: int = 1, dim: int = 50, shared_interaction: bool = False) -> CTRModelConfig:
    """sum_ab R_ab e_a * e_b over all ordered pairs, a = b among them, R ~ N(0, 1) -> BN, dropout -> 400 in each set."""
    network = ProductNetworkConfig(function=FunctionConfig(kind="weighted", init="normal"), pooling=SumPooling())
    layer = MLPConfig(widths=(400,), batch_norm=True, dropout=0.2, input_batch_norm=True, input_dropout=0.2)
    return _model((_tower(network, shared_interaction, layer),), num_tables, dim)


def multi_xdeepfm(*, num_tables: int = 1, dim: int = 10, shared_interaction: bool = False) -> CTRModelConfig:
    """CIN in each set, mean of its pooled vectors -> linear; the branch of `multi_dnn` beside it, logits added."""
    network = ProductNetworkConfig(
        pooling=WeightedPooling(widths=(16, 16), activation="relu", bias=True),
        aggregator=AggregatorConfig(kind="concat", reduce_dim=True),
        num_layers=2,
    )
    cin = TowerConfig(interactions=(network,), shared_interaction=shared_interaction)
    return _model((cin, _tower(FlattenConfig(), shared_interaction)), num_tables, dim)


def multi_finalmlp(*, num_tables: int = 1, dim: int = 10, shared_interaction: bool = False) -> CTRModelConfig:
    """Two MLP streams (400, 400) in each set, each averaged over sets, then one bilinear form that starts at zero; the
    gates of FinalMLP are off, and with them the streams differ by their start alone.
    """
    stream = StreamConfig(hidden=MLPConfig(widths=(400, 400), batch_norm=True, dropout=0.2))
    tower = FinalMLPConfig(first=stream, second=stream, shared_interaction=shared_interaction)
    return CTRModelConfig(towers=(tower,), dim=dim, num_tables=num_tables)


def scaled(
    backbone: Backbone, factor: int, mode: Literal["single", "multi"], *, shared_interaction: bool = False
) -> CTRModelConfig:
    """`backbone` with `factor` times its embeddings: vectors `factor` times as wide, or `factor` sets of base width.

    Both have the same number of embedding parameters; `multi` has about 1/factor of the cross parameters.

    >>> scaled("dcn_v2", 3, "single").dim, scaled("dcn_v2", 3, "multi").num_tables
    (30, 3)
    """
    if factor < 1:
        raise ValueError(f"factor must be at least 1, got {factor}")
    base = 50 if backbone == "nfwfm" else 10
    dim, tables, shared = (base * factor, 1, False) if mode == "single" else (base, factor, shared_interaction)
    match backbone:
        case "dnn":
            return multi_dnn(num_tables=tables, dim=dim, shared_interaction=shared)
        case "dcn_v2":
            return multi_dcn_v2(num_tables=tables, dim=dim, shared_interaction=shared)
        case "ipnn":
            raw = mode == "single"
            return multi_ipnn(num_tables=tables, dim=dim, include_raw=raw, shared_interaction=shared)
        case "nfwfm":
            return multi_nfwfm(num_tables=tables, dim=dim, shared_interaction=shared)
        case "xdeepfm":
            return multi_xdeepfm(num_tables=tables, dim=dim, shared_interaction=shared)
        case "finalmlp":
            return multi_finalmlp(num_tables=tables, dim=dim, shared_interaction=shared)
        case _:
            assert_never(backbone)


def _tower(interaction: InteractionConfig, shared: bool, layer: MLPConfig = LAYER) -> TowerConfig:
    return TowerConfig(interactions=(interaction,), set_layers=layer, hidden=LAYER, shared_interaction=shared)


def _model(towers: tuple[TowerConfig, ...], num_tables: int, dim: int) -> CTRModelConfig:
    return CTRModelConfig(towers=towers, dim=dim, num_tables=num_tables)
