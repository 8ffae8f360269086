"""What every interaction and every transform of field vectors promises."""

import pytest
import torch
from safetensors.torch import load, save

from ctr_models.interactions.afm import AFM, AFMConfig
from ctr_models.interactions.attention import AutoInt, AutoIntConfig
from ctr_models.interactions.bilinear import FieldGateConfig, Stream, StreamConfig
from ctr_models.interactions.edcn import EDCN, EDCNConfig
from ctr_models.interactions.euler import EulerNet, EulerNetConfig
from ctr_models.interactions.finalnet import FinalBlockConfig, FinalNet, FinalNetConfig
from ctr_models.interactions.interaction import Transformed, TransformedConfig
from ctr_models.interactions.mask import MaskNet, MaskNetConfig
from ctr_models.interactions.mixture import CrossNetMix, CrossNetMixConfig
from ctr_models.interactions.polynomial import PolynomialConfig, PolynomialNet
from ctr_models.interactions.senet import SENet, SENetConfig
from ctr_models.layers import MLPConfig
from ctr_models.protocols import Interaction

TABLES, BATCH, FIELDS, DIM = 3, 16, 5, 8
FINAL_SUM = FinalBlockConfig(hidden=(7, 5), residual="sum", batch_norm=True, gate=True)
CASES = {
    "autoint": (AutoInt, AutoIntConfig(attention_dim=12)),
    "autoint_identity_scaled": (AutoInt, AutoIntConfig(attention_dim=8, residual="identity", scale=True)),
    "autoint_plain_norm": (AutoInt, AutoIntConfig(num_layers=1, num_heads=3, attention_dim=6, residual="none")),
    "autoint_norm": (AutoInt, AutoIntConfig(attention_dim=8, layer_norm=True)),
    "afm": (AFM, AFMConfig(attention_dim=6)),
    "edcn": (EDCN, EDCNConfig()),
    "edcn_sum": (EDCN, EDCNConfig(num_layers=1, bridge="sum", batch_norm=True)),
    "edcn_concat": (EDCN, EDCNConfig(num_layers=2, bridge="concat", temperature=0.5, residual=False)),
    "edcn_attention": (EDCN, EDCNConfig(num_layers=2, bridge="attention")),
    "euler": (EulerNet, EulerNetConfig(num_orders=(4, 4), initial_orders="uniform")),
    "euler_concat": (EulerNet, EulerNetConfig(num_orders=(5,), layer_norm=False, scale=0.25, output="concat")),
    "stream": (Stream, StreamConfig(hidden=MLPConfig(widths=(12, 9)))),
    "stream_gate": (Stream, StreamConfig(hidden=MLPConfig(widths=(9,)), gate=FieldGateConfig(hidden=(6,)))),
    "stream_context": (
        Stream,
        StreamConfig(hidden=MLPConfig(widths=(9,), batch_norm=True), gate=FieldGateConfig(context=(3, 1), hidden=(6,))),
    ),
    "transformed": (
        Transformed,
        TransformedConfig(
            transforms=(SENetConfig(reduction=1, excitation="sigmoid"), FieldGateConfig(context=(0,), hidden=(6,))),
            interaction=AFMConfig(attention_dim=6),
        ),
    ),
    "senet": (SENet, SENetConfig(reduction=1, excitation="sigmoid")),
    "senet_max": (SENet, SENetConfig(squeeze="max", reduction=1)),
    "masknet_serial": (MaskNet, MaskNetConfig(hidden=(7, 6))),
    "masknet_parallel": (MaskNet, MaskNetConfig(hidden=(7,), num_blocks=3, ratio=0.5)),
    "masknet_plain": (MaskNet, MaskNetConfig(hidden=(7, 6), num_blocks=2, field_norm=False, layer_norm=False)),
    "mixture": (CrossNetMix, CrossNetMixConfig(rank=3)),
    "mixture_sigmoid": (CrossNetMix, CrossNetMixConfig(num_layers=1, rank=4, gate="sigmoid", activation="identity")),
    "finalnet": (FinalNet, FinalNetConfig(first=FinalBlockConfig(hidden=(8, 6)))),
    "finalnet_two": (FinalNet, FinalNetConfig(first=FinalBlockConfig(hidden=(8, 6), gate=True), second=FINAL_SUM)),
    "polynomial": (PolynomialNet, PolynomialConfig()),
    "polynomial_orders": (PolynomialNet, PolynomialConfig(num_subspaces=4, residual=False, reduce_dim=False)),
}


@pytest.fixture(params=CASES, name="case")
def fixture_case(request):
    return CASES[request.param]


def build(case, num_tables=TABLES):
    """A module whose parameters all differ from their symmetric starting values."""
    kind, config = case
    torch.manual_seed(0)
    module = kind(config, num_tables, FIELDS, DIM).double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


def vectors():
    torch.manual_seed(1)
    return torch.randn(TABLES, BATCH, FIELDS, DIM, dtype=torch.float64)


def test_result_has_the_promised_shape(case):
    module, fields = build(case), vectors()
    out = module(fields)
    if isinstance(module, SENet):
        assert out.shape == fields.shape
    else:
        assert isinstance(module, Interaction)
        assert out.shape == (TABLES, BATCH, module.width)


def test_batched_sets_equal_a_loop_over_sets(case):
    module, fields = build(case), vectors()
    together = module(fields)
    state = module.state_dict()
    for number in range(TABLES):
        single = build(case, num_tables=1)
        single.load_state_dict({name: value.chunk(TABLES)[number] for name, value in state.items()})
        torch.testing.assert_close(single(fields[number : number + 1])[0], together[number])


def test_rows_do_not_touch_and_a_batch_of_one_works(case):
    module, fields = build(case), vectors()
    torch.testing.assert_close(module(fields[:, 2:3]), module(fields)[:, 2:3])


def test_gradient_reaches_every_parameter_and_every_field(case):
    module, fields = build(case).train(), vectors().requires_grad_()
    out = module(fields)
    (out * torch.randn_like(out)).sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert (parameter.grad.flatten(1) != 0).any(1).all(), name
    assert (fields.grad != 0).any((1, 3)).all()


def test_saved_and_loaded_is_bit_equal(case):
    module, fields = build(case), vectors()
    stored = save(module.state_dict())
    again = build(case)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    again.load_state_dict(load(stored))
    assert torch.equal(again(fields), module(fields))


def test_bfloat16_is_close_to_float32(case):
    module, fields = build(case).bfloat16(), vectors().bfloat16()
    rounded = module(fields)
    exact = module.float()(fields.float())
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).norm() < 0.1 * exact.norm()


def test_exported_graph_takes_any_batch(case):
    module, fields = build(case), vectors()
    graph = torch.export.export(module, (fields,), dynamic_shapes=({1: torch.export.Dim("batch", max=1 << 20)},))
    torch.testing.assert_close(graph.module()(fields[:, :5]), module(fields[:, :5]))


def test_zero_vectors_give_finite_values_and_gradients(case):
    module, fields = build(case), torch.zeros(TABLES, 2, FIELDS, DIM, dtype=torch.float64, requires_grad=True)
    out = module(fields)
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(fields.grad).all()


def test_only_batch_norm_tells_training_from_evaluation(case):
    module, fields = build(case), vectors()
    expected = module(fields)
    has_batch_norm = any("running_mean" in name for name in module.state_dict())
    assert torch.equal(module.train()(fields), expected) != has_batch_norm
