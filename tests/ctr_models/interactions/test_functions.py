from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ctr_models.interactions.functions import InteractionFunction, num_slices
from ctr_models.interactions.weights import FunctionConfig, PairWeights

FIELDS, DIM, TABLES = 4, 3, 2
GROUPS = (0, 1, 0, 2)
KINDS = ("naive", "weighted", "diagonal", "projected")
SHARINGS = ("all", "source", "pair", "group")


def function_of(kind, sharing="pair", **settings) -> InteractionFunction:
    groups = GROUPS if sharing == "group" else ()
    config = FunctionConfig(kind=kind, sharing=sharing, groups=groups, **settings)
    function = InteractionFunction(config, TABLES, FIELDS, FIELDS, DIM).double()
    with torch.no_grad():
        for parameter in function.parameters():
            parameter.normal_()
    return function


def vectors(seed: int = 0, tables: int = TABLES) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tables, 5, FIELDS, DIM, dtype=torch.float64, generator=generator).requires_grad_()


def matrix(function: InteractionFunction, table: int, a: int, b: int) -> Tensor:
    """W_ab as (dim, dim), read from the parameters by the definition of each sharing."""
    config, eye = function.config, torch.eye(DIM, dtype=torch.float64)
    if config.kind == "naive":
        return eye
    weights = function.weights
    pairs = list(combinations(range(FIELDS), 2))
    if config.triangular and config.sharing == "pair":
        item = weights.left[table, pairs.index((a, b))]
    else:
        s = {"all": 0, "source": a, "pair": a, "group": GROUPS[a]}[config.sharing]
        f = {"all": 0, "source": 0, "pair": b, "group": GROUPS[b]}[config.sharing]
        item = weights.left[table, s, :, f] if config.kind == "projected" else weights.left[table, s, f]
        if config.triangular and config.sharing == "group" and config.kind != "projected":
            item = (item + weights.left[table, f, s]) / 2
    return {"weighted": lambda: item * eye, "diagonal": item.diag, "projected": lambda: item}[config.kind]()


def looped_term(function: InteractionFunction, e: Tensor, a: int, b: int) -> Tensor:
    """f(e_a, e_b; W_ab), (tables batch dim)."""
    return torch.stack([(e[t, :, a] @ matrix(function, t, a, b)) * e[t, :, b] for t in range(TABLES)])


def assert_alike(function: InteractionFunction, e: Tensor, found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    leaves = [e, *function.parameters()]
    mine = torch.autograd.grad(found.square().sum(), leaves, retain_graph=True)
    theirs = torch.autograd.grad(expected.square().sum(), leaves)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


ALL = [(kind, sharing) for kind in KINDS for sharing in SHARINGS]


@pytest.mark.parametrize("triangular", [False, True])
@pytest.mark.parametrize(("kind", "sharing"), ALL)
def test_field_sum_equals_the_loop_over_sources(kind, sharing, triangular: bool) -> None:
    function, e = function_of(kind, sharing, triangular=triangular), vectors()
    columns = []
    for b in range(FIELDS):
        terms = [looped_term(function, e, a, b) for a in (range(b) if triangular else range(FIELDS))]
        columns.append(sum(terms) if terms else 0 * e[:, :, b])
    assert_alike(function, e, function(e, e), torch.stack(columns, 2))


@pytest.mark.parametrize(("kind", "sharing"), ALL)
def test_pairs_equal_the_loop_over_pairs(kind, sharing) -> None:
    function, e = function_of(kind, sharing, triangular=True), vectors()
    expected = torch.stack([looped_term(function, e, a, b) for a, b in combinations(range(FIELDS), 2)], 2)
    assert_alike(function, e, function.pair_terms(e), expected)
    expected = torch.stack([looped_term(function, e, a, b) for a, b in combinations(range(FIELDS), 2)], 2)
    assert_alike(function, e, function.pair_products(e), expected.sum(3))


@pytest.mark.parametrize("triangular", [False, True])
@pytest.mark.parametrize(("kind", "sharing"), ALL)
def test_sum_over_pairs_with_and_without_self_pairs(kind, sharing, triangular: bool) -> None:
    function, e = function_of(kind, sharing, triangular=triangular), vectors()
    pairs = [(a, b) for a in range(FIELDS) for b in range(FIELDS) if a < b or not triangular]
    assert_alike(function, e, function.pair_sum(e), sum(looped_term(function, e, a, b) for a, b in pairs))


@pytest.mark.parametrize("triangular", [False, True])
@pytest.mark.parametrize(("kind", "sharing"), ALL)
def test_lefts_are_the_projected_sources(kind, sharing, triangular: bool) -> None:
    function, e = function_of(kind, sharing, triangular=triangular), vectors()
    left = function.lefts(e)
    for a, b in combinations(range(FIELDS), 2):
        found = left[:, :, a] if left.ndim == 4 else left[:, :, a, b]
        torch.testing.assert_close(found * e[:, :, b], looped_term(function, e, a, b), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("triangular", [False, True])
@pytest.mark.parametrize("kind", ["weighted", "diagonal", "projected"])
def test_each_kind_at_the_identity_is_the_naive_one(kind, triangular: bool) -> None:
    e = vectors()
    naive = InteractionFunction(FunctionConfig(triangular=triangular), TABLES, FIELDS, FIELDS, DIM)
    function = InteractionFunction(FunctionConfig(kind=kind, triangular=triangular), TABLES, FIELDS, FIELDS, DIM)
    torch.testing.assert_close(function.double()(e, e), naive(e, e), rtol=1e-12, atol=1e-12)


def test_each_kind_contains_the_one_before() -> None:
    weighted, diagonal, projected = (function_of(kind, triangular=True) for kind in KINDS[1:])
    with torch.no_grad():
        diagonal.weights.left.copy_(weighted.weights.left.unsqueeze(-1).expand_as(diagonal.weights.left))
        projected.weights.left.copy_(diagonal.weights.left.diag_embed())
    e = vectors()
    torch.testing.assert_close(diagonal(e, e), weighted(e, e), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(projected(e, e), diagonal(e, e), rtol=1e-12, atol=1e-12)


def test_fwfm_is_a_quadratic_form_with_a_kronecker_matrix() -> None:
    function, e = function_of("weighted", triangular=True), vectors()
    for t in range(TABLES):
        form = torch.kron(function.weights.expanded()[t], torch.eye(DIM, dtype=torch.float64))
        flat = e[t].flatten(1)
        torch.testing.assert_close(function.pair_sum(e)[t].sum(1), ((flat @ form) * flat).sum(1))


def test_block_weight_shows_the_blocks() -> None:
    function = function_of("projected", triangular=True)
    blocks = function.block_weight()
    torch.testing.assert_close(blocks[1, 0, 2], matrix(function, 1, 0, 2))
    assert not blocks[:, 2, 0].any()
    with pytest.raises(ValueError, match="^block_weight is for kind 'projected' with blocks of its own, not 'naive'$"):
        function_of("naive").block_weight()


@pytest.mark.parametrize(("triangular", "sharing"), [(True, "pair"), (False, "pair"), (False, "source")])
def test_low_rank_blocks_equal_full_ones_with_the_product(triangular: bool, sharing) -> None:
    low = function_of("projected", sharing, triangular=triangular, rank=2, init="xavier")
    full, e = function_of("projected", sharing, triangular=triangular), vectors()
    product = low.weights.left @ low.weights.right
    with torch.no_grad():
        full.weights.left.copy_(product if product.ndim == 4 else product.transpose(2, 3))
    torch.testing.assert_close(low(e, e), full(e, e), rtol=1e-9, atol=1e-9)
    assert low.weights.left.shape[-1] == 2


def test_whole_low_rank_and_rank_one_equal_their_full_matrices() -> None:
    e, full = vectors(), function_of("projected")
    low = function_of("projected", rank=2, low_rank="whole", init="xavier_whole")
    one = function_of("rank_one", init="xavier_whole")
    for function, block in ((low, low.inward @ low.outward), (one, one.inward.expand(-1, -1, FIELDS * DIM))):
        with torch.no_grad():
            full.weights.left.copy_(block.view(TABLES, FIELDS, DIM, FIELDS, DIM))
        torch.testing.assert_close(function(e, e), full(e, e), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("init", "expected"), [("xavier", (1 / 10) ** 0.5), ("xavier_whole", (1 / 390) ** 0.5)])
@pytest.mark.parametrize("triangular", [False, True])
def test_every_matrix_starts_with_the_deviation_configured(init, expected: float, triangular: bool) -> None:
    torch.manual_seed(0)
    config = FunctionConfig(kind="projected", triangular=triangular, init=init)
    weights = PairWeights(config, 1, 39, 39, 10)
    blocks = weights.expanded().detach().transpose(2, 3)[0]
    stds = torch.stack([blocks[a, b].std() for a, b in combinations(range(39), 2)])
    assert float(stds.mean()) == pytest.approx(expected, rel=0.02)
    assert stds.min() > 0.7 * expected  # .316 for xavier; torch's rule for (741, 10, 10) would give .0163


def test_low_rank_matrices_start_with_the_deviation_of_full_ones() -> None:
    torch.manual_seed(0)
    config = FunctionConfig(kind="projected", triangular=True, init="xavier", rank=4)
    assert float(PairWeights(config, 1, 39, 39, 10).compact().detach().std()) == pytest.approx(0.1**0.5, rel=0.05)


def test_identity_with_noise_starts_near_the_naive_function() -> None:
    torch.manual_seed(0)
    config = FunctionConfig(kind="projected", triangular=True, noise=0.01)
    gap = PairWeights(config, 1, 39, 39, 10).left.detach() - torch.eye(10)
    assert float(gap.std()) == pytest.approx(0.01, rel=0.02)


@pytest.mark.parametrize(("kind", "sharing"), [("naive", "pair"), ("weighted", "all"), ("weighted", "group")])
def test_group_sums_of_slices_equal_pair_enumeration(kind, sharing) -> None:
    groups = GROUPS if sharing == "group" else ()
    config = FunctionConfig(kind=kind, sharing=sharing, groups=groups or GROUPS, selector="group", triangular=True)
    function = InteractionFunction(config, TABLES, FIELDS, FIELDS, 3 * DIM).double()
    with torch.no_grad():
        for parameter in function.parameters():
            parameter.normal_()
    wide = torch.randn(TABLES, 5, FIELDS, 3 * DIM, dtype=torch.float64, requires_grad=True)
    assert_alike(function, wide, function.pair_sum(wide), function.pair_terms(wide).sum(2))


@settings(max_examples=25, deadline=None)
@given(fields=st.integers(2, 7), dim=st.integers(1, 4), seed=st.integers(0, 1000))
def test_square_trick_equals_pair_enumeration(fields: int, dim: int, seed: int) -> None:
    function = InteractionFunction(FunctionConfig(triangular=True), 1, fields, fields, dim)
    e = torch.randn(1, 3, fields, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    expected = sum(e[:, :, a] * e[:, :, b] for a, b in combinations(range(fields), 2))
    torch.testing.assert_close(function.pair_sum(e), expected, rtol=1e-10, atol=1e-10)


def test_slices_are_counted_by_selector() -> None:
    assert num_slices(FunctionConfig(), 5) == 1
    assert num_slices(FunctionConfig(selector="field", triangular=True), 5) == 4
    assert num_slices(FunctionConfig(selector="group", groups=(0, 1, 1), triangular=True), 3) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sharing": "group"}, "groups must be given where sharing or selector is 'group' and only there: ()"),
        ({"groups": (0, 1)}, "groups must be given where sharing or selector is 'group' and only there: (0, 1)"),
        ({"sharing": "group", "groups": (0, 2)}, "groups must be numbered from 0 without a gap, got (0, 2)"),
        ({"rank": 2}, "rank must be at least 1 and is for kind 'projected', got 2 for 'naive'"),
        (
            {"kind": "projected", "rank": 0},
            "rank must be at least 1 and is for kind 'projected', got 0 for 'projected'",
        ),
        ({"kind": "projected", "low_rank": "whole"}, "low_rank 'whole' needs a rank, sharing 'pair' and no triangular"),
        ({"kind": "rank_one"}, "kind 'rank_one' starts as 'xavier_whole' or 'normal' and is never triangular"),
        (
            {"kind": "projected", "rank": 2},
            "a low-rank matrix cannot start as the identity; choose init 'xavier' or 'xavier_whole'",
        ),
        (
            {"kind": "weighted", "init": "xavier"},
            "init of kind 'weighted' must be 'identity' or 'normal', got 'xavier'",
        ),
        ({"noise": -0.1}, "noise must be at least 0, got -0.1"),
        ({"selector": "field"}, "a selector chooses slices for pairs a < b; set triangular"),
    ],
)
def test_wrong_settings_are_named(settings, message: str) -> None:
    with pytest.raises(ValueError) as error:
        FunctionConfig(**settings)
    assert str(error.value) == message


def test_sizes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="^groups names 2 fields but there are 4$"):
        InteractionFunction(FunctionConfig(kind="weighted", sharing="group", groups=(0, 1)), 1, 4, 4, 3)
    with pytest.raises(ValueError, match="^groups names 2 fields but there are 4$"):
        InteractionFunction(FunctionConfig(selector="group", groups=(0, 1), triangular=True), 1, 4, 4, 4)
    with pytest.raises(ValueError, match="^vectors of 4 numbers do not divide into the 3 slices of selector 'field'$"):
        InteractionFunction(FunctionConfig(selector="field", triangular=True), 1, 4, 4, 4)
    with pytest.raises(ValueError, match="^triangular needs sources and fields alike, got 3 and 4$"):
        InteractionFunction(FunctionConfig(kind="weighted", triangular=True), 1, 3, 4, 4)
