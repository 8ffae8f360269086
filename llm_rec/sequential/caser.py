"""Caser (arXiv 1809.07426): convolutions over the last few events."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ctr_models.dropout import Dropout


@dataclass(frozen=True, kw_only=True, slots=True)
class CaserConfig:
    """Convolutions over the `window` most recent events of every position.

    `num_horizontal` filters of each height 1..window slide over time and are max-pooled; `num_vertical` filters weigh
    the events of the window. Departures from the paper: no user embedding (a new user has none), and a state at every
    position.
    """

    window: int = 5
    num_horizontal: int = 16
    num_vertical: int = 4
    dropout: float = 0.2

    def __post_init__(self) -> None:
        for name in ("window", "num_horizontal", "num_vertical"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in 0..1 (1 excluded), got {self.dropout}")


class Caser(nn.Module):
    """Item vectors -> states. State t reads the window t - window + 1 .. t; before the first event there are zeros.

    Neighbouring windows share their convolutions: they are computed once over the history and pooled per window.
    """

    def __init__(self, config: CaserConfig, dim: int) -> None:
        super().__init__()
        self.window = config.window
        heights = range(1, config.window + 1)
        self.horizontal = nn.ModuleList(nn.Conv1d(dim, config.num_horizontal, height) for height in heights)
        self.vertical = nn.Conv1d(1, config.num_vertical, config.window)
        self.dropout = Dropout(config.dropout)
        self.hidden = nn.Linear(config.window * config.num_horizontal + config.num_vertical * dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(
        self, vectors: Float[Tensor, "batch length dim"], mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length dim"]:
        batch, length, dim = vectors.shape
        channels = F.pad(vectors.transpose(1, 2), (self.window - 1, 0))
        features = [self._pooled(convolution, channels) for convolution in self.horizontal]
        weighed = self.vertical(channels.reshape(batch * dim, 1, -1))
        features.append(weighed.reshape(batch, -1, length))
        hidden = torch.relu(self.hidden(self.dropout(torch.cat(features, dim=1).transpose(1, 2))))
        out: Tensor = self.out(hidden)
        return out

    def _pooled(
        self, convolution: nn.Module, channels: Float[Tensor, "batch dim padded"]
    ) -> Float[Tensor, "batch filters length"]:
        """Max over the places a filter can take inside each window."""
        activations = torch.relu(convolution(channels))
        places = activations.shape[-1] - (channels.shape[-1] - self.window)
        return F.max_pool1d(activations, places, stride=1)
