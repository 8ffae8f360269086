"""What a prefix constraint costs a step of beam search: the trie of sorted keys beside the forms that public code has.

    python scripts/bench_trie.py --threads 1 --out out/bench_trie

A step is asked, for every beam of every row of a batch (32 x 20), which codes of the next book may follow. Beams sit on
prefixes of random items of a catalog with three books of 256 codes and a digit; the last semantic book is asked for,
where the trie is widest and a dictionary deepest. Forms:

- dictionary: nested dictionaries, walked once a beam from the root by Python, a row of the mask for each;
- broadcast: the prefix of every beam compared with that of every item, then a scatter of their next codes. Above a
  million items it is timed for 4 beams and multiplied, because what all beams need exceeds memory.

All give the same mask, which is checked before anything is timed. `with seen items` excludes 50 items a row as well.
Times are the best of several runs that take turns. That no step waits for the host is a test (tests/semantic_ids).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from llm_rec.experiment import Measured, bench_options, in_milliseconds, take_turns, write_bench
from semantic_ids.code_table import CodeTable
from semantic_ids.trie import ROOT, CodeTrie

BATCH, BEAMS, SEEN = 32, 20, 50
BOOKS, SIZE = 3, 256
DEPTH = BOOKS - 1  # the book that is asked for
SCALES, QUICK_SCALES = (12_000, 200_000, 10_000_000), (2_000, 12_000)
FEW_BEAMS, MANY_ITEMS = 4, 1_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A catalog with its trie, and beams on prefixes of its items."""

    table: CodeTable
    trie: CodeTrie
    prefixes: Int64[Tensor, "beams depth"]
    seen: Int64[Tensor, "batch hidden"]

    @property
    def items(self) -> Int64[Tensor, "items books"]:
        """Codes of all items."""
        return torch.from_numpy(self.table.items.astype(np.int64))


def main() -> None:
    args = bench_options(__doc__.splitlines()[0], out="out/bench_trie").parse_args()
    torch.set_num_threads(args.threads)
    measured = []
    for number in QUICK_SCALES if args.quick else SCALES:
        measured += measure(case(number, args.seed), 2 if args.quick else 5)
    write_bench(args.out / "bench.json", measured, {"batch": BATCH, "beams": BEAMS, "books": BOOKS, "size": SIZE})
    print("\n".join(line.text for line in measured))


def case(number: int, seed: int) -> Case:
    """`number` items with uniform codes; a digit tells equal ones apart."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, SIZE, (number, BOOKS))
    table = CodeTable.from_codes(codes, (SIZE,) * BOOKS).with_digit()
    prefixes = torch.from_numpy(codes[rng.integers(0, number, BATCH * BEAMS), :DEPTH])
    return Case(table, CodeTrie.of(table), prefixes, torch.from_numpy(rng.integers(1, number + 1, (BATCH, SEEN))))


def measure(given: Case, repeats: int) -> list[Measured]:
    """Ours beside each form, with the same answer."""
    nodes = nodes_of(given.trie, given.prefixes)
    words = dictionary(given.table)
    items = given.items
    beams = FEW_BEAMS if len(items) > MANY_ITEMS else len(nodes)
    ours = given.trie.mask(DEPTH, nodes)
    check("dictionary", ours, by_dictionary(words, given.prefixes))
    check("broadcast", ours[:beams], by_broadcast(items, given.prefixes[:beams]))
    step = step_of(given.trie, nodes)
    hidden = given.trie.excluded_leaves(given.seen).repeat_interleave(BEAMS, 0)
    size = f"{len(items):,} items"
    mine, theirs = take_turns(step, lambda: by_dictionary(words, given.prefixes), repeats)
    found = [in_milliseconds(f"step, {size}", "dictionary", mine, theirs)]
    mine, theirs = take_turns(step, lambda: by_broadcast(items, given.prefixes[:beams]), repeats)
    found.append(in_milliseconds(f"step, {size}", "broadcast", mine, theirs * len(nodes) / beams))
    mine, theirs = take_turns(step_of(given.trie, nodes, hidden), lambda: by_dictionary(words, given.prefixes), repeats)
    return [*found, in_milliseconds(f"step with seen items, {size}", "dictionary without them", mine, theirs)]


def step_of(trie: CodeTrie, nodes: Int64[Tensor, "beams"], hidden: Tensor | None = None) -> Callable[[], object]:
    return lambda: trie.mask(DEPTH, nodes, hidden)


def nodes_of(trie: CodeTrie, prefixes: Int64[Tensor, "beams depth"]) -> Int64[Tensor, "beams"]:
    """Where the beams are; a search keeps them from step to step."""
    nodes = torch.full((len(prefixes),), ROOT)
    for depth in range(prefixes.shape[1]):
        nodes = trie.step(depth, nodes, prefixes[:, depth])
    return nodes


Words = dict[int, dict[int, set[int]]]


def dictionary(table: CodeTable) -> Words:
    """First code -> second code -> third codes."""
    words: Words = {}
    for first, second, third in np.unique(table.items[:, :BOOKS], axis=0).tolist():
        words.setdefault(first, {}).setdefault(second, set()).add(third)
    return words


def by_dictionary(words: Words, prefixes: Int64[Tensor, "beams depth"]) -> Bool[Tensor, "beams codes"]:
    mask = torch.zeros(len(prefixes), SIZE, dtype=torch.bool)
    for beam, (first, second) in enumerate(prefixes.tolist()):
        mask[beam, list(words[first][second])] = True
    return mask


def by_broadcast(
    items: Int64[Tensor, "items books"], prefixes: Int64[Tensor, "beams depth"]
) -> Bool[Tensor, "beams codes"]:
    same = (items[None, :, :DEPTH] == prefixes[:, None]).all(-1)
    beams, rows = same.nonzero(as_tuple=True)
    mask = torch.zeros(len(prefixes), SIZE, dtype=torch.bool)
    mask[beams, items[rows, DEPTH]] = True
    return mask


def check(name: str, ours: Tensor, theirs: Tensor) -> None:
    if not torch.equal(ours, theirs):
        raise RuntimeError(f"{name} and the trie disagree; nothing was timed")


if __name__ == "__main__":
    main()
