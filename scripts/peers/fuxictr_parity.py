"""Forward parity with FuxiCTR: its layers, put together as its models are, with our weights on the same rows.

Unlike the other runners it compares numbers, so it needs both sides in one environment: FuxiCTR 2.3.10 and jaxtyping,
run from a checkout (`ctr_models` needs nothing more). FM, DeepFM and FmFM are its layers and its equations;
the wheel's model zoo holds no CTR models without histories.
"""

import argparse
import sys
from collections.abc import Callable
from importlib.metadata import version
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from common import result
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ctr_models.batch import FeatureBatch
from ctr_models.interactions import module_presets, presets
from ctr_models.interactions.mixture import CrossNetMixConfig
from ctr_models.layers import MLP, MLPConfig
from ctr_models.model import CTRModel, CTRModelConfig

FIELDS, DIM, ROWS = 10, 10, 256
HIDDEN = MLPConfig(widths=(64, 32), batch_norm=True)


class Given(nn.Module):
    """Vectors of all fields, and first-order logits, as they are."""

    num_fields = FIELDS

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = values

    def forward(self, batch: FeatureBatch) -> Tensor:
        return self.values


def dense(linear: nn.Linear, weight: Tensor, bias: Tensor | None) -> None:
    linear.weight.copy_(weight.T)
    if linear.bias is not None:
        linear.bias.copy_(torch.zeros_like(linear.bias) if bias is None else bias.flatten())


def block_weight(weight: Tensor) -> Tensor:
    """(fields dim fields dim) -> (inputs outputs)."""
    return weight.reshape(FIELDS * DIM, FIELDS * DIM)


def perceptron(mlp: MLP) -> nn.Module:
    from fuxictr.pytorch.layers import MLP_Block

    widths = list(HIDDEN.widths)
    theirs = MLP_Block(
        FIELDS * DIM, hidden_units=widths, hidden_activations="ReLU", batch_norm=True, bn_only_once=False
    )
    linears = [module for module in theirs.modules() if isinstance(module, nn.Linear)]
    norms = [module for module in theirs.modules() if isinstance(module, nn.BatchNorm1d)]
    for layer, linear, norm in zip(mlp.layers, linears, norms, strict=True):
        dense(linear, layer.linear.weight[0], layer.linear.bias[0])
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(norm, name).copy_(getattr(layer.norm, name)[0])
    return theirs.eval()


def deep(model: CTRModel, e: Tensor) -> Tensor:
    tower = model.towers[-1]
    return perceptron(tower.hidden)(e.flatten(1)) @ tower.head.weight[0]


def factorised(model: CTRModel, e: Tensor, linear: Tensor) -> Tensor:
    from fuxictr.pytorch.layers import InnerProductInteraction

    return InnerProductInteraction(FIELDS, output="product_sum")(e) + linear + model.bias


def deepfm(model: CTRModel, e: Tensor, linear: Tensor) -> Tensor:
    return factorised(model, e, linear) + deep(model, e)


def fmfm(model: CTRModel, e: Tensor, linear: Tensor) -> Tensor:
    """The equation of its FmFM model: e_i M_ij, times e_j, summed over pairs."""
    weights = model.towers[0].interactions[0].stack.first.weights.left[0]
    first, second = torch.tensor(list(combinations(range(FIELDS), 2))).T
    product = torch.matmul(e[:, first].unsqueeze(2), weights).squeeze(2)
    return (product * e[:, second]).flatten(1).sum(1, keepdim=True) + linear + model.bias


def bilinear(model: CTRModel, e: Tensor, linear: Tensor) -> Tensor:
    from fuxictr.pytorch.layers import BilinearInteraction, SqueezeExcitation

    tower = model.towers[0]
    plain, excited = tower.interactions
    senet = SqueezeExcitation(FIELDS, reduction_ratio=3)
    ours = excited.transforms[0]
    linears = [module for module in senet.modules() if isinstance(module, nn.Linear)]
    for theirs, layer in zip(linears, (ours.down, ours.up), strict=True):
        dense(theirs, layer.weight[0], None)
    parts = []
    for network, fields in ((plain, e), (excited.interaction, senet(e))):
        theirs = BilinearInteraction(FIELDS, DIM, "field_interaction")
        theirs.bilinear_W.copy_(network.stack.function.weights.left[0])
        parts.append(theirs(fields).flatten(1))
    hidden = torch.cat(parts, 1)
    return hidden @ tower.head.weight[0] + linear + model.bias


def compressed(model: CTRModel, e: Tensor, linear: Tensor) -> Tensor:
    from fuxictr.pytorch.layers import CompressedInteractionNet

    tower = model.towers[0]
    layers = tower.interactions[0].stack.layers
    theirs = CompressedInteractionNet(FIELDS, [layer.weight.shape[1] for layer in layers])
    for layer, convolution in zip(layers, theirs.cin_layer.values(), strict=True):
        # its channels run over (raw field, source), ours over (source, raw field)
        convolution.weight.copy_(layer.weight[0].transpose(1, 2).flatten(1).unsqueeze(2))
        convolution.bias.copy_(layer.bias[0])
    dense(theirs.fc, tower.head.weight[0], model.bias)
    return theirs(e) + linear


def crossed(model: CTRModel, e: Tensor) -> Tensor:
    from fuxictr.pytorch.layers import CrossNetV2

    layers = model.towers[0].interactions[0].stack.layers
    theirs = CrossNetV2(FIELDS * DIM, len(layers))
    for layer, linear in zip(layers, theirs.cross_layers, strict=True):
        dense(linear, block_weight(layer.function.weights.left[0]), layer.bias)
    return theirs(e.flatten(1)) @ model.towers[0].head.weight[0] + model.bias


def first_crossed(model: CTRModel, e: Tensor) -> Tensor:
    from fuxictr.pytorch.layers import CrossNet

    layers = model.towers[0].interactions[0].stack.layers
    theirs = CrossNet(FIELDS * DIM, len(layers))
    for layer, cross in zip(layers, theirs.cross_net, strict=True):
        dense(cross.weight, layer.function.inward[0], None)
        cross.bias.copy_(layer.bias.flatten())
    return theirs(e.flatten(1)) @ model.towers[0].head.weight[0] + model.bias


def mixed(model: CTRModel, e: Tensor) -> Tensor:
    """One layer: with more, its layers share one gate and ours do not."""
    from fuxictr.pytorch.layers import CrossNetMix

    (layer,) = model.towers[0].interactions[0].layers
    experts, rank = layer.inner.shape[1:3]
    theirs = CrossNetMix(FIELDS * DIM, layer_num=1, low_rank=rank, num_experts=experts)
    theirs.V_list[0].copy_(torch.stack(layer.down.weight[0].chunk(experts, dim=1)))
    theirs.C_list[0].copy_(layer.inner[0].transpose(1, 2))
    theirs.U_list[0].copy_(layer.up[0].transpose(1, 2))
    theirs.bias[0].copy_(layer.bias.view(-1, 1))
    for expert, gate in enumerate(theirs.gating):
        gate.weight.copy_(layer.gate.weight[0, :, expert : expert + 1].T)
    return theirs(e.flatten(1)) @ model.towers[0].head.weight[0] + model.bias


Theirs = Callable[[CTRModel, Tensor, Tensor], Tensor]
PAIRS: dict[str, tuple[CTRModelConfig, Theirs]] = {
    "fm": (presets.fm(), factorised),
    "deepfm": (presets.deepfm(hidden=HIDDEN), deepfm),
    "fmfm": (presets.fmfm(), fmfm),
    "fibinet": (presets.fibinet(hidden=MLPConfig(widths=())), bilinear),
    "cin": (presets.cin(widths=(16, 12), bias=True), compressed),
    "crossnet": (presets.crossnet(num_layers=3), lambda model, e, linear: first_crossed(model, e)),
    "crossnet_v2": (presets.crossnet_v2(num_layers=3), lambda model, e, linear: crossed(model, e)),
    "crossnet_mix": (
        module_presets.crossnet_mix(mixture=CrossNetMixConfig(num_layers=1)),
        lambda model, e, linear: mixed(model, e),
    ),
    "dcn_v2": (
        presets.dcn_v2(num_layers=3, hidden=HIDDEN),
        lambda model, e, linear: crossed(model, e) + deep(model, e),
    ),
}


def compare(config: CTRModelConfig, theirs: Theirs) -> float:
    """Largest difference of a logit over the largest logit."""
    e, linear = torch.randn(ROWS, FIELDS, DIM), torch.randn(ROWS, 1)
    first_order = Given(linear) if config.linear == "weight" else None
    model = CTRModel(config, Given(e.unsqueeze(0)), linear=first_order).eval()
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2.0)
        else:
            value.add_(0.1 * torch.randn_like(value))
    empty = torch.zeros(ROWS, 0)
    ours = model(FeatureBatch(torch.zeros(ROWS, FIELDS, dtype=torch.int64), empty, empty, torch.zeros(ROWS, 1)))
    return float((ours - theirs(model, e, linear)).abs().max() / ours.abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=2024)
    parser.add_argument("--tolerance", type=float, default=1e-5)
    args = parser.parse_args()
    np.random.seed(args.seed)  # noqa: NPY002 - the peer draws from numpy's global generator
    torch.manual_seed(args.seed)
    with torch.no_grad():
        differences = {name: compare(config, theirs) for name, (config, theirs) in PAIRS.items()}
    result(peer="fuxictr", version=version("fuxictr"), relative_differences=differences)
    far = [name for name, difference in differences.items() if not difference <= args.tolerance]
    if far:
        raise SystemExit(f"more than {args.tolerance} from FuxiCTR: {', '.join(far)}")


if __name__ == "__main__":
    main()
