"""SimHash codes and search by true Hamming distance: integer XOR and population count, no float codes.

Code bit j of a vector x is [<x, r_j> > 0] for a fixed random r_j, so two vectors differ in a bit with probability
angle / pi (Charikar, STOC 2002). 32 bits lie in one int32: a history of L events takes L * bits / 8 bytes to search.
"""

import torch
from jaxtyping import Bool, Float, Int32
from torch import Tensor, nn

from ctr_models.checks import check_at_least
from ctr_models.sequences.found import Found, nearest_events, without_autocast

WORD = 32


class SimHash(nn.Module):
    """`bits` random hyperplanes through 0 for each table, drawn from `seed` and stored with the model: a code means
    nothing without them. Codes depend on the vector alone, so those of all items can be made once (`codes` of a table's
    rows) and looked up by id.
    """

    planes: Tensor

    def __init__(self, num_tables: int, width: int, bits: int, *, seed: int = 0) -> None:
        super().__init__()
        check_at_least("bits", bits, 1)
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("planes", torch.randn(num_tables, width, bits, generator=generator))

    @property
    def bits(self) -> int:
        return self.planes.shape[2]

    @torch.no_grad()
    def signs(self, vectors: Float[Tensor, "tables *shape width"]) -> Bool[Tensor, "tables *shape bits"]:
        """[<x, r_j> > 0], in float32 whatever the vectors and the context are."""
        with without_autocast(vectors.device):
            signs = torch.bmm(vectors.float().flatten(1, -2), self.planes.float()).gt(0)
        return torch.unflatten(signs, 1, vectors.shape[1:-1])

    def codes(self, vectors: Float[Tensor, "tables *shape width"]) -> Int32[Tensor, "tables *shape words"]:
        """The signs, 32 in a word."""
        return pack_bits(self.signs(vectors))


def hashed_parts(wanted: int | None, parts: int) -> int:
    """How many leading parts of a vector are hashed: `wanted`, all when None; ValueError when there are fewer.

    >>> hashed_parts(2, 3), hashed_parts(None, 3)
    (2, 3)
    """
    hashed = parts if wanted is None else wanted
    if hashed > parts:
        raise ValueError(f"hash_parts {hashed} is more than the {parts} parts of a vector")
    return hashed


def pack_bits(signs: Bool[Tensor, "*shape bits"]) -> Int32[Tensor, "*shape words"]:
    """32 bits in a word, the first bit lowest; missing bits of the last word are 0.

    >>> pack_bits(torch.tensor([True, False, True]))
    tensor([5], dtype=torch.int32)
    """
    halves = binary_numbers(signs, WORD // 2, 2 * -(-signs.shape[-1] // WORD)).to(torch.int32)
    low, high = torch.unflatten(halves, -1, (-1, 2)).unbind(-1)
    return low + (high - ((high >> 15) << 16)) * (1 << 16)  # the highest bit is the sign


def binary_numbers(signs: Bool[Tensor, "*shape bits"], digits: int, count: int) -> Float[Tensor, "*shape {count}"]:
    """`count` numbers of `digits` bits each, the first bit lowest; bits that are missing are 0. One product, exact in
    float32 up to 24 digits: sums over so few columns are slow.
    """
    places = torch.arange(signs.shape[-1], device=signs.device)
    values = torch.zeros(signs.shape[-1], count, device=signs.device)
    values[places, places // digits] = torch.exp2((places % digits).float())
    with without_autocast(signs.device):
        return signs.float() @ values


def popcount(words: Int32[Tensor, "*shape"]) -> Int32[Tensor, "*shape"]:
    """How many bits of each word are set: counts of four bits, then of bytes, then of the word; no step overflows.

    >>> popcount(torch.tensor([0, 5, -1], dtype=torch.int32))
    tensor([ 0,  2, 32], dtype=torch.int32)
    """
    counts = words & 0x11111111
    for shift in (1, 2, 3):
        counts += (words >> shift).bitwise_and_(0x11111111)
    counts = (counts >> 4).add_(counts).bitwise_and_(0x0F0F0F0F)
    counts += counts >> 8
    return (counts >> 16).add_(counts).bitwise_and_(0x3F)


def hamming_distance(
    first: Int32[Tensor, "*first words"], second: Int32[Tensor, "*second words"]
) -> Int32[Tensor, "..."]:
    """Bits in which codes differ; leading axes broadcast.

    >>> hamming_distance(torch.tensor([5], dtype=torch.int32), torch.tensor([[4], [5]], dtype=torch.int32))
    tensor([1, 0], dtype=torch.int32)
    """
    return popcount(first ^ second).sum(-1, dtype=torch.int32)


def hamming_search(
    target: Int32[Tensor, "tables batch words"],
    events: Int32[Tensor, "tables batch length words"],
    mask: Bool[Tensor, "batch length"],
    top_k: int,
) -> Found:
    """The `top_k` events of the nearest codes, the newest first among equals; padding comes after every event."""
    return nearest_events(hamming_distance(target.unsqueeze(2), events), mask, top_k)
