"""Codebooks on a latent vector: residual levels (RQ-VAE) and parallel books (Mixture-of-Codes), as modules.

Both hold one parameter `tables` (books codes dim) and know what each book is given to quantise; initialisation from
data and re-seeding of dead codes are explicit methods, never hidden in a forward pass. Bottlenecks whose codewords are
no free parameters (`semantic_ids.quantizers.fsq`, `lfq`, `simvq`) keep the same contract.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from semantic_ids.kmeans import kmeans, nearest, squared_distances
from semantic_ids.vectors import seeded

Aggregate = Literal["mean", "sum", "concat"]


class Quantized(NamedTuple):
    """`vectors` go to the decoder (straight-through), `inputs` are what each book quantised, `codewords` what it
    chose.
    """

    vectors: Float[Tensor, "batch width"]
    codes: Int64[Tensor, "batch books"]
    inputs: Float[Tensor, "batch books dim"]
    codewords: Float[Tensor, "batch books dim"]


@runtime_checkable
class Codebooks(Protocol):
    """The contract of a bottleneck. Also an `nn.Module`."""

    @property
    def width(self) -> int:
        """Width of `Quantized.vectors`."""
        ...

    @property
    def reseedable(self) -> nn.Parameter | None:
        """Codewords (books codes dim) that may be moved onto data when they are dead; None where they are not free."""
        ...

    def __call__(self, latent: Float[Tensor, "batch dim"]) -> Quantized: ...

    def relaxed(self, latent: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch width"]:
        """What the decoder would get without quantisation."""
        ...

    def encode(self, latent: Float[Tensor, "batch dim"]) -> Int64[Tensor, "batch books"]: ...

    def decode(self, codes: Int64[Tensor, "batch books"]) -> Float[Tensor, "batch width"]: ...

    def last_costs(
        self, latent: Float[Tensor, "batch dim"], codes: Int64[Tensor, "batch books"]
    ) -> Float[Tensor, "batch codes"]: ...

    def initialise(self, latent: Float[Tensor, "rows dim"], seed: int) -> None: ...


class ResidualCodebooks(nn.Module):
    """Each level quantises what the levels before it left over; the decoder gets the sum of the codewords.

    r_1 = z, c_l = argmin_k |r_l - C_l[k]|^2, r_(l+1) = r_l - sg(C_l[c_l]). The codeword is detached in the residual, so
    the terms of a level never reach the codebooks of the levels before. `beam` > 1 keeps that many best prefixes per
    row while encoding (not in training): less error from the same codebooks, at `beam` times the cost. With `balanced`
    the k-means of the initialisation caps the size of its clusters.
    """

    def __init__(
        self, dim: int, num_codebooks: int, codebook_size: int, *, beam: int = 1, balanced: bool = False
    ) -> None:
        super().__init__()
        self.tables = nn.Parameter(torch.randn(num_codebooks, codebook_size, dim) / dim**0.5)
        self.beam, self.balanced = beam, balanced

    @property
    def width(self) -> int:
        return self.tables.shape[2]

    @property
    def reseedable(self) -> nn.Parameter:
        return self.tables

    def forward(self, latent: Float[Tensor, "batch dim"]) -> Quantized:
        return quantize_residuals(latent, self.tables)

    def relaxed(self, latent: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch width"]:
        return latent

    def encode(self, latent: Float[Tensor, "batch dim"]) -> Int64[Tensor, "batch books"]:
        return residual_codes(latent, self.tables, self.beam)

    def decode(self, codes: Int64[Tensor, "batch books"]) -> Float[Tensor, "batch width"]:
        return gather_codewords(self.tables, codes).sum(1)

    def last_costs(
        self, latent: Float[Tensor, "batch dim"], codes: Int64[Tensor, "batch books"]
    ) -> Float[Tensor, "batch codes"]:
        before = gather_codewords(self.tables[:-1], codes[:, :-1]).sum(1)
        return squared_distances(latent - before, self.tables[-1])

    @torch.no_grad()
    def initialise(self, latent: Float[Tensor, "rows dim"], seed: int) -> None:
        """k-means of the residuals, level by level."""
        residual = latent
        for level, table in enumerate(self.tables):
            found = kmeans(residual, len(table), generator=seeded(seed, level), balanced=self.balanced)
            table.copy_(found.centroids)
            residual = residual - found.centroids[found.codes]


class ParallelCodebooks(nn.Module):
    """N books that all quantise the same latent vector: c_n = argmin_k |z - C_n[k]|^2 (Mixture-of-Codes, arXiv
    2410.09560).

    The decoder gets the mean of the codewords (paper), their sum, or their concatenation. Distances of all books are
    one matrix product. Each book is seeded differently: with equal seeds all books would be the same book.
    `projection="linear"` gives book n its own trained map P_n z (our choice; the paper describes none). A square
    orthogonal map would change nothing, since distances do not see it.
    """

    def __init__(
        self,
        dim: int,
        num_codebooks: int,
        codebook_size: int,
        *,
        aggregate: Aggregate = "mean",
        projection: Literal["none", "linear"] = "none",
    ) -> None:
        super().__init__()
        self.tables = nn.Parameter(torch.randn(num_codebooks, codebook_size, dim) / dim**0.5)
        self.aggregate = aggregate
        self.maps: nn.Parameter | None = None
        if projection == "linear":
            self.maps = nn.Parameter(torch.nn.init.orthogonal_(torch.empty(num_codebooks * dim, dim)))

    @property
    def width(self) -> int:
        books, _, dim = self.tables.shape
        return books * dim if self.aggregate == "concat" else dim

    @property
    def reseedable(self) -> nn.Parameter:
        return self.tables

    def relaxed(self, latent: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch width"]:
        return latent.repeat(1, self.width // latent.shape[1])

    def forward(self, latent: Float[Tensor, "batch dim"]) -> Quantized:
        inputs = self._inputs(latent)
        codes = self._nearest(inputs.detach())
        codewords = gather_codewords(self.tables, codes)
        straight = inputs + (codewords - inputs).detach()
        return Quantized(self._join(straight), codes, inputs, codewords)

    def encode(self, latent: Float[Tensor, "batch dim"]) -> Int64[Tensor, "batch books"]:
        return self._nearest(self._inputs(latent))

    def decode(self, codes: Int64[Tensor, "batch books"]) -> Float[Tensor, "batch width"]:
        return self._join(gather_codewords(self.tables, codes))

    def last_costs(
        self, latent: Float[Tensor, "batch dim"], codes: Int64[Tensor, "batch books"]
    ) -> Float[Tensor, "batch codes"]:
        return squared_distances(self._inputs(latent)[:, -1], self.tables[-1])

    @torch.no_grad()
    def initialise(self, latent: Float[Tensor, "rows dim"], seed: int) -> None:
        """k-means of the latent vectors, once a book, each with its own seed."""
        inputs = self._inputs(latent)
        for book, table in enumerate(self.tables):
            table.copy_(kmeans(inputs[:, book].contiguous(), len(table), generator=seeded(seed, book)).centroids)

    def _inputs(self, latent: Tensor) -> Tensor:
        books = len(self.tables)
        if self.maps is None:
            return latent.unsqueeze(1).expand(-1, books, -1)
        return rearrange(latent @ self.maps.T, "batch (books dim) -> batch books dim", books=books)

    def _nearest(self, inputs: Tensor) -> Tensor:
        """|C|^2 - 2 z C for all books at once; |z|^2 is the same for every code of a row. One book is a residual level,
        and chooses by its arithmetic, so that rounding never tells the two apart.
        """
        tables = self.tables.detach()
        if len(tables) == 1:
            return squared_distances(inputs[:, 0], tables[0]).argmin(1, keepdim=True)
        norms = tables.square().sum(2)
        if self.maps is None:
            products = inputs[:, 0] @ rearrange(tables, "books codes dim -> dim (books codes)")
            products = rearrange(products, "batch (books codes) -> batch books codes", books=len(tables))
        else:
            products = torch.einsum("nbd,bkd->nbk", inputs, tables)
        return (norms - 2 * products).argmin(2)

    def _join(self, vectors: Tensor) -> Tensor:
        if self.aggregate == "concat":
            return vectors.flatten(1)
        return vectors.mean(1) if self.aggregate == "mean" else vectors.sum(1)


def quantize_residuals(latent: Float[Tensor, "batch dim"], tables: Float[Tensor, "books codes dim"]) -> Quantized:
    """Residual levels in training: r_(l+1) = r_l - sg(c_l), and a straight-through sum of the codewords."""
    residual, inputs, codes, codewords = latent, [], [], []
    for table in tables:
        code = squared_distances(residual.detach(), table.detach()).argmin(1)
        codeword = table[code]
        inputs.append(residual)
        codes.append(code)
        codewords.append(codeword)
        residual = residual - codeword.detach()
    chosen = torch.stack(codewords, 1)
    straight = latent + (chosen.sum(1) - latent).detach()
    return Quantized(straight, torch.stack(codes, 1), torch.stack(inputs, 1), chosen)


def gather_codewords(
    tables: Float[Tensor, "books codes dim"], codes: Int64[Tensor, "batch books"]
) -> Float[Tensor, "batch books dim"]:
    """tables[n, codes[:, n]] of all books in one gather."""
    offsets = torch.arange(len(tables), device=codes.device) * tables.shape[1]
    return nn.functional.embedding(codes + offsets, tables.flatten(0, 1))


@torch.no_grad()
def residual_codes(
    vectors: Float[Tensor, "batch dim"],
    tables: Float[Tensor, "books codes dim"],
    beam: int = 1,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> Int64[Tensor, "batch books"]:
    """Codes of residual levels: greedy, or by a beam over the partial sums. `prepare` is applied to every residual."""
    if beam > 1:
        return _beam_codes(vectors, tables, beam)
    residual, codes = vectors, []
    for table in tables:
        residual = residual if prepare is None else prepare(residual)
        codes.append(nearest(residual, table))
        residual = residual - table[codes[-1]]
    return torch.stack(codes, 1)


def _beam_codes(vectors: Tensor, tables: Tensor, beam: int) -> Tensor:
    batch, dim = vectors.shape
    residual = vectors.unsqueeze(1)
    codes = torch.empty(batch, 1, 0, dtype=torch.int64, device=vectors.device)
    for table in tables:
        kept = residual.shape[1]
        errors = squared_distances(residual.reshape(-1, dim), table).reshape(batch, kept * len(table))
        best = errors.topk(min(beam, errors.shape[1]), dim=1, largest=False).indices
        parent, code = best // len(table), best % len(table)
        codes = torch.cat([codes.gather(1, parent.unsqueeze(2).expand(-1, -1, codes.shape[2])), code.unsqueeze(2)], 2)
        residual = residual.gather(1, parent.unsqueeze(2).expand(-1, -1, dim)) - table[code]
    return codes[:, 0]


@torch.no_grad()
def reseed(
    tables: Float[Tensor, "books codes dim"],
    inputs: Float[Tensor, "batch books dim"],
    dead: Bool[Tensor, "books codes"],
    generator: torch.Generator,
) -> None:
    """Put every dead code on a random vector of the batch that its book was given. Waits for nothing on the host."""
    books, codes, dim = tables.shape
    picks = torch.randint(len(inputs), (codes, books), generator=generator).to(inputs.device)
    fresh = inputs.detach().gather(0, picks.unsqueeze(2).expand(-1, -1, dim)).transpose(0, 1)
    tables.copy_(torch.where(dead.unsqueeze(2), fresh, tables))
