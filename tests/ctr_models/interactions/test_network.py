from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from ctr_models.interactions.aggregators import Aggregator, AggregatorConfig
from ctr_models.interactions.interaction import build_interaction
from ctr_models.interactions.network import (
    FlattenConfig,
    ProductNetwork,
    ProductNetworkConfig,
    build_stack,
)
from ctr_models.interactions.pooling import AnovaPooling, FieldPooling, PairsPooling, SumPooling, WeightedPooling
from ctr_models.interactions.stacks import elementary_sums
from ctr_models.interactions.weights import FunctionConfig
from ctr_models.protocols import Interaction

TABLES, FIELDS, DIM = 2, 5, 3
UPPER = FunctionConfig(triangular=True)
FULL = FunctionConfig(kind="projected", init="xavier_whole")


def vectors(scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return scale * torch.randn(TABLES, 4, FIELDS, DIM, dtype=torch.float64, generator=generator)


def stack_of(function, pooling, num_layers: int = 1, aggregator: AggregatorConfig | None = None) -> nn.Module:
    config = ProductNetworkConfig(
        function=function, pooling=pooling, num_layers=num_layers, aggregator=aggregator or AggregatorConfig()
    )
    torch.manual_seed(0)
    stack = build_stack(config, TABLES, FIELDS, DIM).double()
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.normal_()
    return stack


def anova(e: Tensor, order: int) -> Tensor:
    return sum(torch.stack([e[:, :, i] for i in t]).prod(0) for t in combinations(range(FIELDS), order))


@pytest.mark.parametrize("method", ["newton", "prefix"])
def test_anova_equals_enumeration_to_order_five(method) -> None:
    e = vectors().requires_grad_()
    for order, terms in enumerate(stack_of(UPPER, AnovaPooling(method=method), 4)(e), start=2):
        torch.testing.assert_close(terms[:, :, 0], anova(e, order), rtol=1e-9, atol=1e-9)
        mine, theirs = (
            torch.autograd.grad(x.square().sum(), e, retain_graph=True)[0] for x in (terms, anova(e, order))
        )
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-8)


def test_elementary_sums_beyond_the_number_of_fields_are_zero() -> None:
    torch.testing.assert_close(elementary_sums(vectors()[:, :, :2], 3)[3], torch.zeros(TABLES, 4, DIM).double())


def test_anova_of_projected_functions_multiplies_chains_of_increasing_fields() -> None:
    function = FunctionConfig(kind="projected", triangular=True)
    stack, e = stack_of(function, AnovaPooling(), 2), vectors()
    second, third = stack(e)
    w1, w2 = (function.block_weight() for function in stack.functions)
    for t in range(TABLES):

        def chain(a: int, b: int, t: int = t) -> Tensor:
            return (e[t, :, a] @ w1[t, a, b]) * e[t, :, b]

        torch.testing.assert_close(second[t, :, 0], sum(chain(a, b) for a, b in combinations(range(FIELDS), 2)))
        triples = combinations(range(FIELDS), 3)
        expected = sum((chain(a, b) @ w2[t, b, c]) * e[t, :, c] for a, b, c in triples)
        torch.testing.assert_close(third[t, :, 0], expected)


@pytest.mark.parametrize(
    ("function", "pooling", "layers"),
    [
        (UPPER, PairsPooling(), 1),
        (UPPER, SumPooling(), 3),
        (FULL, SumPooling(), 3),
        (UPPER, AnovaPooling(), 4),
        (FunctionConfig(kind="diagonal", triangular=True), AnovaPooling(), 3),
        (FULL, FieldPooling(), 3),
        (FunctionConfig(kind="rank_one", init="normal"), FieldPooling(), 3),
        (FunctionConfig(), WeightedPooling(widths=(3, 7, 2)), 3),
        (FULL, WeightedPooling(widths=(3,)), 1),
        (FunctionConfig(kind="projected", sharing="source"), WeightedPooling(widths=(3, 2)), 2),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else str(value),
)
def test_layer_l_has_degree_l(function, pooling, layers: int) -> None:
    stack = stack_of(function, pooling, layers)
    once, twice = list(stack(vectors())), list(stack(vectors(2.0)))
    assert [terms.shape[2] for terms in once] == stack.term_counts
    for degree, (terms, scaled) in enumerate(zip(once, twice, strict=True), start=2):
        torch.testing.assert_close(scaled, 2.0**degree * terms, rtol=1e-9, atol=1e-9)


def test_mapped_layers_double_the_degree() -> None:
    stack = stack_of(FULL, FieldPooling(right="mapped"), 2)
    for power, (terms, scaled) in enumerate(zip(stack(vectors()), stack(vectors(2.0)), strict=True), start=1):
        torch.testing.assert_close(scaled, 2.0 ** (2**power) * terms, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("width", [2, 9])
@pytest.mark.parametrize("kind", ["naive", "projected"])
def test_weighted_pooling_equals_the_sum_over_all_pairs(kind, width: int) -> None:
    stack, e = stack_of(FunctionConfig(kind=kind), WeightedPooling(widths=(width, 2), bias=True), 2), vectors()
    previous = e
    for layer, terms in zip(stack.layers, stack(e), strict=True):
        sources = previous.shape[2]
        blocks = layer.function.block_weight() if kind == "projected" else None
        for t in range(TABLES):
            for n in range(terms.shape[2]):
                expected = layer.bias[t, n]
                for a in range(sources):
                    for b in range(FIELDS):
                        left = previous[t, :, a] if blocks is None else previous[t, :, a] @ blocks[t, a, b]
                        expected = expected + layer.weight[t, n, a, b] * left * e[t, :, b]
                torch.testing.assert_close(terms[t, :, n], expected, rtol=1e-9, atol=1e-9)
        previous = terms


def test_cin_layer_is_a_convolution_over_all_products() -> None:
    stack, e = stack_of(FunctionConfig(), WeightedPooling(widths=(6,)), 1), vectors()
    (terms,) = stack(e)
    products = torch.einsum("bhd,bmd->bhmd", e[0], e[0]).flatten(1, 2)
    kernel = stack.layers[0].weight[0].flatten(1).unsqueeze(-1)
    torch.testing.assert_close(terms[0], nn.functional.conv1d(products, kernel))


def test_cross_layers_with_residual_unroll_to_a_sum_over_layers() -> None:
    stack, x0 = stack_of(FULL, FieldPooling(residual="previous"), 3), vectors()
    *earlier, last = [x0, *stack(x0)]
    products = [layer.function(x, x0) for layer, x in zip(stack.layers, earlier, strict=True)]
    torch.testing.assert_close(last, x0 + sum(products))


def test_pfl_with_unit_alpha_and_cumulative_sums_is_dcn_v2_without_bias() -> None:
    pfl, dcn = stack_of(FULL, FieldPooling(), 3), stack_of(FULL, FieldPooling(residual="previous"), 3)
    dcn.load_state_dict(pfl.state_dict())
    e = vectors()
    products, total = [e], e
    for layer in pfl.layers:
        products.append(layer(total, e))
        total = total + products[-1]
    config = AggregatorConfig(kind="layer_weight", include_raw=True)
    h = Aggregator(config, TABLES, pfl.term_counts, FIELDS, DIM)(e, iter(products[1:]))
    torch.testing.assert_close(h, list(dcn(e))[-1].flatten(2))


def layers_of(counts: list[int]) -> list[Tensor]:
    return [torch.randn(TABLES, 4, count, DIM, dtype=torch.float64) for count in counts]


@pytest.mark.parametrize("kind", ["last", "sum", "concat"])
def test_plain_aggregators(kind) -> None:
    e, layers = vectors(), layers_of([FIELDS, FIELDS])
    found = Aggregator(AggregatorConfig(kind=kind), TABLES, [FIELDS, FIELDS], FIELDS, DIM)(e, iter(layers))
    expected = {"last": layers[1], "sum": layers[0] + layers[1], "concat": torch.cat(layers, 2)}[kind]
    assert torch.equal(found, expected.flatten(2))


def test_raw_vectors_stay_whole_where_products_are_reduced() -> None:
    config = AggregatorConfig(kind="concat", include_raw=True, reduce_dim=True)
    e, layers = vectors(), layers_of([4, 2])
    aggregator = Aggregator(config, TABLES, [4, 2], FIELDS, DIM)
    found = aggregator(e, iter(layers))
    assert torch.equal(found, torch.cat([e.flatten(2), layers[0].sum(3), layers[1].sum(3)], 2))
    assert found.shape[2] == aggregator.width == FIELDS * DIM + 6


@pytest.mark.parametrize("combine", ["sum", "concat"])
@pytest.mark.parametrize(
    ("kind", "shape"), [("layer_weight", (1, 1)), ("term_weight", (FIELDS, 1)), ("dim_weight", (FIELDS, DIM))]
)
def test_weighted_aggregators_start_at_the_plain_ones(kind, combine, shape) -> None:
    e, layers = vectors(), layers_of([FIELDS, FIELDS])
    config = AggregatorConfig(kind=kind, combine=combine, include_raw=True)
    aggregator = Aggregator(config, TABLES, [FIELDS, FIELDS], FIELDS, DIM).double()
    assert [weight.shape for weight in aggregator.weights] == [(TABLES, 1, *shape)] * 3
    plain = Aggregator(AggregatorConfig(kind=combine, include_raw=True), TABLES, [FIELDS] * 2, FIELDS, DIM)
    assert torch.equal(aggregator(e, iter(layers)), plain(e, iter(layers)))
    with torch.no_grad():
        for number, weight in enumerate(aggregator.weights):
            weight.fill_(number + 1)
    scaled = [e, 2 * layers[0], 3 * layers[1]]
    torch.testing.assert_close(aggregator(e, iter(layers)), plain(e, iter([scaled[1], scaled[2]])))


def test_layer_per_table_takes_each_layer_from_its_own_set() -> None:
    layers = layers_of([1, 1])
    config = AggregatorConfig(kind="layer_per_table")
    found = Aggregator(config, TABLES, [1, 1], FIELDS, DIM)(vectors(), iter(layers))
    assert torch.equal(found, torch.stack([layers[0][0], layers[1][1]]).flatten(2))


def test_every_network_keeps_the_interaction_contract() -> None:
    for config in (FlattenConfig(), ProductNetworkConfig(function=FULL)):
        module = build_interaction(config, TABLES, FIELDS, DIM)
        assert isinstance(module, Interaction)
        assert module(vectors().float()).shape == (TABLES, 4, module.width)


def test_pairs_are_reduced_before_they_are_kept() -> None:
    reduced = AggregatorConfig(kind="concat", reduce_dim=True)
    stack = stack_of(FunctionConfig(kind="projected", triangular=True), PairsPooling(), 1, reduced)
    (products,) = stack(vectors())
    assert products.shape == (TABLES, 4, 10, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        (
            {"pooling": PairsPooling(), "function": UPPER, "num_layers": 2},
            "pairs are of second order: num_layers must be 1 (got 2) and the function triangular",
        ),
        ({"pooling": AnovaPooling()}, "anova multiplies fields in increasing order; make the function triangular"),
        (
            {"pooling": AnovaPooling(), "function": UPPER, "num_layers": 5},
            "newton is for orders up to 5, got 6; choose method 'prefix'",
        ),
        (
            {"pooling": WeightedPooling(widths=(2, 2)), "num_layers": 3},
            "widths must name each of 3 layers, got (2, 2); set num_layers too",
        ),
        (
            {"pooling": WeightedPooling(widths=(2,)), "function": FunctionConfig(kind="rank_one", init="normal")},
            "WeightedPooling needs a W for each source; rank_one and whole low rank have none",
        ),
        (
            {"function": FunctionConfig(selector="field", triangular=True)},
            "a selector is of second order: use it with PairsPooling or SumPooling and num_layers 1",
        ),
        (
            {
                "function": FunctionConfig(selector="field", triangular=True),
                "pooling": PairsPooling(),
                "aggregator": AggregatorConfig(kind="concat", include_raw=True),
            },
            "vectors under a selector are wider than its terms; drop include_raw",
        ),
    ],
)
def test_choices_that_do_not_go_together_are_named(settings, message: str) -> None:
    with pytest.raises(ValueError) as error:
        ProductNetworkConfig(**settings)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"include_raw": True}, "include_raw is for aggregators of all layers, not 'last'"),
        (
            {"kind": "sum", "combine": "concat"},
            "combine 'concat' is for weighted aggregators, not 'sum'; use kind 'concat'",
        ),
        (
            {"kind": "layer_weight", "include_raw": True, "reduce_dim": True},
            "'layer_weight' cannot add raw vectors to sums over dim; drop include_raw or reduce_dim",
        ),
    ],
)
def test_wrong_aggregators_are_named(settings, message: str) -> None:
    with pytest.raises(ValueError) as error:
        AggregatorConfig(**settings)
    assert str(error.value) == message


def test_aggregators_that_do_not_fit_are_named() -> None:
    adds = ProductNetworkConfig(
        function=UPPER, pooling=SumPooling(), aggregator=AggregatorConfig(kind="sum", include_raw=True)
    )
    with pytest.raises(ValueError) as error:
        ProductNetwork(adds, 1, FIELDS, DIM)
    assert str(error.value) == "aggregator 'sum' needs layers of equal numbers of terms, got [5, 1]"
    with pytest.raises(ValueError, match="^layer_per_table needs one table a layer, got 2 for 3 layers$"):
        Aggregator(AggregatorConfig(kind="layer_per_table"), 2, [1, 1, 1], FIELDS, DIM)
    with pytest.raises(ValueError) as error:
        WeightedPooling(widths=())
    assert str(error.value) == "widths must name at least one layer, each at least 1 wide, got ()"


POOLINGS = {
    "pairs": (PairsPooling(), 1),
    "sum": (SumPooling(), 2),
    "anova": (AnovaPooling(), 2),
    "field": (FieldPooling(residual="previous", bias="outer", gate=True), 2),
    "weighted": (WeightedPooling(widths=(3, 3), bias=True), 2),
}


@pytest.mark.parametrize("aggregator", ["last", "sum", "concat", "layer_weight", "term_weight", "dim_weight"])
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("kind", ["naive", "weighted", "diagonal", "projected"])
def test_every_choice_of_the_three_composes_and_keeps_sets_apart(kind, pooling, aggregator) -> None:
    choice, num_layers = POOLINGS[pooling]
    config = ProductNetworkConfig(
        function=FunctionConfig(kind=kind, triangular=pooling in ("pairs", "sum", "anova")),
        pooling=choice,
        aggregator=AggregatorConfig(kind=aggregator),
        num_layers=num_layers,
    )
    together = ProductNetwork(config, TABLES, FIELDS, DIM).double()
    with torch.no_grad():
        for parameter in together.parameters():
            parameter.normal_()
    for table in range(TABLES):
        alone = ProductNetwork(config, 1, FIELDS, DIM).double()
        alone.load_state_dict({name: value[table : table + 1] for name, value in together.state_dict().items()})
        expected = alone(vectors()[table : table + 1])
        assert expected.shape == (1, 4, together.width)
        torch.testing.assert_close(together(vectors())[table : table + 1], expected, rtol=1e-9, atol=1e-9)
