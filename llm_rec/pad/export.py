"""What is left of a trained PAD model when it serves: item matrices and user encoders, no texts, no projectors."""

from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from safetensors.torch import load_file
from torch import Tensor, nn

from llm_rec.pad.model import ItemLookup, PADModel, SavedPAD, last_states
from llm_rec.sequential.backbones import build_backbone
from llm_rec.sequential.saving import read_settings, reading_weights, write_model

KIND = "pad_serving"


class ServingPAD(nn.Module):
    """Scores equal those of the `PADModel` it was made from, at a cost that does not know the width of the texts.

    `vectors` are the experts' item vectors, which the user encoders read; `weights` are the gate's. Their product is
    the matrix to index (`item_vectors`, width experts * dim). A `Retriever`.
    """

    vectors: Tensor
    weights: Tensor

    def __init__(self, saved: SavedPAD) -> None:
        super().__init__()
        self.saved = saved
        config, rows, experts = saved.model, saved.sources.num_items + 1, len(saved.model.experts)
        self.register_buffer("vectors", torch.zeros(experts, rows, config.dim))
        self.register_buffer("weights", torch.zeros(rows, experts))
        backbones = (build_backbone(config.backbone, config.dim, config.max_length) for _ in config.experts)
        self.backbones = nn.ModuleList(b for b in backbones if isinstance(b, nn.Module))

    @classmethod
    @torch.no_grad()
    def of(cls, model: PADModel) -> "ServingPAD":
        """The serving form of a trained model, on the CPU, in evaluation mode."""
        serving = cls(SavedPAD(model=model.config, sources=replace(model.sizes, width=None)))
        items = model.every_item()
        serving.vectors.copy_(items.vectors)
        serving.weights.copy_(items.weights)
        for backbone, name in zip(serving.backbones, model.config.experts, strict=True):
            tower = model.expert(name).backbone
            if isinstance(tower, nn.Module):
                backbone.load_state_dict(tower.state_dict())
        return serving.eval()

    @property
    def max_length(self) -> int:
        return self.saved.model.max_length

    @torch.no_grad()
    def user_vectors(self, history: Int64[Tensor, "batch length"]) -> Float[Tensor, "batch width"]:
        """[u_1; u_2; u_3] at the last event of each right-padded row; zeros for an empty row."""
        mask = history != 0
        pairs = zip(self.backbones, self.vectors, strict=True)
        return last_states(torch.cat([backbone(own[history], mask) for backbone, own in pairs], dim=-1), history)

    def item_vectors(self) -> Float[Tensor, "items_plus_one width"]:
        """The folded item matrix: one inner product with a user vector is the score of the mixture."""
        return ItemLookup(self.vectors, self.weights).folded()

    def save_pretrained(self, folder: Path | str, *, catalog: str | None = None, overwrite: bool = False) -> None:
        """Write it as one artefact; `catalog` is the catalog's fingerprint."""
        write_model(folder, KIND, self.saved, self, catalog, marks=(KIND,), overwrite=overwrite)

    @classmethod
    def from_pretrained(cls, folder: Path | str, *, device: torch.device | str = "cpu") -> "ServingPAD":
        """The serving model saved in `folder`; `ArtifactError` when it is damaged or something else."""
        serving = cls(read_settings(SavedPAD, folder, KIND))
        with reading_weights(folder) as weights:
            serving.load_state_dict(load_file(weights))
        return serving.to(device).eval()
