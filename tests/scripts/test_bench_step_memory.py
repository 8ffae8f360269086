"""The benchmark of kept memory: both ways are measured by processes of their own, and only one of them keeps memory."""

from pathlib import Path
from types import ModuleType

import pytest

from llm_rec.training.memory import _is_glibc
from tests.scripts.loading import load


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return load("bench_step_memory")


@pytest.mark.skipif(not _is_glibc(), reason="malloc is not glibc's here")
def test_each_way_is_measured_and_kept_memory_faults_less(bench: ModuleType, tmp_path: Path) -> None:
    args = bench.options().parse_args(["--steps", "3", "--rounds", "1", "--threads", "1", "--out", str(tmp_path)])
    milliseconds, faults = bench.beside("dcn_v2", "no", args)
    assert (milliseconds.unit, faults.unit) == ("ms", "faults")
    assert milliseconds.ours > 0
    assert milliseconds.peer > 0
    assert faults.ours < faults.peer
