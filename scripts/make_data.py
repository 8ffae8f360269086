"""Make a `DATA/<set>` folder (items.parquet, interactions.parquet) from the files its public release consists of.

    python scripts/make_data.py amazon2014 --raw RAW/beauty --out DATA/amazon2014-beauty
    python scripts/make_data.py prime-pantry --raw RAW/PAD/dataset --out DATA/amazon2018-prime-pantry
    python scripts/make_data.py movielens --raw RAW/ml-1m.zip --out DATA/ml-1m

`amazon2014` reads the 5-core sets that S3-Rec, P5 and TIGER share, as P5 (github.com/jeykigung/P5) publishes them:
`sequential_data.txt` (user number, then item numbers, oldest first), `datamaps.json` (numbers to Amazon ids),
`meta.json.gz` (one Python dictionary a line). `prime-pantry` reads PAD's data (github.com
/Applied-Machine-Learning-Lab/PAD, folder dataset): `metadata_Prime_Pantry.csv` (asin, title) and
`Prime_Pantry_cleaned_history.csv` (user, history). `movielens` reads any MovieLens release from GroupLens, a folder or
the archive, keeps its 5-core and every listed movie. Takes seconds, so there is no --quick.
"""

import argparse
import ast
import csv
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llm_rec.artifacts import replacing
from llm_rec.data.sources.movielens import read_movielens
from llm_rec.data.subsets import k_core
from llm_rec.errors import DataError

Histories = list[tuple[str, list[str]]]  # user and item ids, oldest first
Items = dict[str, dict[str, str]]  # item id -> text columns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", choices=["amazon2014", "prime-pantry", "movielens"])
    parser.add_argument(
        "--raw", type=Path, required=True, help="folder (or MovieLens archive) with the release's files"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    match args.set:
        case "amazon2014":
            users, items = write_folder(args.out, *read_amazon2014(args.raw))
        case "prime-pantry":
            users, items = write_folder(args.out, *read_prime_pantry(args.raw))
        case _:
            users, items = make_movielens(args.raw, args.out)
    print(f"{args.out}: {users:,} users, {items:,} items")


def read_amazon2014(raw: Path) -> tuple[Histories, Items]:
    """Histories with Amazon's item ids, and title, category path and brand of every item in them."""
    names = json.loads(read_text(raw / "datamaps.json"))
    histories: Histories = []
    for line in read_text(raw / "sequential_data.txt").splitlines():
        user, *numbers = line.split()
        histories.append((names["id2user"][user], [names["id2item"][number] for number in numbers]))
    wanted = {item for _, history in histories for item in history}
    items = {item: {"title": "", "category_path": "", "brand": ""} for item in names["item2id"] if item in wanted}
    for record in dictionaries(raw / "meta.json.gz"):
        if record.get("asin") in items:
            paths = record.get("categories") or [[]]
            texts = {"title": record.get("title"), "category_path": " > ".join(paths[0]), "brand": record.get("brand")}
            items[record["asin"]] = {name: text or "" for name, text in texts.items()}
    return histories, items


def dictionaries(path: Path) -> Iterator[dict[str, Any]]:
    """One dictionary literal a line, in Python's notation; nothing in the file is executed."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; see the top of this script for what the release consists of")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield ast.literal_eval(line)
            except (SyntaxError, ValueError) as error:
                raise DataError(f"{path}, line {number}: not a dictionary ({error})") from error


def read_prime_pantry(raw: Path) -> tuple[Histories, Items]:
    """PAD's histories (lists in Python's notation) and titles."""
    rows = csv.DictReader(read_text(raw / "metadata_Prime_Pantry.csv").splitlines())
    items = {row["asin"]: {"title": row["title"]} for row in rows}
    rows = csv.DictReader(read_text(raw / "Prime_Pantry_cleaned_history.csv").splitlines())
    return [(row["user"], ast.literal_eval(row["history"])) for row in rows], items


def read_text(path: Path) -> str:
    if not path.is_file():
        raise DataError(f"{path}: no such file; see the top of this script for what the release consists of")
    return path.read_text(encoding="utf-8")


def write_folder(out: Path, histories: Histories, items: Items) -> tuple[int, int]:
    """Write both files; `order` counts a user's events from 0. Returns the numbers of users and items."""
    unknown = sorted({item for _, history in histories for item in history} - items.keys())
    if unknown:
        raise DataError(f"{len(unknown)} items of the histories have no metadata, e.g. {unknown[0]!r}; check the files")
    columns = {"item_id": list(items)}
    for name in next(iter(items.values())):
        columns[name] = [texts[name] for texts in items.values()]
    events: dict[str, Sequence[str] | Sequence[int]] = {
        "user_id": [user for user, history in histories for _ in history],
        "item_id": [item for _, history in histories for item in history],
        "order": [place for _, history in histories for place in range(len(history))],
    }
    write_table(out / "items.parquet", columns)
    write_table(out / "interactions.parquet", events)
    return len(histories), len(items)


def write_table(path: Path, columns: Mapping[str, Sequence[str] | Sequence[int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        pq.write_table(pa.table(dict(columns)), partial)


def make_movielens(raw: Path, out: Path) -> tuple[int, int]:
    """Every listed movie, and the 5-core of the ratings in time order."""
    catalog, log = read_movielens(raw)
    log = k_core(log).log
    columns = {name: list(values) for name, values in catalog.columns.items()}
    write_table(out / "items.parquet", {"item_id": list(catalog.item_ids), **columns})
    log.export(out / "interactions.parquet", catalog)
    return log.num_users, len(catalog)


if __name__ == "__main__":
    main()
