"""Products of embeddings by name: each model is one choice of function, pooling, aggregator and head, with its numbers.

Equations stand at the parts they use; here are the choices. Defaults without a source are ours (the papers' tuned
values depend on the data set); hidden layers are those of the public benchmark's DCNv2 (500 x 3, dropout 0.1). Cross
layers start Xavier normal by their whole matrix, functions of the FM family as FM itself. `dim` is the width of a
field's vector. For several outputs replace `num_outputs` (heads that sum, those of the FM family, have one). Models of
other kinds are in `module_presets`, all names in `named`.
"""

from typing import Literal

from ctr_models.interactions.aggregators import AggregatorConfig
from ctr_models.interactions.interaction import InteractionConfig, TransformedConfig
from ctr_models.interactions.network import FlattenConfig, ProductNetworkConfig
from ctr_models.interactions.pooling import AnovaPooling, FieldPooling, PairsPooling, SumPooling, WeightedPooling
from ctr_models.interactions.senet import SENetConfig
from ctr_models.interactions.weights import FunctionConfig, Kind, Sharing
from ctr_models.layers import Activation, MLPConfig
from ctr_models.model import CTRModelConfig
from ctr_models.towers import TowerConfig

HIDDEN = MLPConfig(widths=(500, 500, 500), dropout=0.1)
CROSS = FunctionConfig(kind="projected", init="xavier_whole")
SENET = SENetConfig()
NOISE = 0.01  # deviation of projected FM-family matrices from the identity at the start

Structure = Literal["parallel", "stacked", "crossnet_only"]


def lr() -> CTRModelConfig:
    """Logistic regression: sum_i w_i."""
    return CTRModelConfig(dim=1, linear="weight")


def fm(*, dim: int = 10) -> CTRModelConfig:
    """Factorisation machine: sum_(a<b) e_a . e_b, by the square trick, and the linear part."""
    return _fm_family(FunctionConfig(triangular=True), dim)


def fwfm(*, dim: int = 10, linear: Literal["weight", "vector"] = "weight") -> CTRModelConfig:
    """Field-weighted FM: sum r_ab e_a . e_b. `linear="vector"` is the FeLV variant of public benchmarks, whose tables
    are twice as large: not like for like with FmFM.
    """
    return _fm_family(FunctionConfig(kind="weighted", triangular=True), dim, linear)


def fvfm(*, dim: int = 10) -> CTRModelConfig:
    """Field-vectorised FM: sum (d_ab * e_a) . e_b."""
    return _fm_family(FunctionConfig(kind="diagonal", triangular=True), dim)


def fmfm(*, dim: int = 10, rank: int | None = None) -> CTRModelConfig:
    """Field-matrixed FM: sum e_a M_ab e_b^T as one product with the block matrix. Starts at M = I plus noise (a
    Xavier initialiser that takes the axis of pairs for a receptive field makes it worse than FwFM).
    """
    if rank is not None:
        return _fm_family(FunctionConfig(kind="projected", triangular=True, rank=rank, init="xavier"), dim)
    return _fm_family(FunctionConfig(kind="projected", triangular=True, noise=NOISE), dim)


def ffm(*, num_fields: int, slice_dim: int = 4) -> CTRModelConfig:
    """Field-aware FM: each feature has one vector for each other field, sum v_a^(b) . v_b^(a)."""
    return _fm_family(FunctionConfig(triangular=True, selector="field"), slice_dim * (num_fields - 1))


def gwpfm(
    groups: tuple[int, ...], *, slice_dim: int = 8, hidden: MLPConfig = HIDDEN, head: Literal["mlp", "sum"] = "mlp"
) -> CTRModelConfig:
    """Group-weighted part-aware FM: sum r_(g(a),g(b)) v_a^(g(b)) * v_b^(g(a)), then an MLP; `groups` names each
    field's group. Added up by group before any product. The linear part is our choice, as in the family.
    """
    function = FunctionConfig(kind="weighted", sharing="group", groups=groups, selector="group", triangular=True)
    dim = slice_dim * (max(groups) + 1)
    if head == "sum":
        return _fm_family(function, dim)
    return _stacked(_network(function, SumPooling()), hidden, dim, linear=True)


def hofm(*, dim: int = 10, order: int = 3, untied: bool = True) -> CTRModelConfig:
    """Higher-order FM: sum over orders 2..order of the ANOVA kernel. `untied` has an embedding set for each order, as
    the paper; without it one set serves all.
    """
    pooling = AnovaPooling(method="newton" if order <= 5 else "prefix")
    aggregator = AggregatorConfig(kind="layer_per_table" if untied else "sum")
    network = ProductNetworkConfig(
        function=FunctionConfig(triangular=True), pooling=pooling, aggregator=aggregator, num_layers=order - 1
    )
    tower = TowerConfig(interactions=(network,), head="sum", combine="sum")
    return CTRModelConfig(towers=(tower,), dim=dim, num_tables=order - 1 if untied else 1, linear="weight")


def deepim(*, dim: int = 10, order: int = 5, hidden: MLPConfig | None = None) -> CTRModelConfig:
    """Interaction machine: ANOVA terms of all orders up to 5 by Newton's identities, concatenated, to a linear head or
    an MLP. The first order is the linear part (our choice).
    """
    network = ProductNetworkConfig(
        function=FunctionConfig(triangular=True),
        pooling=AnovaPooling(),
        aggregator=AggregatorConfig(kind="concat"),
        num_layers=order - 1,
    )
    return _stacked(network, hidden, dim, linear=True)


def nfm(*, dim: int = 10, hidden: MLPConfig = HIDDEN) -> CTRModelConfig:
    """Neural FM: the vector sum_(a<b) e_a * e_b, then an MLP (`input_batch_norm` and `input_dropout` of `hidden` are
    those of the bi-interaction layer).
    """
    return _stacked(_network(FunctionConfig(triangular=True), SumPooling()), hidden, dim, linear=True)


def ipnn(*, dim: int = 10, hidden: MLPConfig = HIDDEN) -> CTRModelConfig:
    """Inner-product network: [e; e_a . e_b of all pairs] -> MLP."""
    return _stacked(_pairs(FunctionConfig(triangular=True), include_raw=True, reduce_dim=True), hidden, dim)


def opnn(*, dim: int = 10, kernel: Literal["mat", "vec", "num"] = "mat", hidden: MLPConfig = HIDDEN) -> CTRModelConfig:
    """Product network with a kernel for each pair: [e; e_a W_ab e_b^T] -> MLP, W a matrix, a diagonal or a number."""
    kinds: dict[str, Kind] = {"mat": "projected", "vec": "diagonal", "num": "weighted"}
    function = FunctionConfig(kind=kinds[kernel], triangular=True, noise=NOISE)
    return _stacked(_pairs(function, include_raw=True, reduce_dim=True), hidden, dim)


def fibinet(
    *, dim: int = 10, bilinear: Sharing = "pair", senet: SENetConfig | None = SENET, hidden: MLPConfig = HIDDEN
) -> CTRModelConfig:
    """FiBiNET (Huang et al., RecSys 2019): the vectors (e_a W) * e_b of all pairs, of e and, with weights of their own,
    of SENet(e) -> MLP, and the linear part. `bilinear` is its "all", "each" (`source`) or "interaction" (`pair`).
    Without `senet` only the first half is there.
    """
    function = FunctionConfig(kind="projected", sharing=bilinear, triangular=True, init="xavier")
    pairs = _pairs(function, include_raw=False, reduce_dim=False)
    halves: tuple[InteractionConfig, ...] = (pairs,)
    if senet is not None:
        halves = (pairs, TransformedConfig(transforms=(senet,), interaction=pairs))
    tower = TowerConfig(interactions=halves, hidden=hidden)
    return CTRModelConfig(towers=(tower,), dim=dim, linear="weight")


def cin(
    *, dim: int = 10, widths: tuple[int, ...] = (16, 16), activation: Activation = "none", bias: bool = False
) -> CTRModelConfig:
    """Compressed interaction network of xDeepFM by itself: sums over dim of all its layers -> linear head."""
    return CTRModelConfig(towers=(_cin_tower(widths, activation, bias),), dim=dim, linear="weight")


def xdeepfm(*, dim: int = 10, widths: tuple[int, ...] = (16, 16), hidden: MLPConfig = HIDDEN) -> CTRModelConfig:
    """CIN, a parallel MLP and the linear part."""
    towers = (_cin_tower(widths, "none", False), TowerConfig(hidden=hidden))
    return CTRModelConfig(towers=towers, dim=dim, linear="weight")


def crossnet(*, dim: int = 10, num_layers: int = 5) -> CTRModelConfig:
    """Cross network of DCN: x_(l+1) = x_0 (x_l . w_l) + b_l + x_l, its rank-one matrix never materialised."""
    return crosses(_crossnet(num_layers), dim, None, "crossnet_only")


def dcn(*, dim: int = 10, num_layers: int = 3, hidden: MLPConfig = HIDDEN) -> CTRModelConfig:
    """Deep and cross network: `crossnet` beside an MLP."""
    return crosses(_crossnet(num_layers), dim, hidden, "parallel")


def crossnet_v2(*, dim: int = 10, num_layers: int = 4, rank: int | None = None) -> CTRModelConfig:
    """x_(l+1) = x_0 * (W_l x_l + b_l) + x_l -> linear head."""
    return crosses(_crossnet_v2(num_layers, rank), dim, None, "crossnet_only")


def dcn_v2(
    *,
    dim: int = 10,
    num_layers: int = 4,
    rank: int | None = None,
    hidden: MLPConfig = HIDDEN,
    structure: Structure = "parallel",
) -> CTRModelConfig:
    """`crossnet_v2` beside (`parallel`), before (`stacked`) or without an MLP; `rank` factors each whole W_l."""
    return crosses(_crossnet_v2(num_layers, rank), dim, hidden, structure)


def gdcn(
    *,
    dim: int = 10,
    num_layers: int = 4,
    hidden: MLPConfig = HIDDEN,
    structure: Structure = "stacked",
    initial_bias: Literal["zero", "uniform"] = "zero",
) -> CTRModelConfig:
    """Gated cross layers (Wang et al., CIKM 2023), x_(l+1) = x_0 * (W x_l + b) * sigmoid(W_g x_l) + x_l, before
    (GDCN-S) or beside (GDCN-P) an MLP. The gate damps crosses that a row does not need, at twice the cost of `dcn_v2`.
    """
    pooling = FieldPooling(residual="previous", bias="inner", gate=True, initial_bias=initial_bias)
    return crosses(_network(CROSS, pooling, num_layers=num_layers), dim, hidden, structure)


def finalnet_product(*, dim: int = 10, num_layers: int = 2, hidden: MLPConfig | None = None) -> CTRModelConfig:
    """The product layer of FinalNet: x_(l+1) = h_2 + h_1 * h_2 with h_1, h_2 linear maps of x_l, so that each layer
    doubles the order. Layers here keep the width fields * dim; FinalNet's may have any.
    """
    pooling = FieldPooling(right="mapped", residual="right", bias="inner")
    return _stacked(_network(CROSS, pooling, num_layers=num_layers), hidden, dim)


def dnn(*, dim: int = 10, hidden: MLPConfig = HIDDEN) -> CTRModelConfig:
    """An MLP on the concatenated vectors: the control without products."""
    return CTRModelConfig(towers=(TowerConfig(hidden=hidden),), dim=dim)


def wide_deep(*, dim: int = 10, hidden: MLPConfig = HIDDEN) -> CTRModelConfig:
    """`dnn` and the linear part."""
    return CTRModelConfig(towers=(TowerConfig(hidden=hidden),), dim=dim, linear="weight")


def deepfm(*, dim: int = 10, hidden: MLPConfig = HIDDEN) -> CTRModelConfig:
    """`fm` and a parallel MLP on the same vectors."""
    towers = (*fm(dim=dim).towers, TowerConfig(hidden=hidden))
    return CTRModelConfig(towers=towers, dim=dim, linear="weight")


def pfl(
    *,
    dim: int = 10,
    num_layers: int = 3,
    alpha: Literal["layer_weight", "term_weight", "dim_weight"] = "layer_weight",
    combine: Literal["sum", "concat"] = "sum",
    residual: bool = False,
    bias: bool = False,
    rank: int | None = None,
    hidden: MLPConfig = HIDDEN,
) -> CTRModelConfig:
    """Projected products, field-aggregated pooling, layer-weighted aggregation: a reconstruction of PFL.

        t^1 = e;   t^(l+1)_i = (sum_j t^l_j W^l_(j->i)) * e_i;   h = sum_l alpha_l t^l;   logit = MLP(h)

    The paper (arXiv 2411.12441) says PFL takes the strongest of each part; which, and every number here, was not
    established from its text. The switches are the ablations: alpha by layer, term or number, concatenation, residual,
    bias, low rank. The l-th layer has degree l in e, so that tables that start near zero (std 1e-4) leave high orders
    dead: start them at 0.01 to 1/sqrt(dim).
    """
    function = CROSS if rank is None else _low_rank(rank)
    pooling = FieldPooling(residual="previous" if residual else "none", bias="inner" if bias else "none")
    aggregator = AggregatorConfig(kind=alpha, combine=combine, include_raw=True)
    return _stacked(_network(function, pooling, aggregator, num_layers), hidden, dim)


def _network(
    function: FunctionConfig,
    pooling: SumPooling | FieldPooling,
    aggregator: AggregatorConfig | None = None,
    num_layers: int = 1,
) -> ProductNetworkConfig:
    return ProductNetworkConfig(
        function=function, pooling=pooling, aggregator=aggregator or AggregatorConfig(), num_layers=num_layers
    )


def _fm_family(function: FunctionConfig, dim: int, linear: Literal["weight", "vector"] = "weight") -> CTRModelConfig:
    tower = TowerConfig(interactions=(_network(function, SumPooling()),), head="sum")
    return CTRModelConfig(towers=(tower,), dim=dim, linear=linear)


def _pairs(function: FunctionConfig, *, include_raw: bool, reduce_dim: bool) -> ProductNetworkConfig:
    aggregator = AggregatorConfig(kind="concat", include_raw=include_raw, reduce_dim=reduce_dim)
    return ProductNetworkConfig(function=function, pooling=PairsPooling(), aggregator=aggregator)


def _cin_tower(widths: tuple[int, ...], activation: Activation, bias: bool) -> TowerConfig:
    network = ProductNetworkConfig(
        pooling=WeightedPooling(widths=widths, activation=activation, bias=bias),
        aggregator=AggregatorConfig(kind="concat", reduce_dim=True),
        num_layers=len(widths),
    )
    return TowerConfig(interactions=(network,))


def _crossnet(num_layers: int) -> ProductNetworkConfig:
    function = FunctionConfig(kind="rank_one", init="xavier_whole")
    return _network(function, FieldPooling(residual="previous", bias="outer"), num_layers=num_layers)


def _crossnet_v2(num_layers: int, rank: int | None) -> ProductNetworkConfig:
    function = CROSS if rank is None else _low_rank(rank)
    return _network(function, FieldPooling(residual="previous", bias="inner"), num_layers=num_layers)


def _low_rank(rank: int) -> FunctionConfig:
    return FunctionConfig(kind="projected", rank=rank, low_rank="whole", init="xavier_whole")


def _stacked(
    network: ProductNetworkConfig, hidden: MLPConfig | None, dim: int, *, linear: bool = False
) -> CTRModelConfig:
    tower = TowerConfig(interactions=(network,), hidden=hidden)
    return CTRModelConfig(towers=(tower,), dim=dim, linear="weight" if linear else "none")


def crosses(network: InteractionConfig, dim: int, hidden: MLPConfig | None, structure: Structure) -> CTRModelConfig:
    """Layers of crosses before (`stacked`), beside (`parallel`) or without an MLP, and one linear head."""
    stacked = structure == "stacked"
    cross = TowerConfig(interactions=(network,), hidden=hidden if stacked else None)
    deep = (TowerConfig(interactions=(FlattenConfig(),), hidden=hidden),) if structure == "parallel" else ()
    return CTRModelConfig(towers=(cross, *deep), dim=dim, joint_head=bool(deep))
