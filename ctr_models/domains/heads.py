"""Heads: what each domain or task has for itself, from the features of a row to its logit."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.domains.features import DomainFeatures
from ctr_models.domains.networks import HeadMLP
from ctr_models.domains.routing import Routing
from ctr_models.layers import MLPConfig


@runtime_checkable
class Heads(Protocol):
    """Features to logits. Every parameter that a head has for itself starts with an axis of heads."""

    def __call__(self, features: DomainFeatures, routing: Routing) -> Float[Tensor, "batch outputs"]: ...

    def own_parameters(self) -> list[nn.Parameter]:
        """What differs between heads; other parameters count as the backbone's."""
        ...


class TowerHeads(nn.Module):
    """A tower for each head on its view: hidden layers, then a linear layer to the logit."""

    def __init__(self, tower: MLPConfig, num_heads: int, inputs: int) -> None:
        super().__init__()
        self.towers = HeadMLP(tower, num_heads, inputs, outputs=1)

    def forward(self, features: DomainFeatures, routing: Routing) -> Float[Tensor, "batch outputs"]:
        logits: Tensor = self.towers(features.vectors.transpose(0, 1), routing)
        return logits.squeeze(2).T + features.logits

    def own_parameters(self) -> list[nn.Parameter]:
        return list(self.towers.parameters())
