"""The released DARE code as a peer: the rows it reads, and its runners, with what both sides are told."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from llm_rec.artifacts import fingerprint, read_manifest
from llm_rec.codec import Plain, to_plain
from llm_rec.ctr.dare_export import KIND, DareExport, DareExportConfig, export_dare
from llm_rec.data.columns import ClickLog
from llm_rec.experiment import run_peer

PEERS = Path(__file__).parent / "peers"
CLONE = "git clone https://github.com/thuml/DARE"


def add_dare_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument("--dare", type=Path, required=required, help=f"a clone of the released code ({CLONE})")
    parser.add_argument("--peer-cache", type=Path, help="where peers' environments live")
    parser.add_argument("--peer-python", default="python3.11", help="a Python for the released code")


def exported(log: ClickLog, folder: Path, length: int) -> tuple[Path, DareExport]:
    """The rows of `log` in the layout of the released code, below `folder`, written when they are not there yet."""
    config = DareExportConfig(length=length)
    path = folder / f"dare-{fingerprint(log.fingerprint, {'config': to_plain(config)})}"
    if not path.exists():
        return path, export_dare(log, path, config)
    return path, read_export(path)


def read_export(path: Path) -> DareExport:
    """What the released code is told of rows that were exported before."""
    details = read_manifest(path, KIND).details
    numbers = {name: int(str(details[name])) for name in ("item_n", "cate_n", "item_shift", "category_shift")}
    rows = details["rows"]
    return DareExport(**numbers, rows={part: int(str(n)) for part, n in rows.items()} if isinstance(rows, dict) else {})


def call_dare(
    runner: str, rows: tuple[Path, DareExport], words: Sequence[object], args: argparse.Namespace, *, length: int
) -> dict[str, Plain]:
    """The RESULT of `peers/dare_<runner>.py` on exported rows."""
    path, found = rows
    shared: tuple[object, ...] = (
        *("--dare", args.dare.resolve(), "--rows", path.resolve(), "--length", length),
        *("--items", found.item_n, "--categories", found.cate_n),
    )
    return run_peer(
        "dare",
        PEERS / f"dare_{runner}.py",
        PEERS / "requirements-dare.txt",
        [str(word) for word in (*shared, *words)],
        cache=args.peer_cache,
        python=args.peer_python,
    )
