"""Freed memory that is kept: no fresh pages for tensors of a size that was freed before, and the user's word holds."""

import os
import subprocess
import sys

import pytest

from llm_rec.training.memory import _is_glibc

SCRIPT = """
import resource, sys
import torch
from llm_rec.training.memory import keep_freed_memory

def faults():
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(2**24)  # 64 MiB: more than glibc keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start

before = faults()
kept = keep_freed_memory()
faults()
print(kept, before, faults())
"""


def measured(**environment: str) -> tuple[bool, int, int]:
    """In a process of its own, as the setting is for a whole process."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env={**plain, **environment}, capture_output=True, text=True, check=True
    )
    kept, before, after = done.stdout.split()
    return kept == "True", int(before), int(after)


@pytest.mark.skipif(not _is_glibc(), reason="malloc is not glibc's here")
def test_tensors_of_a_known_size_cost_no_fresh_pages() -> None:
    kept, before, after = measured()
    assert kept
    assert before >= 20 * 32, "at the least a fault for each 2 MiB"
    assert after < before / 10


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"])
def test_settings_of_the_environment_hold(name: str) -> None:
    kept, _, _ = measured(**{name: "131072"})
    assert not kept
