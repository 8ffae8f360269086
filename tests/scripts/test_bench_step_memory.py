"""The benchmark of kept memory: both ways are measured by processes of their own, and only one of them keeps memory."""

import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from tests.scripts.loading import load


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return load("bench_step_memory")


def test_each_way_is_measured_in_a_process_of_its_own(bench: ModuleType, tmp_path: Path) -> None:
    args = bench.options().parse_args(["--steps", "3", "--rounds", "1", "--threads", "1", "--out", str(tmp_path)])
    milliseconds, faults = bench.beside("dcn_v2", "no", args)
    assert (milliseconds.unit, faults.unit) == ("ms", "faults")
    assert milliseconds.ours > 0
    assert milliseconds.peer > 0


def test_only_one_way_keeps_memory(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    def run(words: list[str], *, env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        seen.append(env.get("GLIBC_TUNABLES"))
        return subprocess.CompletedProcess(words, 0, stdout="[1.0, 2.0]\n")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("GLIBC_TUNABLES", "chosen by somebody")
    args = bench.options().parse_args(["--rounds", "2", "--out", str(tmp_path)])
    assert len(bench.beside("dcn_v2", "no", args)) == 2
    assert seen == [None, "", None, ""]
