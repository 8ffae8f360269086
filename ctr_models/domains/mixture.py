"""Mixtures of experts with a gate for each head: one body for Shared-Bottom, OMoE, MMoE, PLE, STEM and their kin.

    g_k = softmax(G_k(u_k)),    z_k = sum_j g_kj O_j,    O_j = MLP_j(x_j)

Experts are shared or specific to a head (a domain or a task). What a model is called depends on how many of each there
are, on which tables they read and on what a gate makes of the experts of other heads:

| model | shared | specific | tables | foreign experts |
|---|---|---|---|---|
| Shared-Bottom | 1 | 0 | one | - |
| OMoE, MMoE | n | 0 | one | - |
| PLE (CGC with one level) | n | m | one | hidden |
| STEM (arXiv 2308.13537), SDEM by domain | n | m | one a head, one shared | stopped |
| ME-MMoE, ME-PLE | n | 0 or m | one an expert | hidden |

Levels follow PLE: between them a shared gate over all experts, without a stop, makes the input of the next level's
shared experts; the last level has none. With one level the loss of head k has no gradient in tables and experts of
other heads; with more of them the shared stream carries some (STEM's code has it so).

The multi-embedding baselines have no public model: each expert reading a table of its own is our definition. A gate
reads the sum of the tables that its head's own experts read, with `gate_reads` "own_and_shared" also those of the
shared experts, each once: that is x_k + x_s in STEM. Shared experts with batch normalisation normalise rows of all
domains together. An MMoE whose gates go with the heads, as D-Train may have it, is `CrocodileConfig` with every switch
off.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.batch import FeatureBatch
from ctr_models.checks import check_at_least
from ctr_models.domains.features import BodyOutputs, BodySetting, as_module, plain_features
from ctr_models.domains.networks import HeadMLP, check_no_batch_norm
from ctr_models.domains.routing import EveryHead, Routing
from ctr_models.layers import MLP, MLPConfig

EXPERT, LINEAR = MLPConfig(widths=(64,)), MLPConfig(widths=())


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertMixtureConfig:
    """`num_specific` experts for each head and `num_shared` for all, in each of `num_levels`.

    `gate`: hidden layers before the softmax; `gates`: of each head its own, or one for all (OMoE). `tables`: one for
    all experts, one for each, or one for each head and one shared. `foreign`: experts of other heads are hidden from a
    head's gate, open to it, or open with their gradient stopped (STEM). `main`: STEM-AL: this head sees all experts,
    the others their own alone (that the stop of `foreign` holds for it too is our choice).
    """

    num_shared: int = 4
    num_specific: int = 0
    num_levels: int = 1
    expert: MLPConfig = EXPERT
    gate: MLPConfig = LINEAR
    gates: Literal["own", "one"] = "own"
    gate_reads: Literal["own", "own_and_shared"] = "own"
    tables: Literal["one", "expert", "head"] = "one"
    foreign: Literal["hidden", "open", "stopped"] = "hidden"
    main: int | None = None

    def __post_init__(self) -> None:
        check_at_least("num_levels", self.num_levels, 1)
        check_at_least("num_shared", self.num_shared, 0)
        check_at_least("num_specific", self.num_specific, 0)
        check_at_least("num_shared + num_specific", self.num_shared + self.num_specific, 1)
        check_no_batch_norm("gate", self.gate)
        if self.num_specific:
            check_no_batch_norm("expert", self.expert)
        elif self.tables == "head" or self.foreign != "hidden":
            raise ValueError(
                f"tables {self.tables!r} and foreign {self.foreign!r} speak of experts of heads; set num_specific"
            )
        if self.gates == "one" and (self.num_specific or self.num_levels > 1):
            raise ValueError("one gate for all heads is for one level of shared experts")
        if self.num_levels > 1 and not self.num_shared:
            raise ValueError(f"num_levels {self.num_levels} needs shared experts, which read the shared stream")
        if self.main is not None and (self.foreign == "hidden" or self.num_shared or self.num_levels > 1):
            raise ValueError("a main head needs foreign experts in sight, no shared expert and one level")

    def num_tables(self, num_heads: int) -> int:
        """How many embedding sets a model with that many heads reads."""
        match self.tables:
            case "one":
                return 1
            case "expert":
                return num_heads * self.num_specific + self.num_shared
            case "head":
                return num_heads + (self.num_shared > 0)


class Streams(NamedTuple):
    """Inputs of one level. `own` and `shared` are what gates read (`shared` None where that adds nothing to `own`);
    `specific` what experts of heads read, one view for all or one a head, with those of a head's experts side by side
    if they are `separate`; `common` what shared experts read, one for all or one each.
    """

    own: Float[Tensor, "views batch width"]
    shared: Float[Tensor, "1 batch width"] | None
    specific: Float[Tensor, "views2 batch inward"]
    common: Float[Tensor, "tables batch width"]
    separate: bool


class LevelOutputs(NamedTuple):
    """`views`: the mixtures of the heads; `shared`: that of the shared gate, if there is one; `experts` as seen."""

    views: Float[Tensor, "result_views batch dim"]
    shared: Float[Tensor, "1 batch dim"] | None
    experts: Float[Tensor, "experts batch dim"]
    weights: Float[Tensor, "views batch seen"]


class ExpertLevel(nn.Module):
    """One level: experts, the gate of each head and, before another level, the shared gate."""

    mine: Tensor
    out_of_sight: Tensor

    def __init__(self, config: ExpertMixtureConfig, num_heads: int, inputs: int, *, last: bool) -> None:
        super().__init__()
        self.config, self.num_heads = config, num_heads
        own, shared = config.num_specific, config.num_shared
        self.specific = HeadMLP(config.expert, num_heads, inputs, copies=own) if own else None
        self.shared = MLP(config.expert, shared, inputs) if shared else None
        self.width = config.expert.widths[-1] if config.expert.widths else inputs
        every = num_heads * own + shared
        seen = own + shared if config.foreign == "hidden" else every
        gates = 1 if config.gates == "one" else num_heads
        self.gate = HeadMLP(config.gate, gates, inputs, outputs=seen) if seen > 1 else None
        self.shared_gate = None if last else HeadMLP(config.gate, 1, inputs, outputs=every)
        mine = torch.eye(num_heads).repeat_interleave(own, 1) if own else torch.zeros(num_heads, 0)
        mine = torch.cat([mine, torch.ones(num_heads, shared)], 1)
        self.register_buffer("mine", mine, persistent=False)
        out_of_sight = torch.where(mine.eq(0), -torch.inf, 0.0)
        if config.main is not None:
            out_of_sight[config.main] = 0.0
        self.register_buffer("out_of_sight", out_of_sight, persistent=False)

    def forward(self, streams: Streams, routing: Routing) -> LevelOutputs:
        shared = None if self.shared is None else self.shared(streams.common.expand(self.config.num_shared, -1, -1))
        hidden = self.config.foreign == "hidden"
        specific = self._specific(streams, routing if hidden else EveryHead(self.num_heads))
        experts = as_list(specific, self.config.num_specific, shared)
        weights = self._weights(streams, routing, experts, 1 if specific is None else len(specific))
        views = self._mix_seen(weights, specific, shared) if hidden else self._mix_all(weights, experts, routing)
        if self.shared_gate is None or streams.shared is None:
            return LevelOutputs(views, None, experts, weights)
        common = self.shared_gate(streams.shared, EveryHead(1)).softmax(-1)
        return LevelOutputs(views, mix(common, experts), experts, weights)

    def _specific(self, streams: Streams, routing: Routing) -> Float[Tensor, "views batch copies_dim"] | None:
        if self.specific is None:
            return None
        found: Tensor = self.specific(own_view(streams.specific, routing), routing, separate=streams.separate)
        return found

    def _weights(
        self, streams: Streams, routing: Routing, experts: Float[Tensor, "experts batch dim"], num_views: int
    ) -> Float[Tensor, "views batch seen"]:
        """Of a single expert the weight is 1, without a gate."""
        if self.gate is None:
            return experts.new_ones(num_views, experts.shape[1], 1)
        reads = own_view(streams.own, routing)
        if self.config.gate_reads == "own_and_shared" and streams.shared is not None:
            reads = reads if streams.shared is streams.own else reads + streams.shared
        logits: Tensor = self.gate(reads, EveryHead(1) if self.config.gates == "one" else routing)
        if self.config.main is not None:
            logits = logits + routing.rows_of(self.out_of_sight)
        return logits.softmax(-1)

    def _mix_seen(
        self,
        weights: Float[Tensor, "views batch seen"],
        specific: Float[Tensor, "views batch copies_dim"] | None,
        shared: Float[Tensor, "shared batch dim"] | None,
    ) -> Float[Tensor, "views batch dim"]:
        """Own experts come first among those that a gate sees."""
        own = self.config.num_specific
        parts = [] if shared is None else [mix(weights[:, :, own:], shared)]
        if specific is not None:
            outputs = torch.unflatten(specific, 2, (own, -1))
            parts.append((weights[:, :, :own, None] * outputs).sum(2))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    def _mix_all(
        self,
        weights: Float[Tensor, "views batch experts"],
        experts: Float[Tensor, "experts batch dim"],
        routing: Routing,
    ) -> Float[Tensor, "views batch dim"]:
        """Foreign experts enter as constants where they are stopped; the value is the same."""
        mine = routing.rows_of(self.mine).to(weights.dtype)
        foreign = experts.detach() if self.config.foreign == "stopped" else experts
        return mix(weights * mine, experts) + mix(weights * (1 - mine), foreign)


class ExpertMixture(nn.Module):
    """See the module and `ExpertMixtureConfig`."""

    def __init__(self, config: ExpertMixtureConfig, setting: BodySetting) -> None:
        super().__init__()
        self.config, self.setting = config, setting
        num_heads = setting.num_heads
        if config.main is not None and not 0 <= config.main < num_heads:
            raise ValueError(f"main must be one of the heads 0..{num_heads - 1}, got {config.main}")
        source = setting.build_sources(setting.schema, setting.dim, config.num_tables(num_heads))
        self.sources = nn.ModuleList([as_module(source)])
        inputs, levels = source.num_fields * setting.dim, []
        for number in range(config.num_levels):
            level = ExpertLevel(config, num_heads, inputs, last=number == config.num_levels - 1)
            levels.append(level)
            inputs = level.width
        self.levels = nn.ModuleList(levels)
        self.width = inputs

    def forward(self, batch: FeatureBatch, routing: Routing) -> BodyOutputs:
        fields: Tensor = self.sources[0](batch)
        streams = self._first(fields.flatten(2))
        for level in self.levels[:-1]:
            out = level(streams, EveryHead(self.setting.num_heads))
            streams = Streams(out.views, out.shared, out.views, out.shared, separate=False)
        out = self.levels[-1](streams, routing)
        return BodyOutputs(plain_features(out.views, self.setting.num_outputs), out.experts, {}, out.weights)

    def _first(self, x: Float[Tensor, "tables batch width"]) -> Streams:
        match self.config.tables:
            case "one":
                return Streams(x, x, x, x, separate=False)
            case "head":
                own, shared = x[: self.setting.num_heads], x[self.setting.num_heads :]
                return Streams(own, shared if len(shared) else None, own, shared, separate=False)
            case "expert":
                return self._a_table_each(x)

    def _a_table_each(self, x: Float[Tensor, "tables batch width"]) -> Streams:
        copies = self.config.num_specific
        specific, common = x[: self.setting.num_heads * copies], x[self.setting.num_heads * copies :]
        shared = common.sum(0, keepdim=True) if len(common) else None
        if not copies:
            both = common.sum(0, keepdim=True)
            return Streams(both, both, both, common, separate=True)
        by_head = torch.unflatten(specific, 0, (-1, copies))
        return Streams(by_head.sum(1), shared, by_head.transpose(1, 2).flatten(2), common, separate=True)


def own_view(views: Float[Tensor, "views batch width"], routing: Routing) -> Float[Tensor, "own_views batch width"]:
    """The views of the routing; one view for all heads stays one."""
    return views if len(views) == 1 else routing.own(views)


def mix(
    weights: Float[Tensor, "views batch experts"], experts: Float[Tensor, "experts batch dim"]
) -> Float[Tensor, "views batch dim"]:
    """sum_j w_j O_j."""
    mixed: Tensor = torch.einsum("vbe,ebd->vbd", weights, experts)
    return mixed


def as_list(
    specific: Float[Tensor, "views batch copies_dim"] | None, copies: int, shared: Float[Tensor, "n batch dim"] | None
) -> Float[Tensor, "experts batch dim"]:
    """Experts of heads, a head's in a row, then the shared ones."""
    parts = []
    if specific is not None:
        parts.append(torch.unflatten(specific, 2, (copies, -1)).transpose(1, 2).flatten(0, 1))
    if shared is not None:
        parts.append(shared)
    return parts[0] if len(parts) == 1 else torch.cat(parts)
