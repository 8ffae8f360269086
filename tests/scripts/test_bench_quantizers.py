"""The benchmark of fits: every peer is measured in seconds and in error on the same rows."""

from types import ModuleType

import pytest

from tests.scripts.loading import load


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    module = load("bench_quantizers")
    module.DIM, module.SIZE, module.ITERATIONS, module.BATCH = 12, 8, 4, 128
    return module


def test_every_peer_stands_beside_ours_with_seconds_and_error(bench: ModuleType) -> None:
    found = bench.measure(bench.planted(800, 0), 0, rounds=1)
    lines = [(line.what.split(":")[0], line.against) for line in found]
    peers = ["faiss ResidualQuantizer", "vector-quantize-pytorch", "faiss ProductQuantizer"]
    assert lines == [(what, peer) for peer in peers for what in ("fit", "error")]
    for line in found:
        if line.what.startswith("error"):
            assert 0 < line.ours < 1
            assert line.ours < 1.1 * line.peer, "the same method on the same rows loses about as much"
