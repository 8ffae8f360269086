"""Benchmarks: one of our figures beside a peer's on the same rows, and what machine they come from."""

import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import cast

from llm_rec.artifacts import write_json
from llm_rec.codec import Plain, to_plain
from llm_rec.errors import ConfigError

ENOUGH = 10.0  # seconds of one comparison


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One line of `bench.json`: our figure beside a peer's on the same rows. `ratio` above 1: ours is better."""

    what: str
    against: str
    ours: float
    peer: float
    unit: str
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        if self.ours <= 0 or self.peer <= 0:
            raise ConfigError(f"{self.what}: ours {self.ours} and peer {self.peer} must be above 0 to form a ratio")

    @property
    def ratio(self) -> float:
        return self.ours / self.peer if self.higher_is_better else self.peer / self.ours

    @property
    def text(self) -> str:
        """One line for people."""
        return f"{self.what}: {self.ours:,.4g} {self.unit}, {self.against} {self.peer:,.4g}: {self.ratio:.3g} x"


def write_bench(path: Path, measured: Sequence[Measured], details: Mapping[str, Plain] | None = None) -> None:
    """Write `bench.json` (what, against, ours, peer, unit, ratio); machine and details go to `bench_details.json`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, [{**cast(dict[str, Plain], to_plain(m)), "ratio": m.ratio} for m in measured])
    write_json(path.with_name(f"{path.stem}_details.json"), {"machine": machine(), **(details or {})})


def machine() -> dict[str, Plain]:
    """Processor, cores this process may use, memory, Python, torch and its threads: what a figure was measured on."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text(encoding="utf-8").splitlines() if cpus.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    affinity = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    torch = sys.modules.get("torch")
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": affinity,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "torch": _version("torch"),
        "torch_threads": torch.get_num_threads() if torch is not None else None,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def take_turns(ours: Callable[[], object], naive: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Best seconds of each, run one after the other. The first turn does not count; turns end after `repeats` more, or
    when `ENOUGH` seconds are spent (then, with one turn alone, it counts after all).
    """
    seconds: list[tuple[float, float]] = []
    start = perf_counter()
    while len(seconds) <= repeats and (not seconds or perf_counter() - start < ENOUGH):
        seconds.append((timed(ours), timed(naive)))
    counted = seconds[1:] or seconds
    return min(turn[0] for turn in counted), min(turn[1] for turn in counted)


def timed(call: Callable[[], object]) -> float:
    start = perf_counter()
    call()
    return perf_counter() - start


def in_milliseconds(what: str, against: str, ours: float, naive: float) -> Measured:
    return Measured(what=what, against=against, ours=1e3 * ours, peer=1e3 * naive, unit="ms", higher_is_better=False)
