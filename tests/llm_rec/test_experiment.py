"""Grids that survive interruption, tables over seeds, paired tests, peers in their own environments."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llm_rec.artifacts import read_json
from llm_rec.codec import Plain
from llm_rec.errors import ArtifactError, ConfigError, TrainingError
from llm_rec.experiment import (
    Cell,
    CellResult,
    Measured,
    PeerError,
    Record,
    cell_name,
    compare,
    default_peer_cache,
    machine,
    markdown,
    peer_environment,
    peer_folder,
    read_cell,
    run_grid,
    run_peer,
    script_options,
    table,
    write_bench,
    write_cell,
    write_table,
)


def results_of(values: dict[str, list[float]], columns: dict[str, str] | None = None) -> list[CellResult]:
    """One metric, one cell for each model and seed."""
    return [
        CellResult(Cell(model, {}, seed), "done", 1.0, [Record("recall@10", value, dict(columns or {}))])
        for model, series in values.items()
        for seed, value in enumerate(series)
    ]


class TestRunGrid:
    def test_rerun_runs_only_what_is_missing(self, tmp_path: Path) -> None:
        ran: list[Cell] = []

        def run(cell: Cell) -> list[Record]:
            ran.append(cell)
            return [Record("recall@10", cell.seed / 10)]

        first = [Cell("a", {"dim": 8}, 0), Cell("a", {"dim": 8}, 1)]
        run_grid(first, run, tmp_path)
        more = [*first, Cell("b", {"dim": 8}, 0)]
        results = run_grid(more, run, tmp_path)
        assert ran == more
        assert [result.cell for result in results] == more
        assert [result.records[0].value for result in results] == [0.0, 0.1, 0.0]

    def test_a_cell_is_on_disk_before_the_next_one_starts(self, tmp_path: Path) -> None:
        def run(cell: Cell) -> list[Record]:
            if cell.seed == 2:
                raise KeyboardInterrupt
            return [Record("recall@10", 1.0)]

        cells = [Cell("a", {}, seed) for seed in range(4)]
        with pytest.raises(KeyboardInterrupt):
            run_grid(cells, run, tmp_path)
        names = sorted(path.name for path in (tmp_path / "cells").iterdir())
        assert names == sorted(f"{cell_name(cell, {})}.json" for cell in cells[:2])

    def test_failed_cells_are_recorded_and_run_again(self, tmp_path: Path) -> None:
        broken = True

        def run(cell: Cell) -> list[Record]:
            if broken and cell.seed == 0:
                raise TrainingError("the loss is not finite; lower the learning rate")
            return [Record("recall@10", 0.5)]

        cells = [Cell("a", {}, 0), Cell("a", {}, 1)]
        failed, done = run_grid(cells, run, tmp_path)
        assert (failed.status, failed.records, done.status) == ("failed", [], "done")
        assert failed.error is not None
        assert failed.error.endswith("TrainingError: the loss is not finite; lower the learning rate")
        broken = False
        assert [result.status for result in run_grid(cells, run, tmp_path)] == ["done", "done"]

    def test_a_mistake_in_the_script_ends_the_grid(self, tmp_path: Path) -> None:
        def run(cell: Cell) -> list[Record]:
            raise TypeError("unexpected argument")

        with pytest.raises(TypeError, match="unexpected argument"):
            run_grid([Cell("a", {}, 0)], run, tmp_path)
        assert not list(tmp_path.rglob("*.json"))

    def test_contexts_in_one_folder_never_mix(self, tmp_path: Path) -> None:
        cells = [Cell("a", {}, 0)]
        run_grid(cells, lambda cell: [Record("auc", 0.1)], tmp_path, context={"quick": True})
        results = run_grid(cells, lambda cell: [Record("auc", 0.9)], tmp_path, context={"quick": False})
        assert results[0].records[0].value == 0.9
        again = run_grid(cells, lambda cell: [Record("auc", 0.5)], tmp_path, context={"quick": True})
        assert again[0].records[0].value == 0.1

    def test_equal_cells_are_refused(self, tmp_path: Path) -> None:
        cells = [Cell("a", {"dim": 8}, 0), Cell("a", {"dim": 8}, 0)]
        with pytest.raises(ConfigError, match="occurs more than once in the grid; give each run a seed or setting"):
            run_grid(cells, lambda cell: [], tmp_path)

    def test_report_sees_only_the_cells_that_ran(self, tmp_path: Path) -> None:
        seen: list[int] = []
        for _ in range(2):
            run_grid(
                [Cell("a", {}, 3)],
                lambda cell: [Record("auc", 0.5)],
                tmp_path,
                report=lambda result: seen.append(result.cell.seed),
            )
        assert seen == [3]

    @pytest.mark.parametrize(
        ("setting", "columns", "name"), [({}, {"seeds": 1}, "seeds"), ({"dim": 8}, {"dim": 8}, "dim")]
    )
    def test_a_column_may_not_hide_another(
        self, tmp_path: Path, setting: dict[str, int], columns: dict[str, int], name: str
    ) -> None:
        result = run_grid([Cell("a", dict(setting), 0)], lambda cell: [Record("auc", 0.5, dict(columns))], tmp_path)[0]
        assert result.error is not None
        assert f"a: auc: column '{name}' is already taken; rename it" in result.error

    def test_a_value_that_is_not_finite_fails_its_cell(self, tmp_path: Path) -> None:
        result = run_grid([Cell("a", {}, 0)], lambda cell: [Record("auc", math.nan)], tmp_path)[0]
        assert result.error is not None
        assert "a: auc is nan; a record holds a finite number" in result.error


class TestCellFile:
    def test_round_trip_keeps_values_columns_and_targets(self, tmp_path: Path) -> None:
        hits = np.array([0.0, 1.0, 1.0])
        records = [Record("recall@10", 2 / 3, {"slice": "all"}, hits), Record("mrr", 0.1, {"slice": "unseen"})]
        path = tmp_path / "cells" / "x.json"
        write_cell(path, CellResult(Cell("a", {"dim": 8, "items": {"kind": "id"}}, 7), "done", 1.5, records))
        back = read_cell(path)
        assert back.cell == Cell("a", {"dim": 8, "items": {"kind": "id"}}, 7)
        assert [(r.metric, r.value, r.columns) for r in back.records] == [
            (r.metric, r.value, r.columns) for r in records
        ]
        assert back.records[0].per_target is not None
        np.testing.assert_array_equal(back.records[0].per_target, hits)
        assert back.records[1].per_target is None

    def test_no_partial_file_stays_behind(self, tmp_path: Path) -> None:
        record = Record("recall@10", 1.0, {}, np.ones(2))
        write_cell(tmp_path / "cells" / "x.json", CellResult(Cell("a", {}, 0), "done", 1.0, [record]))
        assert sorted(path.name for path in (tmp_path / "cells").iterdir()) == ["x.json", "x.npz"]

    @pytest.mark.parametrize("text", ["[]", "{}", '{"arrays": [], "records": []}', '{"arrays": [], "records": [3]}'])
    def test_a_foreign_file_is_refused(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "x.json"
        path.write_text(text)
        with pytest.raises(ArtifactError, match=re.escape(str(path)) + ".*remove the file to run the cell again"):
            read_cell(path)

    def test_names_differ_by_model_setting_seed_and_context(self) -> None:
        cells = [Cell("a", {}, 0), Cell("b", {}, 0), Cell("a", {"dim": 1}, 0), Cell("a", {}, 1)]
        names = {cell_name(cell, context) for cell in cells for context in ({}, {"quick": True})}
        assert len(names) == 8
        assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in names)


class TestTable:
    def test_mean_and_sample_deviation_over_seeds(self) -> None:
        row = table(results_of({"a": [0.1, 0.2, 0.6]}, {"slice": "all"}))[0]
        assert (row.model, row.columns, row.metric, row.seeds) == ("a", {"slice": "all"}, "recall@10", 3)
        assert row.mean == pytest.approx(0.3)
        assert row.std == pytest.approx(math.sqrt((0.04 + 0.01 + 0.09) / 2))

    def test_one_seed_has_no_deviation(self) -> None:
        assert table(results_of({"a": [0.1]}))[0].std is None

    def test_fewer_than_five_seeds_are_exploratory(self) -> None:
        rows = table(results_of({"a": [0.1] * 4, "b": [0.1] * 5}))
        assert [row.exploratory for row in rows] == [True, False]

    def test_settings_and_slices_have_rows_of_their_own(self) -> None:
        results = [
            CellResult(Cell("a", {"dim": dim}, 0), "done", 1.0, [Record("auc", 0.5, {"slice": s}) for s in "xy"])
            for dim in (8, 16)
        ]
        columns = [row.columns for row in table(results)]
        assert columns == [{"dim": d, "slice": s} for d in (8, 16) for s in "xy"]

    def test_failed_cells_do_not_count(self) -> None:
        failed = CellResult(Cell("a", {}, 1), "failed", 1.0, [], "ValueError: x")
        assert table([*results_of({"a": [0.4]}), failed])[0].seeds == 1

    def test_json_is_flat(self, tmp_path: Path) -> None:
        results = results_of({"a": [0.1, 0.3], "b": [0.1, 0.2]}, {"slice": "unseen"})
        write_table(tmp_path / "table.json", table(results)[:1], compare(results, [("a", "b")], ["recall@10"]))
        assert read_json(tmp_path / "table.json") == [
            {
                "model": "a",
                "slice": "unseen",
                "metric": "recall@10",
                "mean": 0.2,
                "std": pytest.approx(math.sqrt(0.02)),
                "seeds": 2,
                "exploratory": True,
            }
        ]
        tests = read_json(tmp_path / "tests.json")
        assert isinstance(tests, list)
        assert isinstance(tests[0], dict)
        assert (tests[0]["model"], tests[0]["baseline"], tests[0]["slice"]) == ("a", "b", "unseen")

    def test_markdown_has_a_line_for_each_model_and_column(self) -> None:
        rows = table([*results_of({"a": [0.1, 0.3]}, {"slice": "x"}), *results_of({"b": [0.5] * 5}, {"slice": "x"})])
        assert markdown(rows, ["recall@10"], ["slice"]).splitlines() == [
            "| model | slice | recall@10 |",
            "| --- | --- | --- |",
            "| a | x | 0.2000 ± 0.1414 (2*) |",
            "| b | x | 0.5000 ± 0.0000 (5) |",
        ]

    def test_markdown_refuses_to_overwrite_a_line(self) -> None:
        rows = table([*results_of({"a": [0.1]}, {"slice": "x"}), *results_of({"a": [0.1]}, {"slice": "y"})])
        with pytest.raises(ConfigError, match=re.escape("several rows of recall@10 on one line; name the columns")):
            markdown(rows, ["recall@10"])


class TestCompare:
    def test_differences_are_paired_by_seed(self) -> None:
        values = {"ours": [0.3, 0.5, 0.4, 0.6, 0.5], "base": [0.2, 0.4, 0.3, 0.5, 0.41]}
        found = compare(results_of(values), [("ours", "base")], ["recall@10"])[0]
        gap = np.array(values["ours"]) - np.array(values["base"])
        assert found.difference == pytest.approx(gap.mean())
        assert found.std == pytest.approx(gap.std(ddof=1))
        assert (found.seeds, found.exploratory) == (5, False)
        assert found.sign_flip_p == pytest.approx(2 / 32)  # all five differences positive: the least p there is

    def test_only_seeds_that_both_finished_count(self) -> None:
        found = compare(results_of({"ours": [0.3, 0.5, 0.4], "base": [0.2, 0.4]}), [("ours", "base")], ["recall@10"])
        assert (found[0].seeds, found[0].exploratory) == (2, True)

    def test_seeds_that_differ_by_one_equal_amount_have_no_t_test(self) -> None:
        values = {"ours": [0.1 + 1 / 138, 0.3 + 1 / 138], "base": [0.1, 0.3], "same": [0.1, 0.3]}
        equal, none = compare(results_of(values), [("ours", "base"), ("same", "base")], ["recall@10"])
        assert equal.difference == pytest.approx(1 / 138)
        assert (equal.t_p, equal.holm_t_p) == (None, None)
        assert none.t_p == 1.0

    def test_one_shared_seed_gives_a_difference_without_a_test(self) -> None:
        found = compare(results_of({"ours": [0.3], "base": [0.2]}), [("ours", "base")], ["recall@10"])[0]
        assert found.difference == pytest.approx(0.1)
        assert (found.std, found.t_p, found.sign_flip_p, found.holm_t_p) == (None, None, None, None)

    def test_holm_corrects_over_all_comparisons(self) -> None:
        values = {"x": [0.3, 0.52, 0.4, 0.6], "y": [0.3, 0.4, 0.35, 0.5], "base": [0.2, 0.4, 0.3, 0.5]}
        found = compare(results_of(values), [("x", "base"), ("y", "base")], ["recall@10"])
        p = [c.t_p for c in found]
        assert p[0] is not None
        assert p[1] is not None
        assert p[0] < p[1]
        assert found[0].holm_t_p == pytest.approx(2 * p[0])
        assert found[1].holm_t_p == pytest.approx(max(2 * p[0], p[1]))

    def test_slices_are_compared_with_their_own_kind(self) -> None:
        results = [
            *results_of({"ours": [0.3, 0.4], "base": [0.1, 0.1]}, {"slice": "all"}),
            *results_of({"ours": [0.9, 0.9]}, {"slice": "unseen"}),
        ]
        found = compare(results, [("ours", "base")], ["recall@10"])
        assert [c.columns for c in found] == [{"slice": "all"}]

    def test_several_settings_of_one_model_are_ambiguous(self) -> None:
        results = [CellResult(Cell("a", {"dim": d}, 0), "done", 1.0, [Record("auc", 0.5)]) for d in (8, 16)]
        with pytest.raises(ConfigError, match="a has several settings for seed 0; keep the results of one"):
            compare(results, [("a", "b")], ["auc"])


class TestBench:
    def test_ratio_is_above_one_when_ours_is_better(self, tmp_path: Path) -> None:
        fast = Measured(what="speed", against="peer", ours=30.0, peer=10.0, unit="rows/s")
        lean = Measured(what="memory", against="peer", ours=1.0, peer=4.0, unit="GiB", higher_is_better=False)
        assert (fast.ratio, lean.ratio) == (3.0, 4.0)
        write_bench(tmp_path / "bench.json", [fast, lean], {"items": 10})
        written = json.loads((tmp_path / "bench.json").read_text())
        assert [line["ratio"] for line in written] == [3.0, 4.0]
        assert {"what", "against", "ours", "peer", "unit", "ratio"} <= set(written[0])
        details = json.loads((tmp_path / "bench_details.json").read_text())
        assert details["items"] == 10
        assert details["machine"]["cores"] >= 1

    def test_figures_must_form_a_ratio(self) -> None:
        with pytest.raises(
            ConfigError, match=re.escape("speed: ours 1.0 and peer 0.0 must be above 0 to form a ratio")
        ):
            Measured(what="speed", against="peer", ours=1.0, peer=0.0, unit="rows/s")

    def test_machine_names_what_a_figure_depends_on(self) -> None:
        assert set(machine()) == {"processor", "cores", "memory_gib", "python", "torch", "torch_threads"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which an earlier build of the environment was interrupted."""
    folder = tmp_path_factory.mktemp("cache")
    requirements = folder / "requirements.txt"
    requirements.write_text("# nothing to install\n")
    half = peer_folder("p", requirements, cache=folder)
    half.mkdir()
    (half / "left over").touch()
    peer_environment("p", requirements, cache=folder)
    return folder


class TestPeers:
    def run(self, cache: Path, folder: Path, code: str, *args: str, timeout: float | None = None) -> dict[str, Plain]:
        script = folder / "peer.py"
        script.write_text(code)
        return run_peer("p", script, cache / "requirements.txt", args, cache=cache, timeout=timeout)

    def test_an_interrupted_build_starts_again_and_a_finished_one_is_kept(self, cache: Path) -> None:
        folder = peer_folder("p", cache / "requirements.txt", cache=cache)
        assert not (folder / "left over").exists()
        stamp = (folder / "ready").stat().st_mtime_ns
        assert peer_environment("p", cache / "requirements.txt", cache=cache) == folder / "bin" / "python"
        assert (folder / "ready").stat().st_mtime_ns == stamp

    def test_the_peer_runs_in_its_own_environment(self, tmp_path: Path, cache: Path) -> None:
        code = "import json, sys\nprint('RESULT ' + json.dumps({'prefix': sys.prefix}))"
        assert self.run(cache, tmp_path, code) == {
            "prefix": str(peer_folder("p", cache / "requirements.txt", cache=cache))
        }

    def test_the_last_result_line_is_what_the_peer_says(self, tmp_path: Path, cache: Path) -> None:
        code = "import sys\nprint('loading')\nprint('RESULT {\"a\": 1}')\nprint('RESULT {\"n\": ' + sys.argv[1] + '}')"
        assert self.run(cache, tmp_path, code, "3") == {"n": 3}

    def test_a_failing_peer_shows_the_end_of_its_log(self, tmp_path: Path, cache: Path) -> None:
        wanted = "p: peer.py failed with exit status 1; its output ends with:\n"
        with pytest.raises(PeerError, match=re.escape(wanted) + r"(?s:.*)no such column: item"):
            self.run(cache, tmp_path, "print('reading rows')\nraise SystemExit('no such column: item')")

    def test_a_peer_without_result_is_an_error(self, tmp_path: Path, cache: Path) -> None:
        with pytest.raises(PeerError, match="p: peer.py ended without a RESULT line; its output ends with:\nhello"):
            self.run(cache, tmp_path, "print('hello')")

    @pytest.mark.parametrize("line", ["RESULT nan?", "RESULT [1]"])
    def test_a_result_that_is_no_json_object_is_an_error(self, tmp_path: Path, cache: Path, line: str) -> None:
        with pytest.raises(PeerError, match=r"p: peer.py gave a RESULT line that is not a JSON object"):
            self.run(cache, tmp_path, f"print({line!r})")

    def test_a_slow_peer_is_stopped(self, tmp_path: Path, cache: Path) -> None:
        code = "import threading\nprint('epoch 1', flush=True)\nthreading.Event().wait()"
        with pytest.raises(PeerError, match="p: peer.py ran longer than 1 s; its output ends with:\nepoch 1"):
            self.run(cache, tmp_path, code, timeout=1.0)

    def test_nothing_of_this_environment_leaks_into_the_peer(
        self, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PYTHONPATH", "/elsewhere")
        code = "import json, os\nprint('RESULT ' + json.dumps({'path': os.environ.get('PYTHONPATH')}))"
        assert self.run(cache, tmp_path, code) == {"path": None}

    def test_other_pins_have_an_environment_of_their_own(self, tmp_path: Path, cache: Path) -> None:
        other = tmp_path / "requirements.txt"
        other.write_text("numpy==1.26.4\n")
        assert peer_folder("p", other, cache=cache) != peer_folder("p", cache / "requirements.txt", cache=cache)

    @pytest.mark.slow  # builds a second environment
    def test_a_pin_that_does_not_exist_shows_what_pip_says(self, tmp_path: Path) -> None:
        requirements = tmp_path / "requirements.txt"
        requirements.write_text(f"{tmp_path / 'no-such-package.whl'}\n")
        with pytest.raises(PeerError, match=r"(?s)p: pip install -r requirements.txt failed.*no-such-package"):
            peer_environment("p", requirements, cache=tmp_path / "cache")
        assert not list(tmp_path.rglob("ready"))

    def test_requirements_that_are_not_there_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(PeerError, match="gone.txt does not exist; name the file that pins what the peer needs"):
            peer_folder("p", tmp_path / "gone.txt")

    def test_a_python_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        requirements = tmp_path / "requirements.txt"
        requirements.write_text("")
        with pytest.raises(PeerError, match="p: no-such-python could not be started"):
            peer_environment("p", requirements, cache=tmp_path, python="no-such-python")

    def test_the_cache_follows_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
        assert default_peer_cache() == Path("/somewhere/llm-rec/peers")
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert default_peer_cache() == Path.home() / ".cache" / "llm-rec" / "peers"


class TestScriptOptions:
    def test_tables_share_their_options(self) -> None:
        args = script_options("x", out="out/x", seeds=5).parse_args(["--data", "d", "--quick"])
        assert (args.data, args.out, args.quick, args.seeds) == (Path("d"), Path("out/x"), True, 5)

    def test_a_benchmark_needs_no_seeds(self) -> None:
        assert set(vars(script_options("x", out="o", data=False).parse_args([]))) == {"out", "quick"}


WORKERS = """
import os, signal, sys
from pathlib import Path
from llm_rec.experiment import Cell, Record, run_grid

def run(cell):
    if cell.model == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if cell.model == "wrong":
        raise ValueError("no such thing")
    return [Record("auc", cell.seed / 10), Record("pid", float(os.getpid()))]

if __name__ == "__main__":
    cells = [Cell(model, {}, seed) for model in sys.argv[2:] for seed in range(2)]
    results = run_grid(cells, run, Path(sys.argv[1]), jobs=2)
    assert [r.cell for r in results] == cells
    assert all(r.records[1].value != os.getpid() for r in results if r.records)
    print([r.status for r in results])
"""


def run_workers(tmp_path: Path, *models: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    command = [sys.executable, str(script), str(tmp_path / "out"), *models]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(command, capture_output=True, text=True, env=env)


def test_cells_run_in_worker_processes_and_a_killed_one_ends_the_grid(tmp_path: Path) -> None:
    stopped = run_workers(tmp_path, "good", "wrong", "killed")
    assert "a worker process was killed (out of memory?); finished cells are kept" in stopped.stderr
    done = run_workers(tmp_path, "good", "wrong")
    assert done.stdout == "['done', 'done', 'failed', 'failed']\n", done.stderr


def test_less_than_one_job_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="jobs must be at least 1, got 0"):
        run_grid([], lambda cell: [], tmp_path, jobs=0)
