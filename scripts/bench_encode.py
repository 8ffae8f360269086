"""Encode product titles, 20 % of them repeated: this library against ``SentenceTransformer.encode``, in one run.

``python scripts/bench_encode.py --out DIR [--data DATA/<set>] [--quick]`` writes ``bench.json``:

- texts/s of `encode_catalog` into a store on disk (reading duplicates, writing and sealing included) over texts/s of
  sentence-transformers' own ``encode`` on the same texts, threads and model; the two take turns, medians are compared.
- the smallest cosine between the two vectors of a text.
- peak memory of a process that encodes 10,000 and 200,000 texts, less what it holds before it encodes. The encoder is
  hashed n-grams of width 384 (MiniLM's; 200,000 texts through MiniLM take many minutes): what grows with the catalog is
  the store's side, which is the same for every encoder. Shards of 2,048 items: so the small catalog, too, has one shard
  in work and a full one read ahead. ``--memory-encoder minilm`` measures the real one.

``--data`` is a folder with ``items.parquet`` (its column ``title`` is read); without it titles are generated.
"""

import json
import os
import platform
import random
import resource
import shutil
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import tyro

from llm_rec.artifacts import write_json
from llm_rec.data.catalog import Catalog
from llm_rec.encoders import (
    EncodeConfig,
    EncoderConfig,
    HashingEncoderConfig,
    SentenceEncoder,
    SentenceEncoderConfig,
    build_encoder,
    encode_catalog,
)
from llm_rec.store import EmbeddingStore

Record = dict[str, object]
MAKERS = ["Norvik", "Aldana", "Brightway", "Kestrel", "Omura", "Talis", "Verdano", "Quillon", "Sundry & Sons", "Pico"]
KINDS = [
    "Stainless Steel Kettle",
    "Cotton Bath Towel",
    "Wireless Mouse",
    "Organic Green Tea",
    "Running Shoes",
    "Desk Lamp",
]
DETAILS = ["with lid", "pack of 12", "for women", "BPA free", "2.5 litres", "matte black", "gift set", "rechargeable"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """`memory_of` is one measurement of memory, started by this script as a process of its own."""

    out: Path
    quick: bool = False
    data: Path | None = None
    texts: int | None = None
    repeats: int | None = None
    memory_encoder: Literal["hashing", "minilm"] = "hashing"
    memory_of: int | None = None
    seed: int = 0


def generated_titles(count: int, rng: random.Random) -> list[str]:
    """Distinct titles; lengths spread like those of a shop (about 5 to 60 tokens, most of them short)."""

    def title(i: int) -> str:
        details = ", ".join(rng.choices(DETAILS, k=min(14, int(rng.expovariate(0.4)))))
        return f"{rng.choice(MAKERS)} {rng.choice(KINDS)} {details} {i}"

    return [title(i) for i in range(count)]


def benchmark_catalog(options: Options, count: int) -> Catalog:
    """`count` texts of which every fifth is a copy of another one, at random places."""
    rng = random.Random(options.seed)
    distinct = count - count // 5
    if options.data is None:
        texts = generated_titles(distinct, rng)
    else:
        import pandas as pd

        titles = pd.read_parquet(options.data / "items.parquet", columns=["title"])["title"].dropna().astype(str)
        texts = [text for text in dict.fromkeys(titles.tolist()) if text.strip()]
        rng.shuffle(texts)
        texts = texts[:distinct]
    texts += rng.choices(texts, k=len(texts) // 4)
    rng.shuffle(texts)
    return Catalog([str(i) for i in range(len(texts))], texts)


class Stopwatch:
    """Wall-clock seconds, and processor seconds of all threads: the latter tell more on a machine that others use."""

    wall = 0.0
    cpu = 0.0

    def __enter__(self) -> Self:
        self._start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self._start[0], time.process_time() - self._start[1]


def compare(what: str, ours: list[float], peer: list[float]) -> Record:
    mine, other = statistics.median(ours), statistics.median(peer)
    runs = {"runs_ours": ours, "runs_peer": peer}
    return {"what": what, "ours": mine, "peer": other, "unit": "texts/s", "ratio": mine / other, **runs}


def speed(options: Options) -> list[Record]:
    count = options.texts or (1_000 if options.quick else 4_000)
    catalog = benchmark_catalog(options, count)
    encoder = SentenceEncoder(SentenceEncoderConfig())
    peer = encoder.model
    ours: list[Stopwatch] = []
    theirs: list[Stopwatch] = []
    folder = options.out / "store"
    vectors = np.zeros((0, 0), dtype=np.float32)
    encoder.encode(catalog.texts[:64])  # both warm
    encoder.fingerprint()
    peer.encode(list(catalog.texts[:64]), show_progress_bar=False)
    for _ in range(options.repeats or (2 if options.quick else 3)):
        shutil.rmtree(folder, ignore_errors=True)
        with Stopwatch() as clock:
            encode_catalog(catalog, encoder, folder)
        ours.append(clock)
        with Stopwatch() as clock:
            vectors = peer.encode(list(catalog.texts), show_progress_bar=False, normalize_embeddings=True)
        theirs.append(clock)
    store = EmbeddingStore.open(folder)
    cosine = float((store.all()[1:] * vectors).sum(axis=1).min())
    about = {"texts": len(catalog), "distinct": store.report.encoded}
    wall = compare("encode", [len(catalog) / c.wall for c in ours], [len(catalog) / c.wall for c in theirs])
    cpu = compare(
        "encode, by processor time", [len(catalog) / c.cpu for c in ours], [len(catalog) / c.cpu for c in theirs]
    )
    return [
        {**wall, **about},
        {**cpu, **about},
        {"what": "smallest cosine to the peer", "ours": cosine, "peer": 1.0, "unit": "cosine", "ratio": cosine},
    ]


class PeakMemory(threading.Thread):
    """Samples this process's anonymous memory (Linux); file-backed pages do not count, the system may drop them."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self.done = threading.Event()

    def used(self) -> int:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("RssAnon:")[1].split()[0])

    def run(self) -> None:
        while not self.done.wait(0.005):
            self.peak = max(self.peak, self.used())


def measure_memory(options: Options, count: int) -> None:
    """Encode `count` texts in this process and print the growth of its memory as JSON."""
    config: EncoderConfig = HashingEncoderConfig(dim=384)
    if options.memory_encoder == "minilm":
        config = SentenceEncoderConfig()
    encoder = build_encoder(config)
    few = Catalog(["a"], ["one text"])
    encode_catalog(few, encoder, options.out / "warm")
    catalog = benchmark_catalog(options, count)
    _ = encoder.fingerprint(), catalog.fingerprint  # what catalog and encoder hold themselves is not counted
    memory = PeakMemory()
    before = memory.used()
    memory.start()
    encode_catalog(catalog, encoder, options.out / "store", EncodeConfig(shard_rows=2048))
    memory.done.set()
    memory.join()
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"growth_mib": (memory.peak - before) / 2**20, "highest_mib": highest}))


def memory(options: Options) -> list[Record]:
    small, large = 10_000, 50_000 if options.quick else 200_000
    growth: dict[int, dict[str, float]] = {}
    for count in (small, large):
        folder = options.out / f"memory-{count}"
        shutil.rmtree(folder, ignore_errors=True)
        arguments = ["--memory-of", str(count), "--out", str(folder), "--memory-encoder", options.memory_encoder]
        command = [sys.executable, __file__, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
        growth[count] = json.loads(done.stdout.strip().splitlines()[-1])
        shutil.rmtree(folder)
    first, last = growth[small]["growth_mib"], growth[large]["growth_mib"]
    what = f"memory above the start, {large:,} texts against {small:,} ({options.memory_encoder})"
    highest = {f"process_peak_mib_{count}": figures["highest_mib"] for count, figures in growth.items()}
    return [{"what": what, "ours": last, "peer": first, "unit": "MiB", "ratio": last / first, **highest}]


def machine() -> Record:
    import torch

    return {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.memory_of is not None:
        measure_memory(options, options.memory_of)
        return
    records = [{**record, "machine": machine()} for record in [*speed(options), *memory(options)]]
    write_json(options.out / "bench.json", records)
    for record in records:
        print(f"{record['what']}: {record['ours']:.4g} against {record['peer']:.4g} {record['unit']}")


if __name__ == "__main__":
    main()
