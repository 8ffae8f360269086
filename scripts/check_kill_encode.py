"""Kill an encode job with SIGKILL at random moments, start it again each time, and compare every byte at the end.

``python scripts/check_kill_encode.py --out DIR --kills 20``. The job encodes generated titles, 20 % of them repeated,
with hashed n-grams (default) or MiniLM. Writes ``kills.json``; exits with 1 when a byte differs.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from llm_rec.artifacts import write_json
from llm_rec.data.catalog import Catalog
from llm_rec.encoders import (
    EncodeConfig,
    EncoderConfig,
    HashingEncoderConfig,
    SentenceEncoderConfig,
    build_encoder,
    encode_catalog,
)

WORDS = [
    "steel",
    "cotton",
    "garden",
    "travel",
    "classic",
    "mini",
    "deluxe",
    "set",
    "lamp",
    "kettle",
    "chair",
    "phone",
    "case",
    "cable",
    "brush",
    "bag",
    "mug",
]


@dataclass(frozen=True, kw_only=True)
class Options:
    """`out` is emptied of earlier runs of this check. `worker` is the job itself, started by this script."""

    out: Path
    kills: int = 20
    quick: bool = False
    encoder: Literal["hashing", "minilm"] = "hashing"
    items: int | None = None
    seed: int = 0
    worker: bool = False


def generated_catalog(items: int) -> Catalog:
    """Titles of 3 to 14 words; every fifth repeats the title at a third of its position."""
    rng = random.Random(1)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(3, 14))) + f" no. {i}" for i in range(items)]
    texts = [texts[i // 3] if i % 5 == 4 else text for i, text in enumerate(texts)]
    return Catalog([str(i) for i in range(items)], texts)


def run(options: Options, items: int) -> None:
    config: EncoderConfig = HashingEncoderConfig(dim=256)
    if options.encoder == "minilm":
        config = SentenceEncoderConfig()
    shards = EncodeConfig(shard_rows=max(1, items // 60))
    encode_catalog(generated_catalog(items), build_encoder(config), options.out, shards)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file, the manifest without its time."""
    files = {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
    manifest = json.loads(files["manifest.json"])
    del manifest["created"]
    files["manifest.json"] = json.dumps(manifest, sort_keys=True).encode()
    return {name: hashlib.sha256(raw).hexdigest() for name, raw in files.items()}


def start(options: Options, out: Path, items: int) -> "subprocess.Popen[bytes]":
    here = Path(__file__)
    environment = {**os.environ, "PYTHONPATH": str(here.parents[1])}
    arguments = ["--worker", "--out", str(out), "--encoder", options.encoder, "--items", str(items)]
    return subprocess.Popen([sys.executable, str(here), *arguments], env=environment)


def finish(process: "subprocess.Popen[bytes]") -> None:
    if process.wait() != 0:
        raise SystemExit("the encode job failed; see its message above")


def sealed(folder: Path) -> bool:
    return (folder / "manifest.json").is_file()


def check(options: Options) -> bool:
    items = options.items or {"hashing": 60_000, "minilm": 6_000}[options.encoder] // (3 if options.quick else 1)
    kills = min(options.kills, 5) if options.quick else options.kills
    whole, killed = options.out / "whole", options.out / "killed"
    for folder in (whole, killed):
        shutil.rmtree(folder, ignore_errors=True)
    finish(start(options, whole, items))
    expected = digests(whole)
    rng = random.Random(options.seed)
    moments: list[dict[str, object]] = []
    rounds = 0
    while len(moments) < kills:
        if sealed(killed):  # the job got through before all kills were dealt: begin another round
            finish(start(options, killed, items))  # the kill may have come while the finished job tidied up
            if digests(killed) != expected:
                break
            shutil.rmtree(killed)
            rounds += 1
        process = start(options, killed, items)
        while not (killed / "plan.json").is_file() and process.poll() is None:
            time.sleep(0.005)
        before = len(list(killed.glob("*.safetensors")))
        goal = before + rng.randint(0, 12)
        while process.poll() is None and len(list(killed.glob("*.safetensors"))) < goal:
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.1))
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            files = sorted(file.name for file in killed.iterdir())
            partial = sum(".partial-" in name for name in files)
            moments.append({"shards": sum(n.endswith(".safetensors") for n in files), "partial_files": partial})
    finish(start(options, killed, items))
    equal = digests(killed) == expected
    record = {"what": "encode", "items": items, "encoder": options.encoder, "kills": moments, "identical": equal}
    write_json(options.out / "kills.json", [{**record, "jobs": rounds + 1}])
    print(f"{len(moments)} kills over {rounds + 1} jobs; resumed bytes identical: {equal}")
    return equal


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if options.worker:
        run(options, options.items or 1000)
    elif not check(options):
        sys.exit(1)


if __name__ == "__main__":
    main()
