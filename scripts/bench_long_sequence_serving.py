"""Search at serving: microseconds to find the k best of a user's events for the candidates of one request.

Five ways, all exact or made so by scoring again:

- `float32`, `bfloat16`, `int8`: cached keys without positions, and one vector of positions for all (`UserKeyCache`);
- `position in keys`: float32 keys with the position's numbers in them, a third of all, so the product is wider. What it
  costs to write all keys anew when an event is appended is not counted;
- `recomputed keys`: no cache; the keys of all events are looked up in the tables at every request.

`dim` counts the numbers of an attention vector with its position. Requests go around several users, so that keys are
not always those just read. Ids and tables are random.

The floor of a request is the larger of bytes / bandwidth and operations / rate (2 * events * numbers * candidates), for
the numbers that the way reads: keys in their storage, float32 queries, 8 bytes a result. Bandwidth (one large array
read) and rates (square products) are measured here, with the same threads. Small keys stay in caches of the processor,
which are faster than its memory, so they can come closer to this floor than large ones, or go below it.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from time import perf_counter, process_time

import numpy as np
import torch
from torch import Tensor

from ctr_models.sequences.cache import UserKeyCache, UserKeyCacheConfig
from ctr_models.sequences.key_storage import Storage, encode, score_tiles
from ctr_models.sequences.ordered_topk import running_topk
from ctr_models.sequences.separable import by_column
from llm_rec.codec import Plain
from llm_rec.experiment import Cell, CellResult, Measured, Record, run_grid

STORED: dict[str, Storage] = {"float32": "float32", "bfloat16": "bfloat16", "int8": "int8"}
IN_KEYS, RECOMPUTED = "position in keys", "recomputed keys"
WAYS = (*STORED, IN_KEYS, RECOMPUTED)
KEY_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1, IN_KEYS: 4, RECOMPUTED: 4}
RATES = {"bfloat16": "bfloat16 Gflop/s"}  # of the product; float32 elsewhere
FIELDS = 2  # of an event: item and category
PERCENTILES = {"p50": 50, "p99": 99}
SHARED = ("candidates", "lengths", "dims", "k", "users", "vocabulary", "seconds", "least_calls", "device", "threads")


def add_serving_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("serving")
    group.add_argument("--candidates", type=int, nargs="+", default=[1, 100, 500])
    group.add_argument("--lengths", type=int, nargs="+", default=[200, 2_000, 20_000], help="events of a user")
    group.add_argument("--dims", type=int, nargs="+", default=[16, 48, 192, 384], help="numbers with the position's")
    group.add_argument("--k", type=int, default=20, help="events to find (default: 20)")
    group.add_argument("--users", type=int, default=8, help="users that requests go around (default: 8)")
    group.add_argument("--vocabulary", type=int, default=200_000, help="rows of each table (default: 200,000)")
    group.add_argument("--seconds", type=float, default=1.0, help="how long each is measured (default: 1)")
    group.add_argument("--least-calls", type=int, default=20, help="but at least so many requests (default: 20)")
    group.add_argument("--device", default="cpu", help="cpu (default) or cuda")


def measure_serving(args: argparse.Namespace) -> tuple[list[Measured], dict[str, Plain]]:
    """Lines of `bench.json`, and every figure of every cell beside them."""
    if args.quick:
        args.seconds, args.least_calls = min(args.seconds, 0.05), min(args.least_calls, 5)
    context: dict[str, Plain] = {name: getattr(args, name) for name in (*SHARED, "seed", "quick")}
    rates_cell = Cell("machine", {}, args.seed)
    cells = [rates_cell] + [
        Cell(way, {"candidates": candidates, "length": length, "dim": dim}, args.seed)
        for dim in args.dims
        for length in args.lengths
        for candidates in args.candidates
        for way in WAYS
    ]

    def run(cell: Cell) -> list[Record]:
        if cell == rates_cell:
            return machine_rates(args.device, args.quick)
        return measure(cell.model, Setting.of(cell), args)

    results = run_grid(cells, run, args.out, context=context, report=say)
    figures = {(r.cell.model, Setting.of(r.cell)): metrics(r) for r in results if r.cell != rates_cell and r.records}
    rates = metrics(next(r for r in results if r.cell == rates_cell))
    rows: list[Plain] = [
        {"way": way, **setting.plain(), **found, "floor us": floor(way, setting, args.k, rates)}
        for (way, setting), found in figures.items()
    ]
    return lines(figures, rates, args.k), {**context, "machine": dict(rates), "cells": rows}


@dataclass(frozen=True, slots=True)
class Setting:
    """One size of a request."""

    candidates: int
    length: int
    dim: int

    @classmethod
    def of(cls, cell: Cell) -> "Setting":
        return cls(*(int(str(cell.setting.get(name, 0))) for name in ("candidates", "length", "dim")))

    def plain(self) -> dict[str, Plain]:
        return {"candidates": self.candidates, "length": self.length, "dim": self.dim}

    def width(self, way: str) -> int:
        """Numbers of a key: without the position's third where positions have a vector of their own."""
        return self.dim if way == IN_KEYS else self.dim - self.dim // 3

    def __str__(self) -> str:
        return f"{self.candidates} candidates, {self.length:,} events, dim {self.dim}"


# --- one way at one size -------------------------------------------------------------------------------------------


def measure(way: str, setting: Setting, args: argparse.Namespace) -> list[Record]:
    """Percentiles, processor time a request, bytes of a user, and for rounded storage the share of events found."""
    world = World.drawn(way, setting, args)
    microseconds, cpu = timed(world.request(way, args.k), args)
    records = [Record(f"{name} us", float(np.percentile(microseconds, p))) for name, p in PERCENTILES.items()]
    records += [Record("cpu us", cpu), Record("calls", float(len(microseconds)))]
    if way in STORED:
        records.append(Record("bytes a user", float(world.cache(STORED[way]).bytes_of(0))))
    if way in STORED and way != "float32":
        records.append(Record("recall", world.recall(STORED[way], args.k)))
    return records


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """Users' ids, tables side by side in one row a field, queries, and the positions' vector where there is one."""

    ids: list[Tensor]
    tables: list[Tensor]
    queries: Tensor
    bias: Tensor | None

    @classmethod
    def drawn(cls, way: str, setting: Setting, args: argparse.Namespace) -> "World":
        generator = torch.Generator().manual_seed(args.seed)
        width = setting.width(way)
        widths = [width // FIELDS, width - width // FIELDS]
        tables = [torch.randn(args.vocabulary, part, generator=generator) for part in widths]
        ids = [
            torch.randint(1, args.vocabulary, (setting.length, FIELDS), generator=generator) for _ in range(args.users)
        ]
        queries = torch.randn(setting.candidates, width, generator=generator) / width**0.5
        bias = None if way == IN_KEYS else torch.randn(setting.length, generator=generator) * 0.3
        return cls(
            [part.to(args.device) for part in ids],
            [table.to(args.device) for table in tables],
            queries.to(args.device),
            None if bias is None else bias.to(args.device),
        )

    def keys_of(self, ids: Tensor) -> Tensor:
        return torch.cat([table[ids[:, field]] for field, table in enumerate(self.tables)], 1)

    def cache(self, storage: Storage, rescored: int = 4) -> UserKeyCache:
        """With all users."""
        config = UserKeyCacheConfig(storage=storage, max_length=len(self.ids[0]), rescored=rescored)
        held = UserKeyCache(config, self.keys_of, self.bias)
        for user, ids in enumerate(self.ids):
            held.put(user, ids)
        return held

    def request(self, way: str, k: int) -> Callable[[], object]:
        """One request of the next user."""
        if way == RECOMPUTED:
            histories = cycle(self.ids)
            return lambda: self.search_anew(next(histories), k)
        held, users = self.cache(STORED.get(way, "float32")), cycle(range(len(self.ids)))
        return lambda: held.search(next(users), self.queries, k)

    def search_anew(self, ids: Tensor, k: int) -> Tensor:
        rows = encode(ids, self.keys_of(ids), "float32")
        bias = None if self.bias is None else by_column(self.bias, len(ids))
        return running_topk(score_tiles(self.queries, rows, bias), k).indices

    def recall(self, storage: Storage, k: int) -> float:
        """Share of the k best events that search in `storage` finds."""
        exact, found = (held.search(0, self.queries, k).indices for held in map(self.cache, ("float32", storage)))
        return float((exact.unsqueeze(2) == found.unsqueeze(1)).any(2).float().mean())


def timed(request: Callable[[], object], args: argparse.Namespace) -> tuple[list[float], float]:
    """Microseconds of each request after one round of all users, and the mean of processor time."""
    wait = torch.cuda.synchronize if args.device.startswith("cuda") else _nothing
    for _ in range(args.users):
        request()
    wait()
    seconds: list[float] = []
    begin, cpu = perf_counter(), process_time()
    while len(seconds) < args.least_calls or perf_counter() - begin < args.seconds:
        start = perf_counter()
        request()
        wait()
        seconds.append(perf_counter() - start)
    return [1e6 * each for each in seconds], 1e6 * (process_time() - cpu) / len(seconds)


def _nothing() -> None:
    """A CPU is never waited for."""


# --- the machine ---------------------------------------------------------------------------------------------------


def machine_rates(device: str, quick: bool) -> list[Record]:
    """Best of several: GB/s of reading an array larger than caches, Gflop/s of square products."""
    numbers = 2**24 if quick else 2**28
    wait = torch.cuda.synchronize if device.startswith("cuda") else _nothing
    array = torch.ones(numbers, device=device)
    records = [Record("GB/s", 4e-9 * numbers / best_of(lambda: array.sum(), wait))]
    side = 512 if quick else 2048
    for dtype in (torch.float32, torch.bfloat16):
        square = torch.ones(side, side, device=device, dtype=dtype)
        seconds = best_of(lambda square=square: square @ square, wait)
        records.append(Record(f"{str(dtype).removeprefix('torch.')} Gflop/s", 2e-9 * side**3 / seconds))
    return records


def best_of(call: Callable[[], object], wait: Callable[[], None], times: int = 7) -> float:
    """Seconds of the fastest call."""
    found = []
    for _ in range(times):
        start = perf_counter()
        call()
        wait()
        found.append(perf_counter() - start)
    return min(found)


def floor(way: str, setting: Setting, k: int, rates: dict[str, float]) -> float:
    """Microseconds below which the machine's memory, or its arithmetic, cannot go.

    >>> floor("float32", Setting(1, 2000, 24), 20, {"GB/s": 1.0, "float32 Gflop/s": 1.0})
    128.224
    """
    width = setting.width(way)
    read = setting.length * width * KEY_BYTES[way] + setting.candidates * (4 * width + 8 * k)
    operations = 2 * setting.length * width * setting.candidates
    rate = rates[RATES.get(way, "float32 Gflop/s")]
    return max(read / rates["GB/s"], operations / rate) / 1e3


# --- lines of bench.json -------------------------------------------------------------------------------------------


def lines(figures: dict[tuple[str, Setting], dict[str, float]], rates: dict[str, float], k: int) -> list[Measured]:
    """Each way beside its floor; the cache beside keys looked up anew and beside wider keys; each dim beside the
    largest. Processor time is the steadier figure where other work runs as well.
    """
    found: list[Measured] = []
    for (way, setting), ours in figures.items():
        what = f"search, {setting}, {way}"
        for name in PERCENTILES:
            found.append(line(f"{what}, {name}", "floor", ours[f"{name} us"], floor(way, setting, k, rates)))
        largest = Setting(setting.candidates, setting.length, max(s.dim for _, s in figures))
        others = [] if way in (IN_KEYS, RECOMPUTED) else [(other, (other, setting)) for other in (IN_KEYS, RECOMPUTED)]
        if setting != largest:
            others.append((f"dim {largest.dim}", (way, largest)))
        for against, key in others:
            if key in figures:
                found.append(line(f"{what}, p50", against, ours["p50 us"], figures[key]["p50 us"]))
                found.append(line(f"{what}, processor", against, ours["cpu us"], figures[key]["cpu us"]))
    return found


def line(what: str, against: str, ours: float, peer: float) -> Measured:
    return Measured(what=what, against=against, ours=ours, peer=peer, unit="us", higher_is_better=False)


def metrics(result: CellResult) -> dict[str, float]:
    return {record.metric: record.value for record in result.records}


def say(result: CellResult) -> None:
    shown = ", ".join(f"{record.value:,.5g} {record.metric}" for record in result.records)
    print(f"{result.cell.model}, {Setting.of(result.cell)}: {shown or result.error}", flush=True)
