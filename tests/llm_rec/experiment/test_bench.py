"""Figures beside a peer's, and the machine they come from."""

import json
import re
from pathlib import Path

import pytest

from llm_rec.errors import ConfigError
from llm_rec.experiment import Measured, in_milliseconds, machine, take_turns, write_bench


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

    def test_a_line_names_both_sides_and_the_ratio(self) -> None:
        found = Measured(what="step", against="loop", ours=2.0, peer=500.0, unit="ms", higher_is_better=False)
        assert found.text == "step: 2 ms, loop 500: 250 x"


class TestTurns:
    def test_both_take_turns_and_the_first_turn_does_not_count(self) -> None:
        calls: list[str] = []
        ours, naive = take_turns(lambda: calls.append("ours"), lambda: calls.append("naive"), 2)
        assert calls == ["ours", "naive"] * 3
        assert 0 < ours < 1
        assert 0 < naive < 1

    def test_seconds_become_milliseconds_that_are_better_when_fewer(self) -> None:
        found = in_milliseconds("step", "loop", 0.002, 0.5)
        assert (found.ours, found.peer, found.unit, found.ratio) == (2.0, 500.0, "ms", 250.0)
