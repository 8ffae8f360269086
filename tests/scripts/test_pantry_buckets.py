"""The bucket script on a folder that is not Prime Pantry: it prints its table, and says that it differs."""

import runpy
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from llm_rec.artifacts import read_json
from llm_rec.data import planted_world

SCRIPT = Path(__file__).parents[2] / "scripts" / "pantry_buckets.py"


def test_other_data_ends_with_exit_code_one_and_a_table(tmp_path, capsys):
    world = planted_world(60, 48, num_clusters=4)
    data = tmp_path / "data"
    world.log.export(data / "interactions.parquet", world.catalog)
    pq.write_table(pa.table({"item_id": world.catalog.item_ids, "title": world.catalog.texts}), data / "items.parquet")
    main = runpy.run_path(str(SCRIPT))["main"]
    assert main(["--data", str(data), "--out", str(tmp_path / "out")]) == 1
    assert "DIFFERENT: boundaries [0, " in capsys.readouterr().out
    rows = read_json(tmp_path / "out" / "table.json")
    assert {row["slice"] for row in rows} == {f"bucket_{number}" for number in range(1, 11)}
    items = [row["mean"] for row in rows if row["metric"] == "items"]
    assert sum(items) == 48
