"""FinalMLP's streams, gates and fusion against loops; averaging over sets before the fusion."""

import pytest
import torch

from ctr_models.interactions.bilinear import (
    BilinearFusion,
    BilinearFusionConfig,
    FieldGate,
    FieldGateConfig,
    Stream,
    StreamConfig,
)
from ctr_models.layers import MLPConfig, TableLinear


def perceptron(network, number, row, *, last_relu=True):
    """Linear maps with a ReLU after each (but the last, unless asked)."""
    maps = [layer for layer in network.modules() if isinstance(layer, TableLinear)]
    for place, layer in enumerate(maps, start=1):
        row = row @ layer.weight[number] + layer.bias[number]
        row = torch.clamp(row, min=0) if last_relu or place < len(maps) else row
    return row


@pytest.mark.parametrize("gate", [None, FieldGateConfig(), FieldGateConfig(context=(2, 0), hidden=(5, 4))])
def test_stream_equals_the_loop(build, agree, gate):
    module = build(Stream, StreamConfig(hidden=MLPConfig(widths=(7, 5)), gate=gate), 2, 4, 3)

    def reference(number, row):
        if gate is not None:
            if gate.context:
                context = torch.cat([row[i] for i in gate.context])
                logits = perceptron(module.gate.network, number, context, last_relu=False).view(4, 3)
            else:
                logits = module.gate.logits[number, 0]
            row = row * (2 / (1 + (-logits).exp()))
        return perceptron(module.network, number, row.flatten())

    agree(module, reference, (2, 3, 4, 3))


def test_fresh_gate_without_context_changes_nothing_and_learns():
    gate, fields = FieldGate(FieldGateConfig(), 2, 4, 3), torch.randn(2, 5, 4, 3)
    assert torch.equal(gate(fields), fields)
    gate(fields).sum().backward()
    torch.testing.assert_close(gate.logits.grad, fields.sum(1, keepdim=True) / 2)  # 2 sigmoid'(0) = 1/2


def test_batch_norm_uses_the_statistics_of_each_set(build):
    module = build(Stream, StreamConfig(hidden=MLPConfig(widths=(5,), batch_norm=True)), 2, 4, 3)
    fields = torch.randn(2, 6, 4, 3, dtype=torch.float64)
    out = module(fields)
    for number in range(2):
        linear, norm = module.network.layers[0].linear, module.network.layers[0].norm
        hidden = fields[number].flatten(1) @ linear.weight[number] + linear.bias[number]
        centred = hidden - hidden.mean(0)
        expected = centred / (hidden.var(0, unbiased=False) + 1e-5).sqrt() * norm.weight[number] + norm.bias[number]
        torch.testing.assert_close(out[number], expected.relu())
        torch.testing.assert_close(norm.running_mean[number], 0.1 * hidden.mean(0))
        torch.testing.assert_close(norm.running_var[number], 0.9 + 0.1 * hidden.var(0))
    module.eval()
    torch.testing.assert_close(module(fields[:, :1]), module(fields)[:, :1])


@pytest.mark.parametrize("num_heads", [1, 2])
@pytest.mark.parametrize("num_outputs", [1, 3])
def test_fusion_equals_the_loop_over_heads(build, agree, num_heads, num_outputs):
    config = BilinearFusionConfig(num_heads=num_heads, initial="xavier")
    module = build(BilinearFusion, config, 6, 4, num_outputs)

    def reference(_number, row):
        left, right = row[:6], row[6:]
        logits = []
        for output in range(num_outputs):
            logit = (module.first[:, output] * left).sum() + (module.second[:, output] * right).sum()
            for head, (x, y) in enumerate(zip(left.chunk(num_heads), right.chunk(num_heads), strict=True)):
                logit = logit + x @ module.weight[output, head] @ y
            logits.append(logit)
        return torch.stack(logits)

    class Both(torch.nn.Module):
        """Takes (1, batch, 10) so that the comparison can feed it."""

        def __init__(self):
            super().__init__()
            self.fusion = module

        def forward(self, streams):
            return self.fusion(streams[0, :, :6], streams[0, :, 6:]).unsqueeze(0)

    agree(Both(), reference, (1, 5, 10))


def test_fusion_starts_as_two_linear_heads():
    fusion = BilinearFusion(BilinearFusionConfig(num_heads=2), 6, 4)
    left, right = torch.randn(5, 6), torch.randn(5, 4)
    torch.testing.assert_close(fusion(left, right), left @ fusion.first + right @ fusion.second)
    fusion(left, right).sum().backward()
    assert fusion.weight.grad.abs().min() > 0


def test_xavier_start_has_the_deviation_of_one_head():
    torch.manual_seed(0)
    weight = BilinearFusion(BilinearFusionConfig(num_heads=10, initial="xavier"), 400, 800).weight
    torch.testing.assert_close(weight.detach().std(), torch.tensor((2 / (40 + 80)) ** 0.5), rtol=0.02, atol=0)


def test_streams_average_over_sets_before_the_fusion():
    """The multi-embedding form: with equal sets it is the single model."""
    torch.manual_seed(0)
    first, second = (Stream(StreamConfig(hidden=MLPConfig(widths=(width,))), 1, 4, 3) for width in (6, 4))
    fusion = BilinearFusion(BilinearFusionConfig(initial="xavier"), first.width, second.width)
    fields = torch.randn(1, 5, 4, 3)
    single = fusion(first(fields)[0], second(fields)[0])
    copies = [Stream(StreamConfig(hidden=MLPConfig(widths=(stream.width,))), 3, 4, 3) for stream in (first, second)]
    for copy, stream in zip(copies, (first, second), strict=True):
        copy.load_state_dict({k: v.repeat(3, *[1] * (v.dim() - 1)) for k, v in stream.state_dict().items()})
    averages = [copy(fields.expand(3, -1, -1, -1)).mean(0) for copy in copies]
    torch.testing.assert_close(fusion(*averages), single)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FieldGateConfig(hidden=(0,)), "hidden must hold at least one size, each at least 1, got (0,)"),
        (lambda: FieldGateConfig(context=(1, 1)), "context must hold distinct positions of fields, from 0, got (1, 1)"),
        (lambda: FieldGateConfig(context=(-1,)), "context must hold distinct positions of fields, from 0, got (-1,)"),
        (
            lambda: FieldGate(FieldGateConfig(context=(0, 4)), 1, 4, 3),
            "gate context (0, 4) names a field beyond the 4 there are",
        ),
        (lambda: BilinearFusionConfig(num_heads=0), "num_heads must be at least 1, got 0"),
        (
            lambda: BilinearFusion(BilinearFusionConfig(num_heads=4), 6, 4),
            "first stream's width 6 cannot be shared by num_heads 4; choose a divisor",
        ),
        (
            lambda: BilinearFusion(BilinearFusionConfig(num_heads=3), 6, 4),
            "second stream's width 4 cannot be shared by num_heads 3; choose a divisor",
        ),
    ],
)
def test_options_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError) as refusal:
        make()
    assert str(refusal.value) == message
