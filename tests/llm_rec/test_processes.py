from pathlib import Path

import pytest
import torch.distributed as dist

from llm_rec.processes import own_group


def _join(folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)


def _join_and_fail(folder: Path) -> None:
    with own_group():
        _join(folder)
        raise ValueError("failed")


def test_a_group_opened_inside_is_closed(tmp_path: Path) -> None:
    with own_group():
        _join(tmp_path)
        assert dist.is_initialized()
    assert not dist.is_initialized()


def test_a_group_opened_before_stays(tmp_path: Path) -> None:
    _join(tmp_path)
    try:
        with own_group():
            pass
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()


def test_a_block_that_fails_leaves_the_group_to_whoever_handles_the_error(tmp_path: Path) -> None:
    try:
        with pytest.raises(ValueError, match="failed"):
            _join_and_fail(tmp_path)
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()
