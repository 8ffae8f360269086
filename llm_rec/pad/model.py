"""PAD: pre-train, align, disentangle (arXiv 2412.04107). Three towers whose logits a frequency gate mixes.

    score(u, i) = sum_k g_k(b(i)) <u_k, v_k,i>  =  <[u_1; u_2; u_3], [g_1 v_1,i; g_2 v_2,i; g_3 v_3,i]>

The right-hand side is how the model trains, ranks and is exported: one inner product per user and item. No language
model and, once exported (`llm_rec.pad.export`), no text vector is needed to serve it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from safetensors.torch import load_file
from torch import Tensor, nn

from llm_rec.errors import ConfigError
from llm_rec.frequency_gate import FrequencyGate, build_gate, paper_ends
from llm_rec.pad.config import EVERY_EXPERT, PADConfig, faithful_pad, pad, pad_negatives, released_pad
from llm_rec.pad.experts import (
    AlignedItems,
    CollaborativeItems,
    ExpertItems,
    ExpertName,
    ItemInputs,
    build_expert_items,
)
from llm_rec.sequential.backbones import build_backbone
from llm_rec.sequential.items import ROWS_AT_A_TIME, ItemSources, distinct_rows
from llm_rec.sequential.model import SequentialModel, SourceSizes
from llm_rec.sequential.protocols import Backbone
from llm_rec.sequential.saving import read_settings, reading_weights, write_model

__all__ = ["ExpertRetriever", "PADConfig", "PADModel", "faithful_pad", "pad", "pad_negatives", "released_pad"]

KIND = "pad_model"


class ItemLookup(NamedTuple):
    """What the mixture knows of item rows: every expert's vectors, and the weights of the experts."""

    vectors: Float[Tensor, "experts rows dim"]
    weights: Float[Tensor, "rows experts"]

    def folded(self) -> Float[Tensor, "rows width"]:
        """Vectors of candidates: the weights multiplied in, the experts side by side."""
        return (self.vectors * self.weights.T[..., None]).transpose(0, 1).flatten(1)


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedPAD:
    """What `config.json` of a saved model holds."""

    model: PADConfig
    sources: SourceSizes


class Expert(nn.Module):
    """One tower: its own item vectors and its own sequence encoder."""

    def __init__(self, name: ExpertName, config: PADConfig, sources: ItemSources) -> None:
        super().__init__()
        self.items: ExpertItems = build_expert_items(name, config.id_items, config.projector, sources, config.dim)
        self.backbone: Backbone = build_backbone(config.backbone, config.dim, config.max_length)


class PADModel(nn.Module):
    """The experts and their gate. A `Retriever` by gate folding. `width` below is experts * dim.

    Phase 2 trains the aligned expert of it alone, phase 3 everything. The frozen text vectors are a buffer, shared by
    the experts that read texts, and travel with the weights.
    """

    embeddings: Tensor | None
    known: Tensor | None

    def __init__(self, config: PADConfig, sources: ItemSources) -> None:
        super().__init__()
        self.config = config
        self.sizes = SourceSizes.of(sources)
        reads_text = [name for name in config.experts if name != "collaborative"]
        if reads_text and sources.embeddings is None:
            raise ConfigError(f"the {reads_text[0]} expert needs text embeddings; encode the catalog first")
        if sources.train_counts is None:
            raise ConfigError("PAD needs train_counts for its gate; build the sources with ItemSources.from_split")
        kept = sources.embeddings if reads_text else None
        self.register_buffer("embeddings", None if kept is None else kept.clone())
        self.register_buffer("known", sources.train_counts > 0 if config.mask_unseen_ids else None)
        self.experts = nn.ModuleDict({name: Expert(name, config, sources) for name in config.experts})
        ends = dict(zip(EVERY_EXPERT, paper_ends(config.gamma2), strict=True))
        counts = sources.train_counts.cpu().numpy()
        self.gate: FrequencyGate = build_gate(config.gate, counts, [ends[name] for name in config.experts])

    @property
    def max_length(self) -> int:
        return self.config.max_length

    @property
    def num_items(self) -> int:
        return self.sizes.num_items

    def expert(self, name: ExpertName) -> Expert:
        """The tower called `name`; `ConfigError` when this model has none."""
        if name not in self.experts:
            raise ConfigError(f"this PAD model has no {name} expert; it has {', '.join(self.experts)}")
        return cast(Expert, self.experts[name])

    def copy_pretrained(self, pretrained: SequentialModel) -> None:
        """Start the collaborative expert from phase 1, and the aligned expert's ids and encoder from a copy of it."""
        for name in ("collaborative", "aligned"):
            if name in self.experts:
                tower = self.expert(name)
                cast(CollaborativeItems | AlignedItems, tower.items).ids.load_state_dict(_state(pretrained.items))
                cast(nn.Module, tower.backbone).load_state_dict(_state(pretrained.backbone))

    def copy_towers(self, other: "PADModel") -> None:
        """Start the experts that `other` has too from copies of its own; the frozen text vectors are shared."""
        for name, tower in self.experts.items():
            if name in other.experts:
                tower.load_state_dict(other.experts[name].state_dict())
        if self.embeddings is not None and other.embeddings is not None:
            self.embeddings = other.embeddings

    def inputs(self, rows: Int64[Tensor, "rows"]) -> ItemInputs:
        """What the experts may know of item rows; in training some ids are hidden (`id_dropout`)."""
        keep = None if self.known is None else self.known[rows]
        if self.training and self.config.id_dropout:
            drawn = torch.rand(rows.shape, device=rows.device) >= self.config.id_dropout
            keep = drawn if keep is None else keep & drawn
        return ItemInputs(rows, None if self.embeddings is None else self.embeddings[rows], keep)

    def look_up(self, rows: Int64[Tensor, "rows"]) -> ItemLookup:
        """Item vectors of every expert (zeros for padding) and the gate's weights."""
        inputs = self.inputs(rows)
        own: list[Tensor] = [self.expert(name).items(inputs) for name in self.config.experts]
        return ItemLookup(torch.stack(own) * (rows != 0)[:, None], self._weights(inputs))

    def _weights(self, inputs: ItemInputs) -> Float[Tensor, "rows experts"]:
        """Gate weights; where the id does not count, the collaborative expert's share goes to the others (ours).

        Its vector is zero there. If it kept its share, an item without id would have logits of a smaller scale.
        """
        weights: Tensor = self.gate(inputs.rows)
        if inputs.keep is None or "collaborative" not in self.experts:
            return weights
        index = self.config.experts.index("collaborative")
        silent = (torch.arange(weights.shape[1], device=weights.device) == index) & ~inputs.keep[:, None]
        weights = weights.masked_fill(silent, 0.0)
        return weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)

    def states(
        self,
        vectors: Float[Tensor, "experts items dim"],
        places: Int64[Tensor, "batch length"],
        mask: Bool[Tensor, "batch length"],
    ) -> Float[Tensor, "batch length width"]:
        """States of all experts, for histories given as places in `vectors`."""
        pairs = zip(self.config.experts, vectors, strict=True)
        return torch.cat([self.expert(name).backbone(F.embedding(places, own), mask) for name, own in pairs], dim=-1)

    @torch.no_grad()
    def user_vectors(self, history: Int64[Tensor, "batch length"]) -> Float[Tensor, "batch width"]:
        """[u_1; u_2; u_3] at the last event of each right-padded row, without dropout; zeros for an empty row."""
        with evaluating(self):
            rows, places = distinct_rows(history, self.num_items + 1)
            return last_states(self.states(self.look_up(rows).vectors, places, history != 0), history)

    @torch.no_grad()
    def item_vectors(self) -> Float[Tensor, "items_plus_one width"]:
        """[g_1 v_1; g_2 v_2; g_3 v_3] of every row: the folded item matrix."""
        with evaluating(self):
            return torch.cat([self.look_up(rows).folded() for rows in self.all_rows()])

    @torch.no_grad()
    def every_item(self) -> ItemLookup:
        """All rows, without dropout: what a serving model keeps."""
        with evaluating(self):
            parts = [self.look_up(rows) for rows in self.all_rows()]
        return ItemLookup(torch.cat([p.vectors for p in parts], dim=1), torch.cat([p.weights for p in parts]))

    @torch.no_grad()
    def live_scores(
        self, history: Int64[Tensor, "batch length"], candidates: Int64[Tensor, "batch number"]
    ) -> Float[Tensor, "batch number"]:
        """sum_k g_k <u_k, v_k> as the paper writes it: the reference that the folded product must equal."""
        with evaluating(self):
            users = rearrange(
                self.user_vectors(history), "batch (experts dim) -> experts batch dim", dim=self.config.dim
            )
            items = self.look_up(candidates.flatten())
            vectors = items.vectors.view(len(users), *candidates.shape, -1)
            weights = items.weights.view(*candidates.shape, -1)
            logits: Tensor = torch.einsum("ebd,ebnd->bne", users, vectors) * weights
            return logits.sum(-1)

    def all_rows(self) -> tuple[Tensor, ...]:
        """Every row, in chunks that bound what exists beside the result."""
        device = next(self.parameters()).device
        return torch.split(torch.arange(self.num_items + 1, device=device), ROWS_AT_A_TIME)

    def save_pretrained(self, folder: Path | str, *, catalog: str | None = None, overwrite: bool = False) -> None:
        """Write config and weights (frozen text vectors among them) as one artefact; `catalog` is its fingerprint."""
        saved = SavedPAD(model=self.config, sources=self.sizes)
        write_model(folder, KIND, saved, self, catalog, marks=(KIND,), overwrite=overwrite)

    @classmethod
    def from_pretrained(cls, folder: Path | str, *, device: torch.device | str = "cpu") -> "PADModel":
        """The model saved in `folder`, in evaluation mode, without any training data."""
        saved = read_settings(SavedPAD, folder, KIND)
        model = cls(saved.model, saved.sources.blank())
        with reading_weights(folder) as weights:
            model.load_state_dict(load_file(weights))
        return model.to(device).eval()


class ExpertRetriever:
    """One expert of a PAD model seen as a recommender of its own: what phase 2 is validated by. A `Retriever`."""

    def __init__(self, model: PADModel, name: ExpertName) -> None:
        self.model = model
        self.name: ExpertName = name
        self.tower = model.expert(name)

    @property
    def max_length(self) -> int:
        return self.model.max_length

    @torch.no_grad()
    def user_vectors(self, history: Int64[Tensor, "batch length"]) -> Float[Tensor, "batch dim"]:
        with evaluating(self.model):
            rows, places = distinct_rows(history, self.model.num_items + 1)
            states = self.tower.backbone(F.embedding(places, self._vectors(rows)), history != 0)
            return last_states(states, history)

    @torch.no_grad()
    def item_vectors(self) -> Float[Tensor, "items_plus_one dim"]:
        with evaluating(self.model):
            return torch.cat([self._vectors(rows) for rows in self.model.all_rows()])

    def _vectors(self, rows: Int64[Tensor, "rows"]) -> Float[Tensor, "rows dim"]:
        vectors: Tensor = self.tower.items(self.model.inputs(rows))
        return vectors * (rows != 0)[:, None]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block, the former mode after it."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def last_states(
    states: Float[Tensor, "batch length width"], history: Int64[Tensor, "batch length"]
) -> Float[Tensor, "batch width"]:
    """State at the last event of each right-padded row; zeros for an empty row, which ranks nothing."""
    lengths = (history != 0).sum(dim=1)
    last = states[torch.arange(len(history), device=history.device), (lengths - 1).clamp(min=0)]
    return last * (lengths > 0)[:, None]


def _state(part: object) -> dict[str, Tensor]:
    return cast(nn.Module, part).state_dict()
