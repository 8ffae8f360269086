"""The benchmark of code tables: its forms agree, and a form that does not is found out."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.scripts.loading import load


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return load("bench_codes")


def test_every_figure_stands_beside_a_form(bench: ModuleType, tmp_path: Path) -> None:
    bench.write(tmp_path / "codes.safetensors", 300, 0)
    found = bench.measure(tmp_path / "codes.safetensors", repeats=1, seed=0)
    assert [(line.what, line.against) for line in found] == [
        ("load, 300 items", "reading the file"),
        ("reverse index, 300 items", "np.unique over rows"),
        ("reverse look-up, 300 items", "a dictionary of 300"),
        ("digits, 300 items", "a loop over items"),
        ("balanced, 300 items", "a loop over prefixes and items"),
    ]


def test_items_collide_and_the_forms_agree_on_them(bench: ModuleType) -> None:
    codes = bench.drawn(400, 3)
    table = bench.plain(np.concatenate([np.zeros_like(codes[:1]), codes]))
    assert 0.2 < np.mean([len(table.items_of(row)) > 1 for row in codes]) < 0.6
    assert np.array_equal(table.with_digit().items[:, -1], bench.by_counting(codes))
    balanced = bench.resolve_balanced(table, bench.hashed_costs())
    assert np.array_equal(balanced.table.items[:, -1], bench.by_rounds(codes))
    assert len(balanced.moved) > 20


def test_memory_is_given_step_by_step(bench: ModuleType, tmp_path: Path) -> None:
    bench.write(tmp_path / "codes.safetensors", 300, 0)
    found = bench.footprint(tmp_path / "codes.safetensors")
    steps = [found[name] for name in ("imports_mib", "loaded_mib", "looked_up_mib", "digits_mib")]
    assert steps == sorted(steps)
    assert found["file_bytes"] == (tmp_path / "codes.safetensors").stat().st_size
    assert 2 <= found["largest_group"] < 30


def test_a_form_with_another_answer_stops_the_benchmark(bench: ModuleType) -> None:
    with pytest.raises(RuntimeError, match="a dictionary and the table disagree; nothing was timed"):
        bench.check("a dictionary", np.array([1]), np.array([2]))
