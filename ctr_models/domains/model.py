"""A click model of several domains or tasks: a backbone that all share, a head for each.

    logit_s(x) = head_s(features(x))

`features` is where training of heads alone can begin (D-Train, arXiv 2309.10302): what it gives can be kept, and
`from_features` goes on from there. A model with ``heads="root"`` has one head for all domains; `split_heads` makes of
it one with a head for each, which gives the same logits, bit by bit.
"""

import copy
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, overload

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ctr_models.batch import FeatureBatch
from ctr_models.checks import check_at_least
from ctr_models.domains.body import BodyConfig, build_body, build_heads
from ctr_models.domains.features import Body, BodySetting, DomainFeatures
from ctr_models.domains.heads import Heads
from ctr_models.domains.networks import check_no_batch_norm
from ctr_models.domains.routing import Dispatch, EveryHead, Routing, by_domain, domains_of
from ctr_models.layers import MLPConfig
from ctr_models.model import SourceBuilder
from ctr_models.schema import Schema

TOWER = MLPConfig(widths=(32,))


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainModelConfig:
    """`by`: heads are the values of the schema's domain field, or its labels. `dim` is the width of a field's vector,
    `tower` the hidden layers of each head. `dispatch`: see `ctr_models.domains.routing`. `heads` "root": one head for
    all domains, before they are split.
    """

    body: BodyConfig
    by: Literal["domain", "task"] = "domain"
    dim: int = 16
    tower: MLPConfig = TOWER
    dispatch: Dispatch = "sort"
    heads: Literal["own", "root"] = "own"

    def __post_init__(self) -> None:
        check_at_least("dim", self.dim, 1)
        check_no_batch_norm("tower", self.tower)
        if self.by == "task" and self.heads == "root":
            raise ValueError("a root head is for domains: tasks have a label each, and no head can give all of them")


class DomainOutputs(NamedTuple):
    """What training needs: `losses` are named, weighted, and to be added; `experts` are for diagnostics."""

    logits: Float[Tensor, "batch outputs"]
    experts: Float[Tensor, "experts batch dim"] | None
    losses: dict[str, Tensor]


class DomainModel(nn.Module):
    """See the module and `DomainModelConfig`; `build_domain_model` makes its parts. `num_heads` counts domains or
    tasks, also where one root head serves all domains.
    """

    def __init__(self, config: DomainModelConfig, schema: Schema, body: Body, heads: Heads) -> None:
        super().__init__()
        if not isinstance(body, nn.Module) or not isinstance(heads, nn.Module):
            raise TypeError(f"body and heads must be modules, got {type(body).__name__} and {type(heads).__name__}")
        self.config, self.schema = config, schema
        self.num_heads = head_count(config, schema)
        self.body, self.heads = body, heads

    def forward(self, batch: FeatureBatch) -> Float[Tensor, "batch outputs"]:
        """Logits: one a row by domain, of the row's own head; one a task by task."""
        return self.outputs(batch).logits

    def outputs(self, batch: FeatureBatch) -> DomainOutputs:
        """Logits with the losses of the body's own and its experts."""
        routing = self.routing(self.domains_of(batch))
        found = self.body(batch, routing)
        return DomainOutputs(self._logits(found.features, routing), found.experts, found.losses)

    def gate_weights(self, batch: FeatureBatch) -> Float[Tensor, "views batch seen"] | None:
        """Weights of the last gate over the experts it sees, one view by domain and one a task; None where the body has
        no such gate (heads that gate by themselves, or none at all).
        """
        gates: Tensor | None = self.body(batch, self.routing(self.domains_of(batch))).gates
        return gates

    def features(self, batch: FeatureBatch) -> DomainFeatures:
        """All that the heads read. Keep it only of a backbone in evaluation mode: dropout would be one fixed draw."""
        features: DomainFeatures = self.body(batch, self.routing(self.domains_of(batch))).features
        return features

    def from_features(
        self, features: DomainFeatures, domains: Int64[Tensor, "batch"]
    ) -> Float[Tensor, "batch outputs"]:
        """`forward` from its features; `domains` as `domains_of` gives them (by task they play no part)."""
        return self._logits(features, self.routing(domains))

    def domains_of(self, batch: FeatureBatch) -> Int64[Tensor, "batch"]:
        """See `ctr_models.domains.routing.domains_of`."""
        return domains_of(self.schema, batch)

    def routing(self, domains: Int64[Tensor, "batch"]) -> Routing:
        """How rows of these domains meet the heads."""
        if self.config.by == "task":
            return EveryHead(self.num_heads)
        return by_domain(domains, self.num_heads, self.config.dispatch)

    def backbone_parameters(self) -> list[nn.Parameter]:
        """All that no head has for itself."""
        own = {id(parameter) for parameter in self.head_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in own]

    @overload
    def head_parameters(self) -> list[nn.Parameter]: ...

    @overload
    def head_parameters(self, head: int) -> list[Tensor]: ...

    def head_parameters(self, head: int | None = None) -> list[nn.Parameter] | list[Tensor]:
        """Parameters of all heads, each with an axis of heads first, for an optimiser; or of one `head`, as views of
        them without a gradient, to compare, keep or restore it.

        An update that reaches rows of one domain alone moves that head alone: gradients of the others are zero.
        """
        parameters = self.heads.own_parameters()
        return parameters if head is None else [parameter.detach()[head] for parameter in parameters]

    def table_parameters(self) -> list[nn.Parameter]:
        """Parameters of the sources of field vectors, tables of gates among them."""
        return list(self.body.sources.parameters())

    def _logits(self, features: DomainFeatures, routing: Routing) -> Float[Tensor, "batch outputs"]:
        root = self.config.heads == "root"
        logits: Tensor = self.heads(features, routing.as_root() if root else routing)
        return logits


def build_domain_model(config: DomainModelConfig, schema: Schema, *, build_sources: SourceBuilder) -> DomainModel:
    """The model of `config` over rows of `schema`; `build_sources` makes tables of (schema, dim, num_tables), here also
    for a part of the schema where gates have tables of their own.
    """
    num_heads = head_count(config, schema)
    setting = BodySetting(
        schema=schema, dim=config.dim, num_heads=num_heads, by_task=config.by == "task", build_sources=build_sources
    )
    body = build_body(config.body, setting)
    heads = build_heads(body, config.tower, 1 if config.heads == "root" else num_heads)
    return DomainModel(config, schema, body, heads)


@torch.no_grad()
def split_heads(model: DomainModel) -> DomainModel:
    """A copy of a root model with a head for each domain, each equal to the root; the given model stays as it is.

    `ValueError` for a model that has heads already.
    """
    if model.config.heads != "root":
        raise ValueError("this model has a head for each domain already; build it with heads 'root' to split it later")
    split = copy.deepcopy(model)
    split.config = replace(model.config, heads="own")
    for parameter in split.head_parameters():
        parameter.data = parameter.data.repeat(split.num_heads, *(1 for _ in parameter.shape[1:]))
        parameter.grad = None
    return split


def head_count(config: DomainModelConfig, schema: Schema) -> int:
    """Domains or tasks of the schema."""
    return len(schema.labels) if config.by == "task" else schema.num_domains
