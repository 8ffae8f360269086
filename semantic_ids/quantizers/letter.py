"""LETTER: RQ-VAE whose codes also agree with collaborative vectors, and whose codewords are spread."""

import warnings
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from semantic_ids.autoencoder import AutoencoderConfig
from semantic_ids.codebooks import Codebooks, Quantized
from semantic_ids.kmeans import FewRowsWarning, kmeans
from semantic_ids.losses import Reduction
from semantic_ids.quantizers.fitting import FitConfig
from semantic_ids.quantizers.saving import check_sizes
from semantic_ids.vectors import Vectors, seeded, take

_CLUSTERS, _OTHERS = 701, 702


@dataclass(frozen=True, kw_only=True, slots=True)
class LETTERConfig:
    """LETTER's tokeniser (Wang et al., 2024, arXiv 2405.07314):

    loss = reconstruction + mean_l ( |sg(r_l) - c_l|^2 + beta |r_l - sg(c_l)|^2 + diversity_weight D_l )
    + collaborative_weight CF, where CF is the in-batch cross-entropy of the quantised latent vector of an item with its
    own collaborative vector (an item vector of a trained SASRec), and D_l pulls the codeword of an item towards another
    one of the same cluster of codewords (`code_clusters` clusters of capped size, found again every `cluster_every`
    steps). beta .25, four levels, both means and the weights are those of the released code.

    `build_quantizer(..., collaborative=vectors)` takes the collaborative vectors, which must be `latent_dim` wide;
    items whose vector is zero (no train events) take no part in CF (our choice). The network and the fit are those of
    `RQVAEConfig` here. A cluster of a single codeword has no other one and no D_l; the released code never ends there.
    LETTER's ranking loss belongs to the recommender, not to the codes.
    """

    num_codebooks: int = 4
    codebook_size: int = 256
    beta: float = 0.25
    reduction: Reduction = "mean"
    books_reduction: Reduction = "mean"
    collaborative_weight: float = 0.02
    diversity_weight: float = 1e-4
    code_clusters: int = 10
    cluster_every: int = 50
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    fit: FitConfig = field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        check_sizes(self.num_codebooks, self.codebook_size)
        for name in ("beta", "collaborative_weight", "diversity_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 1 <= self.code_clusters <= self.codebook_size:
            raise ValueError(
                f"code_clusters must be in 1..codebook_size, got {self.code_clusters} of {self.codebook_size}"
            )
        if self.cluster_every < 1:
            raise ValueError(f"cluster_every must be at least 1, got {self.cluster_every}")


def check_collaborative(config: LETTERConfig, vectors: Vectors | None, items: int) -> None:
    """Raise `ValueError` unless there is a vector of the latent width for each item, or none is needed."""
    if vectors is None:
        if config.collaborative_weight > 0:
            raise ValueError(
                "LETTER needs collaborative vectors of the items; build it with collaborative=, or set "
                "collaborative_weight 0"
            )
        return
    wanted = (items, config.autoencoder.latent_dim)
    if tuple(vectors.shape) != wanted:
        raise ValueError(
            f"collaborative vectors are {tuple(vectors.shape)}, wanted {wanted}: a row for every item, as wide as "
            "autoencoder.latent_dim"
        )


class LetterObjective(nn.Module):
    """The weighted collaborative and diversity terms; `clusters` says which cluster a codeword is in."""

    clusters: Tensor

    def __init__(self, config: LETTERConfig, collaborative: Vectors | None, seed: int) -> None:
        super().__init__()
        self.config, self.collaborative, self.seed = config, collaborative, seed
        empty = torch.zeros(config.num_codebooks, config.codebook_size, dtype=torch.int64)
        self.register_buffer("clusters", empty)

    def prepare(self, codebooks: Codebooks, step: int) -> None:
        """Cluster the codewords of every level anew, every `cluster_every` steps."""
        tables = codebooks.reseedable
        if tables is None or step % self.config.cluster_every or self.config.diversity_weight == 0:
            return
        for level, table in enumerate(tables.detach()):
            self.clusters[level] = code_clusters(
                table, self.config.code_clusters, seeded(self.seed, _CLUSTERS, step, level)
            )

    def forward(
        self, quantized: Quantized, codebooks: Codebooks, rows: Int64[Tensor, " batch"], step: int
    ) -> Float[Tensor, ""]:
        total = quantized.vectors.new_zeros(())
        tables = codebooks.reseedable
        if self.config.diversity_weight > 0 and tables is not None:
            draws = torch.rand(quantized.codes.shape, generator=seeded(self.seed, _OTHERS, step)).to(tables.device)
            spread = diversity(quantized.codewords, quantized.codes, tables, self.clusters, draws)
            total = total + self.config.diversity_weight * spread
        if self.config.collaborative_weight > 0 and self.collaborative is not None:
            mine = take(self.collaborative, rows, total.device)
            total = total + self.config.collaborative_weight * collaborative(quantized.vectors, mine)
        return total


def code_clusters(
    table: Float[Tensor, "codes dim"], number: int, generator: torch.Generator
) -> Int64[Tensor, " codes"]:
    """Cluster of each codeword, by k-means with clusters of at most ceil(codes / number)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewRowsWarning)  # a few codewords a cluster are the point
        return kmeans(table, number, generator=generator, iterations=10, balanced=True).codes


def collaborative(quantized: Float[Tensor, "batch dim"], vectors: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """Cross-entropy of <quantised_i, vector_j> over the batch, with j = i as the truth; zero vectors are left out."""
    known = vectors.ne(0).any(1)
    own = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    logits = (quantized @ vectors.T).masked_fill(~(known | own), -torch.inf)
    truth = torch.arange(len(vectors), device=vectors.device)
    losses = nn.functional.cross_entropy(logits, truth, reduction="none")
    return (losses * known).sum() / known.sum().clamp_min(1)


def diversity(
    codewords: Float[Tensor, "batch books dim"],
    codes: Int64[Tensor, "batch books"],
    tables: Float[Tensor, "books codes dim"],
    clusters: Int64[Tensor, "books codes"],
    draws: Float[Tensor, "batch books"],
) -> Float[Tensor, ""]:
    """Cross-entropy of <q, other codewords>, the truth being another codeword of q's own cluster (by uniform `draws`);
    averaged over levels and the rows that have one.
    """
    others, exists = other_codes(codes, clusters, draws)
    logits = torch.einsum("bnd,nkd->bnk", codewords, tables)
    logits = logits.scatter(2, codes.unsqueeze(2), -torch.inf)
    target = torch.where(exists, others, (codes + 1) % tables.shape[1])  # any finite entry: its loss is not counted
    losses = nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
    return (losses * exists.flatten()).sum() / exists.sum().clamp_min(1)


def other_codes(
    codes: Int64[Tensor, "batch books"], clusters: Int64[Tensor, "books codes"], draws: Float[Tensor, "batch books"]
) -> tuple[Int64[Tensor, "batch books"], Bool[Tensor, "batch books"]]:
    """A uniformly drawn other code of the same cluster for each code, and whether there is one."""
    order = clusters.argsort(dim=1, stable=True)
    place = order.argsort(dim=1)
    counts = torch.zeros_like(clusters).scatter_add_(1, clusters, torch.ones_like(clusters))
    starts = counts.cumsum(1) - counts
    own = clusters.gather(1, codes.T)
    size, start, mine = counts.gather(1, own), starts.gather(1, own), place.gather(1, codes.T)
    jump = 1 + (draws.T * (size - 1)).long().clamp_max((size - 2).clamp_min(0))
    others = order.gather(1, start + (mine - start + jump) % size)
    return others.T, (size > 1).T
