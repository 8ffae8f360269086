"""Tiles, masks and a loop over rows run every row through its own head alone."""

import pytest
import torch

from ctr_models.domains.networks import HeadMLP, check_no_batch_norm
from ctr_models.domains.routing import EveryHead, MaskRouting, TileRouting, by_domain, domains_of, in_tiles, tile_rows
from ctr_models.layers import MLPConfig
from ctr_models.schema import Categorical, Schema
from tests.ctr_models.domains.worlds import batch, schema

CONFIGS = [
    MLPConfig(widths=(5, 3)),
    MLPConfig(widths=(4,), activation="prelu"),
    MLPConfig(widths=(3,), activation="tanh"),
    MLPConfig(widths=()),
]
DRAWS = {
    "even": torch.arange(41) % 4,
    "one_domain_is_empty": torch.arange(30) % 4 * (torch.arange(30) % 4 != 2),
    "all_in_one": torch.full((9,), 3),
    "one_row": torch.tensor([2]),
    "long_tail": torch.cat([torch.zeros(150, dtype=torch.int64), torch.tensor([1, 3, 3])]),
}


def by_loop(mlp: HeadMLP, rows: torch.Tensor, domains: torch.Tensor) -> torch.Tensor:
    """Row after row through its own head's matrices."""
    results = []
    for row, head in zip(rows, domains.tolist(), strict=True):
        for number, layer in enumerate(mlp.layers):
            row = row @ layer.weight[head] + layer.bias[head]
            if mlp.activation == "prelu":
                row = torch.where(row > 0, row, mlp.slopes[number][head] * row)
            elif mlp.activation == "tanh":
                row = row.tanh()
            else:
                row = row.relu()
        results.append(row @ mlp.last.weight[head] + mlp.last.bias[head])
    return torch.stack(results)


@pytest.fixture(params=CONFIGS, name="mlp", ids=repr)
def fixture_mlp(request):
    torch.manual_seed(0)
    mlp = HeadMLP(request.param, 4, 6, outputs=2).double()
    for parameter in mlp.parameters():
        torch.nn.init.normal_(parameter)
    return mlp


@pytest.mark.parametrize("dispatch", ["sort", "mask"])
@pytest.mark.parametrize("name", DRAWS)
def test_each_row_runs_its_own_head_alone_forward_and_backward(mlp, name, dispatch):
    domains = DRAWS[name]
    rows = torch.randn(len(domains), 6, dtype=torch.float64, requires_grad=True)
    found = mlp(rows.unsqueeze(0), by_domain(domains, 4, dispatch))[0]
    expected = by_loop(mlp, rows, domains)
    torch.testing.assert_close(found, expected)
    weights, leaves = torch.randn_like(found), [rows, *mlp.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad((found * weights).sum(), leaves, materialize_grads=True, allow_unused=True),
        torch.autograd.grad((expected * weights).sum(), leaves, materialize_grads=True, allow_unused=True),
    )


@pytest.mark.parametrize("tile", [1, 2, 7, 64])
@pytest.mark.parametrize("name", DRAWS)
def test_tiles_hold_every_row_once_under_its_own_head(name, tile):
    domains = DRAWS[name]
    routing = in_tiles(domains, 4, tile)
    assert routing.slots.unique().numel() == len(domains)
    assert torch.equal(routing.heads[routing.slots // tile], domains)
    assert len(routing.heads) == (len(domains) + 4 * (tile - 1)) // tile


def test_rows_of_a_domain_keep_their_order_in_tiles():
    domains = DRAWS["even"]
    slots = in_tiles(domains, 4, 8).slots
    assert all((slots[domains == head].diff() > 0).all() for head in range(4))


def test_spread_then_collect_gives_the_rows_back():
    domains, rows = DRAWS["even"], torch.randn(1, 41, 3)
    for routing in (in_tiles(domains, 4, 8), MaskRouting(domains, torch.arange(4))):
        assert torch.equal(routing.collect(routing.spread(rows)), rows)


def test_a_head_of_no_row_gets_exactly_no_gradient(mlp):
    domains = DRAWS["one_domain_is_empty"]
    mlp(torch.randn(1, 30, 6, dtype=torch.float64), by_domain(domains, 4, "sort")).square().sum().backward()
    for parameter in mlp.parameters():
        assert parameter.grad[2].abs().max() == 0
        assert torch.isfinite(parameter.grad).all()


@pytest.mark.parametrize("dispatch", ["sort", "mask"])
@pytest.mark.parametrize("separate", [False, True])
def test_copies_of_a_head_equal_networks_of_their_own(dispatch, separate):
    torch.manual_seed(0)
    domains, copies = DRAWS["even"], 3
    mlp = HeadMLP(MLPConfig(widths=(5, 2)), 4, 6, copies=copies).double()
    rows = torch.randn(1, 41, 6 * copies if separate else 6, dtype=torch.float64)
    found = mlp(rows, by_domain(domains, 4, dispatch), separate=separate)[0].view(41, copies, 2)
    for copy in range(copies):
        own = HeadMLP(MLPConfig(widths=(5, 2)), 4, 6).double()
        own.load_state_dict({name: value[copy::copies] for name, value in mlp.state_dict().items()})
        given = rows[:, :, 6 * copy : 6 * copy + 6] if separate else rows
        torch.testing.assert_close(found[:, copy], own(given, by_domain(domains, 4, "mask"))[0])


@pytest.mark.parametrize("dispatch", ["sort", "mask"])
def test_one_root_head_gives_the_bits_of_equal_heads(dispatch):
    torch.manual_seed(0)
    root = HeadMLP(MLPConfig(widths=(32,)), 1, 16, outputs=1)
    heads = HeadMLP(MLPConfig(widths=(32,)), 4, 16, outputs=1)
    heads.load_state_dict({name: value.expand(4, *value.shape[1:]) for name, value in root.state_dict().items()})
    rows, routing = torch.randn(1, 153, 16), by_domain(DRAWS["long_tail"], 4, dispatch)
    assert torch.equal(root(rows, routing.as_root()), heads(rows, routing))


def test_small_batches_have_small_tiles():
    assert [tile_rows(batch, 30) for batch in (1, 32, 600, 4096)] == [8, 8, 20, 64]


def test_one_domain_needs_no_tiles():
    assert by_domain(torch.zeros(5, dtype=torch.int64), 1, "sort") == EveryHead(1)
    assert isinstance(by_domain(torch.zeros(5, dtype=torch.int64), 2, "sort"), TileRouting)


def test_rows_without_a_known_domain_are_of_the_first():
    rows = batch(4)
    rows.ids[:, 1] = torch.tensor([0, 1, 2, 4])
    assert domains_of(schema(), rows).tolist() == [0, 0, 0, 2]
    plain = Schema(fields=(Categorical(name="user", size=9),))
    assert domains_of(plain, rows).tolist() == [0, 0, 0, 0]


def test_batch_norm_of_heads_is_refused():
    with pytest.raises(ValueError) as error:
        check_no_batch_norm("tower", MLPConfig(widths=(4,), batch_norm=True))
    assert str(error.value) == "tower cannot have batch normalisation: a batch may hold no row or one of a domain"
