"""GRU4Rec (arXiv 1511.06939): a recurrent network over the history."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor, nn

from ctr_models.dropout import Dropout


@dataclass(frozen=True, kw_only=True, slots=True)
class GRU4RecConfig:
    """`num_layers` GRU layers of `hidden` units, then a linear layer back to the width of the items.

    The session-parallel batches and ranking losses of the paper are not part of it: batches and losses are chosen
    apart.
    """

    num_layers: int = 1
    hidden: int = 128
    dropout: float = 0.2

    def __post_init__(self) -> None:
        for name in ("num_layers", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in 0..1 (1 excluded), got {self.dropout}")


class GRU4Rec(nn.Module):
    """Item vectors -> states. A recurrence reads forwards only: padding on the right changes nothing before it."""

    def __init__(self, config: GRU4RecConfig, dim: int) -> None:
        super().__init__()
        self.dropout = Dropout(config.dropout)
        between = config.dropout if config.num_layers > 1 else 0.0
        self.gru = nn.GRU(dim, config.hidden, config.num_layers, batch_first=True, dropout=between)
        self.out = nn.Linear(config.hidden, dim)

    def forward(
        self, vectors: Float[Tensor, "batch length dim"], mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length dim"]:
        states, _ = self.gru(self.dropout(vectors))
        out: Tensor = self.out(states)
        return out
