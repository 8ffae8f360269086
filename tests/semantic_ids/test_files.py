"""Files that are not ours, damaged or too new are named, not opened."""

import os
import stat

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from semantic_ids import files
from semantic_ids.code_table import CodeTable
from semantic_ids.quantizers import load_quantizer


def test_wrong_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="no quantizer here .the file does not exist"):
        load_quantizer(tmp_path / "none")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_quantizer(tmp_path / "text")
    save_file({"x": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(ValueError, match="not one of this library"):
        load_quantizer(tmp_path / "other")
    CodeTable.from_codes(np.zeros((1, 1), dtype=np.int64), (2,)).save(tmp_path / "codes")
    with pytest.raises(ValueError, match="holds a code_table, not a quantizer"):
        load_quantizer(tmp_path / "codes")


def test_a_newer_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "FORMAT_VERSION", 9)
    files.write_tensors(tmp_path / "new", "code_table", {}, {})
    monkeypatch.undo()
    with pytest.raises(ValueError, match="has format version 9, this library reads up to 1; upgrade it"):
        CodeTable.load(tmp_path / "new")


def test_unknown_kind_and_unknown_setting_are_refused(tmp_path):
    files.write_tensors(tmp_path / "a", "quantizer", {}, {"config": {"kind": "magic"}, "input_dim": 2})
    with pytest.raises(ValueError, match="holds a quantizer of kind 'magic'; this library knows"):
        load_quantizer(tmp_path / "a")
    files.write_tensors(tmp_path / "b", "quantizer", {}, {"config": {"kind": "random", "speed": 1}, "input_dim": 2})
    with pytest.raises(ValueError, match="RandomConfig has no setting 'speed'; known: num_codebooks, codebook_size"):
        load_quantizer(tmp_path / "b")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "kept"
    files.write_tensors(path, "code_table", {"x": torch.ones(2)}, {})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="Out of range float values"):
        files.write_tensors(path, "code_table", {"x": torch.zeros(2)}, {"value": float("nan")})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_a_file_is_as_readable_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_tensors(tmp_path / "x", "code_table", {"x": torch.ones(2)}, {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640
