"""Parity of models of domains and tasks with public code: forward and gradients of MMoE and PLE of Scenario-Wise-Rec
and of STEM's own layers, with our weights on the same vectors.

    python scripts/peers/domain_parity.py --scenario-wise CLONE --stem CLONE

Clones: Xiaopengli1/Scenario-Wise-Rec (seen at 167ea86) and LiangcaiSu/STEM (at 769e2af). Both sides run in one
environment, from a checkout: torch, jaxtyping, and what the clones import besides (pandas, scikit-learn, h5py, tqdm,
PyYAML). Scenario-Wise-Rec normalises behind every linear layer but the last, its gates too; here those norms are the
identity (evaluation mode, statistics 0 and 1, no scale), as our gates have none.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from common import result
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ctr_models.batch import FeatureBatch
from ctr_models.domains.mixture import ExpertMixture, ExpertMixtureConfig
from ctr_models.domains.model import DomainModel, DomainModelConfig, build_domain_model
from ctr_models.domains.networks import HeadMLP
from ctr_models.layers import MLP, MLPConfig
from ctr_models.schema import RESERVED, Categorical, Schema

HEADS, FIELDS, DIM, ROWS = 3, 4, 6, 200
EXPERT, GATE, TOWER = MLPConfig(widths=(16, 12)), MLPConfig(widths=(8,)), MLPConfig(widths=(10,))
INPUTS = FIELDS * DIM
SCHEMA = Schema(
    fields=tuple(Categorical(name=f"field{number}", size=RESERVED + HEADS) for number in range(FIELDS)),
    labels=tuple(f"task{number}" for number in range(HEADS)),
    domain="field0",
)
MMOE = DomainModelConfig(body=ExpertMixtureConfig(num_shared=4, expert=EXPERT), dim=DIM, tower=TOWER)
PLE = ExpertMixtureConfig(num_shared=2, num_specific=3, expert=EXPERT)
STEM = ExpertMixtureConfig(
    num_shared=3,
    num_specific=2,
    expert=EXPERT,
    gate=GATE,
    gate_reads="own_and_shared",
    tables="head",
    foreign="stopped",
)


class Given(nn.Module):
    """Vectors of all fields as they are, one view a table."""

    num_fields = FIELDS

    def __init__(self, num_tables: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.randn(num_tables, ROWS, FIELDS, DIM))

    def forward(self, batch: FeatureBatch) -> Tensor:
        return self.values

    def views(self) -> list[Tensor]:
        """Of every table, (rows inputs)."""
        return list(self.values.flatten(2))


class Concatenated(nn.Module):
    """What stands for Scenario-Wise-Rec's embeddings."""

    def __init__(self, given: Given) -> None:
        super().__init__()
        self.given = given

    def forward(self, x: object, features: object, squeeze_dim: bool) -> Tensor:
        return self.given.views()[0]


@dataclass
class Twins:
    """Weights that were moved, to compare their gradients: theirs, ours, the set of ours, and whether ours is (in out)
    where theirs is (out in).
    """

    pairs: list[tuple[nn.Parameter, nn.Parameter, int]] = field(default_factory=list)

    @torch.no_grad()
    def move(self, ours: MLP | HeadMLP, place: int, theirs: nn.Module) -> None:
        """Network `place` of ours into theirs; its norms become the identity."""
        linears = [module for module in theirs.modules() if isinstance(module, nn.Linear)]
        for (weight, bias), linear in zip(layers(ours), linears, strict=True):
            linear.weight.copy_(weight[place].T)
            linear.bias.copy_(bias[place])
            self.pairs += [(linear.weight, weight, place), (linear.bias, bias, place)]
        for norm in theirs.modules():
            if isinstance(norm, nn.BatchNorm1d):
                norm.running_var.fill_(1 - norm.eps)

    def gradient_difference(self) -> float:
        """Largest difference of two gradients over the largest gradient."""
        scale = max(float(ours.grad.abs().max()) for _, ours, _ in self.pairs if ours.grad is not None)
        found = 0.0
        for theirs, ours, place in self.pairs:
            if theirs.grad is None or ours.grad is None:
                raise SystemExit("a weight that was moved has no gradient on one side")
            grad = ours.grad[place]
            grad = grad.T if grad.ndim == 2 else grad
            found = max(found, float((theirs.grad - grad).abs().max()))
        return found / scale


def layers(network: MLP | HeadMLP) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
    """Weights and biases in order, each with an axis of sets first."""
    every = list(network.layers)
    if isinstance(network, HeadMLP):
        every += [] if network.last is None else [network.last]
    for layer in every:
        linear = layer if isinstance(network, HeadMLP) else layer.linear
        yield linear.weight, linear.bias


def build(config: DomainModelConfig) -> tuple[DomainModel, Given]:
    """Ours, in float64, with biases that have left zero."""
    made: list[Given] = []

    def sources(schema: Schema, dim: int, num_tables: int) -> Given:
        made.append(Given(num_tables))
        return made[-1]

    model = build_domain_model(config, SCHEMA, build_sources=sources).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model, made[0]


def difference(model: DomainModel, given: Given, twins: Twins, theirs: Tensor, ours: Tensor) -> dict[str, float]:
    """Outputs, gradients of weights and gradients of inputs (by table), each over the largest."""
    weights = torch.randn_like(ours)
    (theirs * weights).sum().backward()
    inputs = given.values.grad.clone()
    given.values.grad = None
    (ours * weights).sum().backward()
    return {
        "forward": float(((theirs - ours).abs().max() / ours.abs().max()).detach()),
        "gradients": twins.gradient_difference(),
        "input_gradients": float((given.values.grad - inputs).abs().max() / inputs.abs().max()),
    }


def rows() -> FeatureBatch:
    ids = torch.randint(RESERVED, RESERVED + HEADS, (ROWS, FIELDS))
    empty = torch.zeros(ROWS, 0)
    return FeatureBatch(ids, empty, empty, torch.zeros(ROWS, HEADS))


def move_levels(twins: Twins, body: ExpertMixture, theirs: Sequence[nn.Module], *, stem: bool) -> None:
    """Experts and gates of all levels."""
    copies = body.config.num_specific
    for number, (level, other) in enumerate(zip(body.levels, theirs, strict=True)):
        last = number == len(body.levels) - 1
        if stem:
            shared, specific = other.shared_experts, [each for of_task in other.specific_experts for each in of_task]
            gates, shared_gate = list(other.gate)[:-1], other.gate[-1]
        else:
            shared, specific = other.experts_shared, list(other.experts_specific)
            gates, shared_gate = list(other.gates_specific), None if last else other.gate_shared
        for place, each in enumerate(shared):
            twins.move(level.shared, place, each)
        for place in range(HEADS * copies):
            twins.move(level.specific, place, specific[place])
        for place, each in enumerate(gates):
            twins.move(level.gate, place, each)
        if not last:
            twins.move(level.shared_gate, 0, shared_gate)


def scenario_wise(name: str, config: DomainModelConfig) -> dict[str, float]:
    """MMoE or PLE of Scenario-Wise-Rec: probabilities of each row's own domain."""
    from scenario_wise_rec.basic.features import SparseFeature
    from scenario_wise_rec.models.multi_domain import MMOE as TheirMMoE
    from scenario_wise_rec.models.multi_domain import PLE as TheirPLE

    model, given = build(config)
    body, batch, twins = model.body, rows(), Twins()
    features = [SparseFeature("x", vocab_size=2, embed_dim=INPUTS)]
    expert, tower = {"dims": list(EXPERT.widths)}, {"dims": list(TOWER.widths)}
    if name == "MMoE":
        theirs = TheirMMoE(features, HEADS, body.config.num_shared, expert, tower).double()
        (level,) = body.levels
        for place, each in enumerate(theirs.experts):
            twins.move(level.shared, place, each)
        for place, each in enumerate(theirs.gates):
            twins.move(level.gate, place, each)
    else:
        counts = body.config
        theirs = TheirPLE(
            features, HEADS, counts.num_levels, counts.num_specific, counts.num_shared, expert, tower
        ).double()
        move_levels(twins, body, list(theirs.cgc_layers), stem=False)
    theirs.eval()
    for place, each in enumerate(theirs.towers):
        twins.move(model.heads.towers, place, each)
    theirs.embedding = Concatenated(given)
    found = theirs({"domain_indicator": model.domains_of(batch)})
    return difference(model, given, twins, found, model(batch).sigmoid().squeeze(1))


def stem(config: DomainModelConfig) -> dict[str, float]:
    """STEM's layers and towers: logits of all tasks."""
    from fuxictr.pytorch.layers import MLP_Block
    from models.STEM import STEM_Layer

    model, given = build(config)
    body, batch, twins = model.body, rows(), Twins()
    widths = {"expert_hidden_units": list(EXPERT.widths), "gate_hidden_units": list(GATE.widths)}
    theirs = nn.ModuleList(
        STEM_Layer(
            body.config.num_shared,
            body.config.num_specific,
            HEADS,
            input_dim=INPUTS if number == 0 else EXPERT.widths[-1],
            hidden_activations="ReLU",
            net_dropout=0,
            batch_norm=False,
            **widths,
        )
        for number in range(body.config.num_levels)
    ).double()
    towers = nn.ModuleList(
        MLP_Block(EXPERT.widths[-1], hidden_units=list(TOWER.widths), output_dim=1) for _ in range(HEADS)
    ).double()
    move_levels(twins, body, list(theirs), stem=True)
    for place, each in enumerate(towers):
        twins.move(model.heads.towers, place, each)
    streams = given.views()
    for layer in theirs:
        streams = layer(streams)
    found = torch.cat([tower(stream) for tower, stream in zip(towers, streams, strict=False)], 1)
    return difference(model, given, twins, found, model(batch))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenario-wise", type=Path, help="clone of Scenario-Wise-Rec")
    parser.add_argument("--stem", type=Path, help="clone of STEM")
    parser.add_argument("--seed", type=int, default=2024)
    parser.add_argument("--forward", type=float, default=1e-5, help="tolerance of outputs")
    parser.add_argument("--gradients", type=float, default=1e-4, help="tolerance of gradients")
    args = parser.parse_args()
    if args.scenario_wise is None and args.stem is None:
        parser.error("name a clone: --scenario-wise, --stem or both")
    torch.manual_seed(args.seed)
    found: dict[str, dict[str, float]] = {}
    if args.scenario_wise is not None:
        sys.path.insert(0, str(args.scenario_wise))
        found["Scenario-Wise-Rec MMoE"] = scenario_wise("MMoE", MMOE)
        for levels in (1, 2):
            ple = DomainModelConfig(body=replace(PLE, num_levels=levels), dim=DIM, tower=TOWER)
            found[f"Scenario-Wise-Rec PLE, levels: {levels}"] = scenario_wise("PLE", ple)
    if args.stem is not None:
        sys.path.insert(0, str(args.stem))
        for levels in (1, 2):
            body = replace(STEM, num_levels=levels)
            found[f"STEM, levels: {levels}"] = stem(DomainModelConfig(body=body, by="task", dim=DIM, tower=TOWER))
    result(peer="domains", relative_differences=found)
    far = [
        name
        for name, each in found.items()
        if not (each["forward"] <= args.forward and max(each["gradients"], each["input_gradients"]) <= args.gradients)
    ]
    if far:
        raise SystemExit(f"too far from theirs: {', '.join(far)}")


if __name__ == "__main__":
    main()
