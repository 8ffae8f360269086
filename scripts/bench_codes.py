"""What a code table of millions of items costs: load, reverse look-up, resolution of collisions, and memory.

    python scripts/bench_codes.py --threads 1 --out out/bench_codes

Items have four codes of 256, drawn with a skew, and one in five has those of an item shortly before it, as variants of
a product do. Each figure stands beside the form that comes to mind first:

- load: the file read into memory;
- reverse index (codes -> items): `np.unique` over rows, and a sort of the groups it finds;
- reverse look-up: a dictionary of tuples, asked one by one;
- digits: a count for each tuple in a dictionary, as a loop over the items;
- balanced: the loop over prefixes, rounds and items that tests compare with, distances drawn by a hash.

Loops and dictionaries see the first items only where there are more (`FEW`, `FEWER`), and their times are multiplied;
results are checked to be equal on those before anything is timed. Times are the best of turns, with the file in the
page cache. Memory (peak resident, mapped pages of the file included) is that of a process of its own, which loads,
looks up and adds digits; `bench_details.json` has it, with the bytes of the file and the shares of items that collide.
"""

import resource
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
import torch
from jaxtyping import Float64, Int32, Int64
from safetensors.torch import load as safetensors_of
from torch import Tensor

from llm_rec.codec import Plain
from llm_rec.experiment import Measured, bench_options, take_turns, write_bench
from semantic_ids.balanced import resolve_balanced
from semantic_ids.code_table import CodeTable
from semantic_ids.collisions import LastCosts

BOOKS, SIZE, QUERIES = 4, 256, 100_000
SIZES = (SIZE,) * BOOKS
SCALES, QUICK_SCALES = (200_000, 10_000_000), (2_000, 12_000)
FEW, FEWER = 200_000, 5_000  # items that a dictionary, and the loop of balance, see at most


def main() -> None:
    args = bench_options(__doc__.splitlines()[0], out="out/bench_codes").parse_args()
    torch.set_num_threads(args.threads)
    measured, memory = [], {}
    for number in QUICK_SCALES if args.quick else SCALES:
        with TemporaryDirectory() as folder, get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            path = Path(folder) / "codes.safetensors"
            pool.apply(write, (path, number, args.seed))
            memory[f"{number:,} items"] = pool.apply(footprint, (path,))
            measured += measure(path, 1 if args.quick else 3, args.seed)
    write_bench(args.out / "bench.json", measured, {"books": BOOKS, "size": SIZE, "memory": memory})
    print("\n".join([*(line.text for line in measured), *(f"{name}: {values}" for name, values in memory.items())]))


def write(path: Path, number: int, seed: int) -> None:
    CodeTable.from_codes(drawn(number, seed), SIZES).save(path)


def drawn(number: int, seed: int) -> Int32[np.ndarray, "items books"]:
    """Low codes are the frequent ones; one item in five is like one of the ten before it."""
    rng = np.random.default_rng(seed)
    codes = (SIZE * rng.random((number, BOOKS), dtype=np.float32) ** 2).astype(np.int32)
    copies = np.flatnonzero(rng.random(number, dtype=np.float32) < 0.2)
    codes[copies] = codes[np.maximum(copies - rng.integers(1, 11, len(copies)), 0)]
    return codes


def footprint(path: Path) -> Plain:
    """Peak memory of this process, in MiB, before anything and after each step."""
    found: dict[str, Plain] = {"imports_mib": peak()}
    table = CodeTable.load(path)
    found["loaded_mib"] = peak()
    table.reverse.groups_of(table.items[:QUERIES])
    found["looked_up_mib"] = peak()
    digits = table.with_digit()
    found["digits_mib"] = peak()
    groups = np.diff(table.reverse.offsets)
    found["colliding_share"] = float(groups[groups > 1].sum() / table.num_items)
    found["largest_group"] = digits.codebook_sizes[-1]
    found["file_bytes"] = path.stat().st_size
    return found


def peak() -> float:
    """Peak resident memory of this process in MiB; `ru_maxrss` of a new process begins at that of the one before it."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return round(int(line.split()[1]) / 1024, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def measure(path: Path, repeats: int, seed: int) -> list[Measured]:
    """Ours beside each form, with the same answer."""
    table = CodeTable.load(path)
    number, codes, few = table.num_items, table.codes, min(FEW, table.num_items)
    size = f"{number:,} items"
    check("reading the file", codes, by_reading(path).codes)
    check("a loop over items", plain(codes[: few + 1]).with_digit().items[:, -1], by_counting(codes[1 : few + 1]))
    words = dictionary(codes[1 : few + 1])
    rows = np.random.default_rng(seed).integers(1, few + 1, QUERIES)
    queries = codes[rows]
    subset = plain(codes[: few + 1]).reverse
    first = subset.items[subset.offsets[subset.groups_of(queries)]]
    check("np.unique over rows", subset.items, by_unique(codes[: few + 1]))
    check("a dictionary", first, np.array(by_dictionary(words, queries)))
    found = []
    mine, theirs = take_turns(lambda: CodeTable.load(path), lambda: by_reading(path), repeats)
    found.append(in_seconds(f"load, {size}", "reading the file", mine, theirs))
    mine, theirs = take_turns(lambda: plain(codes).reverse, lambda: by_unique(codes), repeats)
    found.append(in_seconds(f"reverse index, {size}", "np.unique over rows", mine, theirs))
    mine, theirs = take_turns(lambda: table.reverse.groups_of(queries), lambda: by_dictionary(words, queries), repeats)
    found.append(
        Measured(
            what=f"reverse look-up, {size}",
            against=f"a dictionary of {few:,}",
            ours=QUERIES / mine,
            peer=QUERIES / theirs,
            unit="look-ups/s",
        )
    )
    mine, theirs = take_turns(lambda: plain(codes).with_digit(), lambda: by_counting(codes[1 : few + 1]), repeats)
    found.append(in_seconds(f"digits, {size}", "a loop over items", mine, theirs * number / few))
    return [*found, balanced(plain(codes), repeats)]


def balanced(table: CodeTable, repeats: int) -> Measured:
    """Balanced assignment beside the loop that tests compare it with."""
    fewer = min(FEWER, table.num_items)
    part = plain(table.codes[: fewer + 1])
    check("the loop of balance", resolve_balanced(part, hashed_costs()).table.items[:, -1], by_rounds(part.items))
    mine, theirs = take_turns(lambda: resolve_balanced(table, hashed_costs()), lambda: by_rounds(part.items), repeats)
    scaled = theirs * table.num_items / fewer
    return in_seconds(f"balanced, {table.num_items:,} items", "a loop over prefixes and items", mine, scaled)


def plain(codes: np.ndarray) -> CodeTable:
    """A table that knows its codes alone, with the padding row."""
    return CodeTable(codes=codes, codebook_sizes=SIZES)


def in_seconds(what: str, against: str, ours: float, naive: float) -> Measured:
    return Measured(what=what, against=against, ours=ours, peer=naive, unit="s", higher_is_better=False)


def by_reading(path: Path) -> CodeTable:
    """All bytes in memory, then an array of its own."""
    return plain(safetensors_of(path.read_bytes())["codes"].numpy().copy())


def by_unique(codes: np.ndarray) -> Int64[np.ndarray, " items"]:
    """Item rows sorted by the group of equal codes."""
    groups = np.unique(codes[1:], axis=0, return_inverse=True)[1]
    return np.argsort(groups.reshape(-1), kind="stable") + 1


def dictionary(codes: np.ndarray) -> dict[tuple[int, ...], int]:
    """Codes -> the first item that has them."""
    words: dict[tuple[int, ...], int] = {}
    for row, key in enumerate(map(tuple, codes.tolist()), start=1):
        words.setdefault(key, row)
    return words


def by_dictionary(words: dict[tuple[int, ...], int], queries: np.ndarray) -> list[int]:
    return [words[tuple(key)] for key in queries.tolist()]


def by_counting(codes: np.ndarray) -> Int64[np.ndarray, " items"]:
    """The digit of every item: how many before it have its codes."""
    seen: Counter[tuple[int, ...]] = Counter()
    digits = []
    for key in map(tuple, codes.tolist()):
        digits.append(seen[key])
        seen[key] += 1
    return np.array(digits)


def hashed_costs() -> LastCosts:
    """Distances in [0, 1) that are a function of item row and code, so that no matrix of all of them is kept."""

    def costs(rows: Int64[np.ndarray, " rows"]) -> Float64[Tensor, "rows codes"]:
        return torch.from_numpy(price(rows))

    return costs


def price(rows: Int64[np.ndarray, " rows"]) -> Float64[np.ndarray, "rows codes"]:
    mixed = (rows[:, None].astype(np.uint64) * SIZE + np.arange(SIZE, dtype=np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed >> np.uint64(11)) / 2.0**53


def by_rounds(items: np.ndarray) -> Int64[np.ndarray, " items"]:
    """Last codes of balanced assignment, by loops; only distances that are needed are computed."""

    @cache
    def distances(row: int) -> list[float]:
        return cast(list[float], price(np.array([row + 1]))[0].tolist())

    def nearest(rows: Sequence[int], code: int) -> int:
        return min(rows, key=lambda row: (distances(row)[code], row))

    last = items[:, -1].tolist()
    prefixes = defaultdict(list)
    for row, prefix in enumerate(map(tuple, items[:, :-1].tolist())):
        prefixes[prefix].append(row)
    for members in prefixes.values():
        holders = defaultdict(list)
        for row in members:
            holders[last[row]].append(row)
        kept = {nearest(rows, code) if len(rows) > 1 else rows[0] for code, rows in holders.items()}
        waiting = [row for row in members if row not in kept]
        free = [code for code in range(SIZE) if code not in holders]
        while waiting and free:
            asked = defaultdict(list)
            for row in waiting:
                asked[min(free, key=distances(row).__getitem__)].append(row)
            for code, rows in asked.items():
                winner = nearest(rows, code)
                last[winner] = code
                waiting.remove(winner)
                free.remove(code)
    return np.array(last)


def check(name: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    if not np.array_equal(ours, theirs):
        raise RuntimeError(f"{name} and the table disagree; nothing was timed")


if __name__ == "__main__":
    main()
