"""What passes between the parts of a domain model."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.batch import FeatureBatch
from ctr_models.domains.routing import Routing
from ctr_models.model import SourceBuilder
from ctr_models.protocols import FieldSource
from ctr_models.schema import Schema


class DomainFeatures(NamedTuple):
    """All that heads read of a row, rows first, so that it can be kept while heads alone are trained.

    `vectors`: one a view (one by domain, one a task), or what heads mix themselves (experts). `context`: what gates of
    heads read; width 0 where they read nothing. `logits`: what the backbone adds to the heads' logits.
    """

    vectors: Float[Tensor, "batch views width"]
    context: Float[Tensor, "batch context"]
    logits: Float[Tensor, "batch outputs"]


class BodyOutputs(NamedTuple):
    """`experts` are outputs before any gate, for diagnostics; `losses` are weighted already; `gates` are the weights of
    the last gate over the experts it sees, where the body has one.
    """

    features: DomainFeatures
    experts: Float[Tensor, "experts batch dim"] | None
    losses: dict[str, Tensor]
    gates: Float[Tensor, "views batch seen"] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class BodySetting:
    """What a body is built for: rows of `schema`, vectors of `dim` numbers, `num_heads` domains or tasks."""

    schema: Schema
    dim: int
    num_heads: int
    by_task: bool
    build_sources: SourceBuilder

    @property
    def num_outputs(self) -> int:
        """Logits a row: one by domain, one a task."""
        return self.num_heads if self.by_task else 1


@runtime_checkable
class Body(Protocol):
    """Sources of field vectors and what turns them into `DomainFeatures`. `width` is that of `features.vectors`."""

    sources: nn.ModuleList
    width: int

    def __call__(self, batch: FeatureBatch, routing: Routing) -> BodyOutputs: ...


def plain_features(vectors: Float[Tensor, "views batch width"], num_outputs: int) -> DomainFeatures:
    """Views without a context or logits of their own."""
    rows = vectors.shape[1]
    return DomainFeatures(
        vectors.transpose(0, 1).contiguous(), vectors.new_zeros(rows, 0), vectors.new_zeros(rows, num_outputs)
    )


def as_module(source: FieldSource) -> nn.Module:
    """The source, which must be a module so that its parameters are trained."""
    if not isinstance(source, nn.Module):
        raise TypeError(f"a source of fields must be a module, got {type(source).__name__}")
    return source
