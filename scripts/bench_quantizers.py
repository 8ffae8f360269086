"""Seconds to fit a quantiser beside vector-quantize-pytorch used plainly and faiss, on the same rows.

    python scripts/bench_quantizers.py --threads 1 --out out/bench_quantizers

Rows are drawn from a mixture with low rank inside its groups, 384 wide as MiniLM's, and standardised for all. With
three books of 256 codes:

- residual k-means beside faiss' ResidualQuantizer (its own defaults, but a beam of one as ours has), and beside
  vector-quantize-pytorch's ResidualVQ trained plainly: k-means of the first batch, then moving averages over as many
  passes over the rows as our k-means does iterations;
- product quantisation (width cut into three) beside faiss' ProductQuantizer with as many iterations.

Faster is worth nothing where more is lost, so the squared error of each fit, relative to the variance, is measured on
the same rows and stands beside its seconds; `ratio` above 1 means that ours is better in both kinds of lines. Times are
the best of `--rounds` in which all take turns. faiss is the extra ``llm-rec[faiss]``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import TypeAlias

import faiss
import numpy as np
import torch
from jaxtyping import Float32
from vector_quantize_pytorch import ResidualVQ

from llm_rec.experiment import Measured, bench_options, write_bench
from semantic_ids.quantizers import PQConfig, QuantizerConfig, RQKMeansConfig, build_quantizer

DIM, BOOKS, SIZE, ITERATIONS, BATCH = 384, 3, 256, 25, 2048
SCALES, QUICK_SCALES = (12_000, 100_000), (6_000,)
Rows: TypeAlias = Float32[np.ndarray, "rows dim"]
Fit: TypeAlias = Callable[[], Callable[[], Rows]]  # fits, and gives what rebuilds the rows from their codes
PAIRS = {  # what ours is called, and beside which peers it stands
    "residual k-means": ("faiss ResidualQuantizer", "vector-quantize-pytorch"),
    "product": ("faiss ProductQuantizer",),
}


@dataclass(frozen=True, slots=True)
class Found:
    """The best seconds of a way to fit, and its squared error relative to the variance."""

    seconds: float
    error: float


def main() -> None:
    parser = bench_options(__doc__.splitlines()[0], out="out/bench_quantizers")
    parser.add_argument("--rounds", type=int, default=2, help="how often everything is fitted (default: 2)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    faiss.omp_set_num_threads(args.threads)
    measured = []
    for number in QUICK_SCALES if args.quick else SCALES:
        measured += measure(planted(number, args.seed), args.seed, 1 if args.quick else args.rounds)
    details = {"dim": DIM, "books": BOOKS, "size": SIZE, "iterations": ITERATIONS}
    write_bench(args.out / "bench.json", measured, {**details, "faiss": faiss.__version__})
    print("\n".join(line.text for line in measured))


def planted(number: int, seed: int) -> Rows:
    """64 groups with twelve directions each, centred and divided by one number."""
    rng = np.random.default_rng(seed)
    centres, inside = rng.normal(size=(64, DIM)), 0.4 * rng.normal(size=(64, 12, DIM))
    groups = rng.integers(0, 64, number)
    rows = centres[groups] + np.einsum("nk,nkd->nd", rng.normal(size=(number, 12)), inside[groups])
    rows += 0.3 * rng.normal(size=rows.shape)
    rows -= rows.mean(0)
    return (rows / rows.std()).astype(np.float32)


def measure(rows: Rows, seed: int, rounds: int) -> list[Measured]:
    """Seconds and errors of ours beside each peer; all ways take turns."""
    residual = RQKMeansConfig(num_codebooks=BOOKS, codebook_size=SIZE, iterations=ITERATIONS)
    product = PQConfig(num_codebooks=BOOKS, codebook_size=SIZE, iterations=ITERATIONS)
    ways = {
        "residual k-means": ours(residual, rows, seed),
        "product": ours(product, rows, seed),
        "faiss ResidualQuantizer": faiss_residual(rows),
        "vector-quantize-pytorch": library_residual(rows, seed),
        "faiss ProductQuantizer": faiss_product(rows),
    }
    found = in_turns(ways, rows, rounds)
    return [
        line
        for what, peers in PAIRS.items()
        for peer in peers
        for line in beside(f"{what}, {len(rows):,} rows", peer, found[what], found[peer])
    ]


def in_turns(ways: Mapping[str, Fit], rows: Rows, rounds: int) -> dict[str, Found]:
    """Every way once a round; the error is that of its last fit."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    rebuilds: dict[str, Callable[[], Rows]] = {}
    for _ in range(rounds):
        for name, fit in ways.items():
            start = perf_counter()
            rebuilds[name] = fit()
            seconds[name].append(perf_counter() - start)
    spread = float(np.square(rows - rows.mean(0)).sum())
    return {
        name: Found(min(seconds[name]), float(np.square(rows - rebuild()).sum()) / spread)
        for name, rebuild in rebuilds.items()
    }


def beside(what: str, against: str, mine: Found, theirs: Found) -> list[Measured]:
    figures = (("fit", mine.seconds, theirs.seconds, "s"), ("error", mine.error, theirs.error, "of the variance"))
    return [
        Measured(what=f"{name}: {what}", against=against, ours=our, peer=peer, unit=unit, higher_is_better=False)
        for name, our, peer, unit in figures
    ]


def ours(config: QuantizerConfig, rows: Rows, seed: int) -> Fit:
    def fit() -> Callable[[], Rows]:
        quantizer = build_quantizer(config, DIM)
        quantizer.fit(rows, seed=seed)
        return lambda: quantizer.decode(quantizer.encode(rows))

    return fit


def faiss_residual(rows: Rows) -> Fit:
    def fit() -> Callable[[], Rows]:
        quantizer = faiss.ResidualQuantizer(DIM, BOOKS, SIZE.bit_length() - 1)
        quantizer.max_beam_size = 1
        quantizer.train(rows)
        return lambda: quantizer.decode(quantizer.compute_codes(rows))

    return fit


def faiss_product(rows: Rows) -> Fit:
    def fit() -> Callable[[], Rows]:
        quantizer = faiss.ProductQuantizer(DIM, BOOKS, SIZE.bit_length() - 1)
        quantizer.cp.niter = ITERATIONS
        quantizer.train(rows)
        return lambda: quantizer.decode(quantizer.compute_codes(rows))

    return fit


def library_residual(rows: Rows, seed: int) -> Fit:
    """As its documentation shows it, with k-means of the first batch; rows are in random order as they are."""

    @torch.no_grad()
    def fit() -> Callable[[], Rows]:
        torch.manual_seed(seed)
        given = torch.from_numpy(rows)
        model = ResidualVQ(
            dim=DIM, num_quantizers=BOOKS, codebook_size=SIZE, kmeans_init=True, kmeans_iters=10, rotation_trick=False
        )
        for _ in range(ITERATIONS):
            for batch in given.split(BATCH):
                model(batch.unsqueeze(0))
        model.eval()
        return lambda: torch.cat([model(batch.unsqueeze(0))[0][0] for batch in given.split(BATCH)]).numpy()

    return fit


if __name__ == "__main__":
    main()
