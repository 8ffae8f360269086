import dataclasses

import pytest
import torch
from torch import Tensor

from ctr_models.interactions.bilinear import Stream, StreamConfig
from ctr_models.interactions.multi_embedding import multi_dcn_v2, multi_finalmlp, multi_nfwfm
from ctr_models.interactions.network import ProductNetwork, ProductNetworkConfig
from ctr_models.interactions.pooling import FieldPooling, SumPooling
from ctr_models.interactions.weights import FunctionConfig
from ctr_models.layers import MLPConfig
from ctr_models.model import CTRModelConfig
from ctr_models.towers import FinalMLP, Tower, TowerConfig
from tests.ctr_models.interactions.worlds import FIELDS, tiny_backbones, tiny_batch, tiny_model

TABLES, DIM = 3, 3
BACKBONES = [name for name in tiny_backbones(1) if not name.endswith("shared") and "finalmlp" not in name]


def without_dropout(tower: TowerConfig) -> TowerConfig:
    layer, hidden = tower.set_layers, tower.hidden
    return dataclasses.replace(
        tower,
        set_layers=layer and dataclasses.replace(layer, dropout=0.0, input_dropout=0.0),
        hidden=hidden and dataclasses.replace(hidden, dropout=0.0),
    )


def randomised(tower: Tower) -> Tower:
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.normal_(0.0, 0.5)
    return tower


def single_set_of(tower: Tower, table: int) -> Tower:
    """The same tower over one set, with the parameters of set `table`."""
    single = Tower(tower.config, 1, FIELDS, DIM, 1)
    mine, theirs = dict(tower.named_parameters()), dict(single.named_parameters())
    with torch.no_grad():
        for name, parameter in theirs.items():
            source = mine[name]
            parameter.copy_(source if source.shape == parameter.shape else source[table : table + 1])
    return single


@pytest.mark.parametrize("name", BACKBONES)
def test_sets_in_one_pass_equal_a_loop_over_sets(name: str) -> None:
    torch.manual_seed(0)
    for config in tiny_backbones(TABLES)[name].towers:
        tower = randomised(Tower(without_dropout(config), TABLES, FIELDS, DIM, 1))
        fields = torch.randn(TABLES, 16, FIELDS, DIM, requires_grad=True)
        singles = [single_set_of(tower, table) for table in range(TABLES)]
        looped = torch.stack([single._interact(fields[m : m + 1]) for m, single in enumerate(singles)]).mean(0)
        expected = looped if singles[0].hidden is None else singles[0].hidden(looped)
        expected = singles[0].head(expected).squeeze(0)
        found = tower(fields)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        (mine,) = torch.autograd.grad(found.square().mean(), fields, retain_graph=True)
        (theirs,) = torch.autograd.grad(expected.square().mean(), fields, retain_graph=True)
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
        assert_parameter_gradients(tower, singles, found, expected)


def assert_parameter_gradients(tower: Tower, singles: list[Tower], found: Tensor, expected: Tensor) -> None:
    names = [name for name, _ in tower.named_parameters() if name.startswith("interactions")]
    of = dict(tower.named_parameters())
    if not names:
        return
    mine = torch.autograd.grad(found.square().mean(), [of[name] for name in names], retain_graph=True)
    for table, single in enumerate(singles):
        leaves = [dict(single.named_parameters())[name] for name in names]
        theirs = torch.autograd.grad(expected.square().mean(), leaves, retain_graph=True)
        for one, other in zip(mine, theirs, strict=True):
            torch.testing.assert_close(one[table : table + 1], other, rtol=1e-4, atol=1e-4)


def finalmlp_tower(shared_interaction: bool) -> FinalMLP:
    torch.manual_seed(0)
    config = multi_finalmlp(shared_interaction=shared_interaction).towers[0]
    stream = StreamConfig(hidden=MLPConfig(widths=(6, 4), batch_norm=True))
    tower = FinalMLP(dataclasses.replace(config, first=stream, second=stream), TABLES, FIELDS, DIM, 1)
    return randomised(tower).double()


def test_finalmlp_averages_each_stream_over_sets_before_one_fusion() -> None:
    tower = finalmlp_tower(shared_interaction=False)
    fields = torch.randn(TABLES, 16, FIELDS, DIM, dtype=torch.float64, requires_grad=True)
    firsts, seconds = [], []
    for table in range(TABLES):
        for stream, outs in ((tower.first, firsts), (tower.second, seconds)):
            single = Stream(StreamConfig(hidden=MLPConfig(widths=(6, 4), batch_norm=True)), 1, FIELDS, DIM).double()
            state = {name: value[table : table + 1] for name, value in stream.state_dict(keep_vars=True).items()}
            outs.append(torch.func.functional_call(single, state, fields[table : table + 1])[0])
    x, y = sum(firsts) / TABLES, sum(seconds) / TABLES
    fusion = tower.fusion
    expected = x @ fusion.first + y @ fusion.second + ((x @ fusion.weight[0, 0]) * y).sum(1, keepdim=True)
    found, leaves = tower(fields), [fields, *tower.parameters()]
    torch.testing.assert_close(found, expected)
    mine = torch.autograd.grad(found.square().sum(), leaves, retain_graph=True)
    torch.testing.assert_close(mine, torch.autograd.grad(expected.square().sum(), leaves))


def test_a_shared_pair_of_streams_serves_all_sets() -> None:
    tower = finalmlp_tower(shared_interaction=True).eval()
    fields = torch.randn(TABLES, 5, FIELDS, DIM, dtype=torch.float64)
    x, y = (
        torch.stack([stream(fields[m : m + 1])[0] for m in range(TABLES)]).mean(0)
        for stream in (tower.first, tower.second)
    )
    torch.testing.assert_close(tower(fields), tower.fusion(x, y))


def test_without_non_linearity_many_sets_are_one_with_block_diagonal_crosses() -> None:
    torch.manual_seed(0)
    cross = multi_dcn_v2(dim=DIM, num_layers=3).towers[0].interactions
    linear = MLPConfig(widths=(4,), activation="none")
    multi = randomised(Tower(TowerConfig(interactions=cross, set_layers=linear), TABLES, FIELDS, DIM, 1)).double()
    single = Tower(TowerConfig(interactions=cross), 1, FIELDS, TABLES * DIM, 1).double()
    with torch.no_grad():
        for one, many in zip(single.interactions[0].stack.layers, multi.interactions[0].stack.layers, strict=True):
            weight, bias = one.function.weights.left, one.bias
            weight.zero_()
            for m in range(TABLES):
                own = slice(m * DIM, (m + 1) * DIM)
                weight[0, :, own, :, own] = many.function.weights.left[m]
                bias[0, :, own] = many.bias[m]
        layer = multi.set_layers.layers[0].linear
        heads = torch.stack([layer.weight[m] @ multi.head.weight[0] / TABLES for m in range(TABLES)])
        single.head.weight.copy_(heads.view(TABLES, FIELDS, DIM).transpose(0, 1).reshape(1, -1, 1))
        shift = (layer.bias.mean(0) @ multi.head.weight[0]).item()
    fields = torch.randn(TABLES, 8, FIELDS, DIM, dtype=torch.float64)
    wide = torch.cat(list(fields), 2).unsqueeze(0)
    torch.testing.assert_close(multi(fields), single(wide) + shift, rtol=1e-9, atol=1e-9)


def test_nfwfm_sums_over_all_ordered_pairs_with_themselves() -> None:
    config = multi_nfwfm(num_tables=2, dim=DIM).towers[0].interactions[0]
    assert config == ProductNetworkConfig(function=FunctionConfig(kind="weighted", init="normal"), pooling=SumPooling())
    network = ProductNetwork(config, 2, FIELDS, DIM).double()
    e = torch.randn(2, 5, FIELDS, DIM, dtype=torch.float64)
    r = network.stack.first.weights.left
    expected = sum(r[:, i, j].view(2, 1, 1) * e[:, :, i] * e[:, :, j] for i in range(FIELDS) for j in range(FIELDS))
    torch.testing.assert_close(network(e), expected, rtol=1e-10, atol=1e-10)


def test_a_shared_interaction_serves_all_sets_with_one_set_of_parameters() -> None:
    config = without_dropout(multi_dcn_v2(num_tables=TABLES, dim=DIM, num_layers=2, shared_interaction=True).towers[0])
    shared = randomised(Tower(config, TABLES, FIELDS, DIM, 1)).eval()
    single = Tower(dataclasses.replace(config, shared_interaction=False), 1, FIELDS, DIM, 1).eval()
    single.load_state_dict(shared.state_dict())
    fields = torch.randn(TABLES, 5, FIELDS, DIM)
    expected = torch.stack([single._interact(fields[m : m + 1])[0] for m in range(TABLES)])
    torch.testing.assert_close(shared._interact(fields), expected, rtol=1e-5, atol=1e-5)


def test_official_dcn_v2_layout_with_one_set_is_a_stacked_dcn_v2() -> None:
    config = multi_dcn_v2(dim=DIM, num_layers=2)
    tower = config.towers[0]
    both = MLPConfig(widths=(400, 400), batch_norm=True, dropout=0.2)
    cross = ProductNetworkConfig(
        function=FunctionConfig(kind="projected", init="xavier_whole"),
        pooling=FieldPooling(residual="previous", bias="inner"),
        num_layers=2,
    )
    plain = CTRModelConfig(towers=(TowerConfig(interactions=(cross,), hidden=both),), dim=DIM)
    assert tower.interactions == (cross,)
    one, other = tiny_model(config), tiny_model(plain, seed=1)
    renamed = {
        name.replace("set_layers.layers.0", "hidden.layers.0")
        if "set_layers" in name
        else name.replace("hidden.layers.0", "hidden.layers.1"): value
        for name, value in one.state_dict().items()
    }
    other.load_state_dict(renamed)
    torch.testing.assert_close(one(tiny_batch()), other(tiny_batch()), rtol=1e-12, atol=1e-12)
