"""Artefacts are whole or absent, say what they are, and refuse what they are not."""

import hashlib
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_rec import __version__
from llm_rec.artifacts import (
    FORMAT_VERSION,
    Manifest,
    canonical_json,
    fingerprint,
    read_json,
    read_manifest,
    replacing,
    write_artifact,
    write_bytes,
    write_json,
    write_manifest,
)
from llm_rec.errors import ArtifactError


def make(path: Path, content: str = "new", **options) -> None:
    with write_artifact(path, kind="thing", fingerprint=content, **options) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "content.txt").write_text(content)


def half_write(context, error) -> None:
    with context as partial:
        (partial / "content.txt" if partial.is_dir() else partial).write_text("half")
        raise error


def content_of(path: Path) -> str:
    return (path / "deep" / "content.txt").read_text()


def test_artifact_appears_with_its_manifest(tmp_path):
    make(tmp_path / "a" / "thing", inputs={"catalog": "c0ffee"}, details={"rows": 3, "names": ["x"]})
    manifest = read_manifest(tmp_path / "a" / "thing", "thing")
    assert (manifest.kind, manifest.fingerprint) == ("thing", "new")
    assert manifest.inputs == {"catalog": "c0ffee"}
    assert manifest.details == {"rows": 3, "names": ["x"]}
    assert (manifest.format_version, manifest.library_version) == (FORMAT_VERSION, __version__)
    assert manifest.created.endswith("+00:00")
    assert content_of(tmp_path / "a" / "thing") == "new"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["thing"]


def test_nothing_is_visible_at_the_destination_before_the_block_ends(tmp_path):
    with write_artifact(tmp_path / "thing", kind="thing", fingerprint="f") as folder:
        (folder / "content.txt").write_text("half")
        assert not (tmp_path / "thing").exists()
    assert (tmp_path / "thing").is_dir()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_inside_the_block_leaves_nothing(tmp_path, error):
    with pytest.raises(error):
        half_write(write_artifact(tmp_path / "thing", kind="thing", fingerprint="f"), error)
    assert list(tmp_path.iterdir()) == []


def test_details_that_are_not_json_leave_nothing(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        make(tmp_path / "thing", details={"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_an_existing_artifact_is_kept_unless_overwriting_is_asked_for(tmp_path):
    make(tmp_path / "thing", "old")
    with pytest.raises(
        ArtifactError, match="thing already exists; remove it, choose another folder, or pass --overwrite"
    ):
        make(tmp_path / "thing", "new")
    assert content_of(tmp_path / "thing") == "old"
    make(tmp_path / "thing", "new", overwrite=True)
    assert content_of(tmp_path / "thing") == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_a_failed_overwrite_keeps_the_old_artifact(tmp_path):
    make(tmp_path / "thing", "old")
    with pytest.raises(RuntimeError):
        half_write(write_artifact(tmp_path / "thing", kind="thing", fingerprint="new", overwrite=True), RuntimeError)
    assert content_of(tmp_path / "thing") == "old"
    assert read_manifest(tmp_path / "thing").fingerprint == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_an_overwrite_that_cannot_be_renamed_keeps_the_old_artifact(tmp_path, monkeypatch):
    make(tmp_path / "thing", "old")
    rename = Path.rename

    def disk_error(self, target):
        if ".partial-" in self.name:
            raise OSError("disk error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", disk_error)
    with pytest.raises(OSError, match="disk error"):
        make(tmp_path / "thing", "new", overwrite=True)
    assert content_of(tmp_path / "thing") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_missing_artifacts_are_told_apart(tmp_path):
    with pytest.raises(ArtifactError, match=r"nowhere: no catalog here \(the folder does not exist\)"):
        read_manifest(tmp_path / "nowhere", "catalog")
    with pytest.raises(ArtifactError, match=r": no artefact here \(it has no manifest.json\)"):
        read_manifest(tmp_path)


def test_another_kind_is_refused(tmp_path):
    make(tmp_path / "thing")
    with pytest.raises(ArtifactError, match="holds a thing, not a catalog"):
        read_manifest(tmp_path / "thing", "catalog")


def test_a_newer_format_is_refused(tmp_path):
    write_manifest(tmp_path, Manifest(kind="thing", fingerprint="f", format_version=FORMAT_VERSION + 1))
    with pytest.raises(ArtifactError, match=f"has format version {FORMAT_VERSION + 1}, this library reads up to"):
        read_manifest(tmp_path)


def test_damaged_manifests_are_refused(tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"manifest.json: not JSON \(.*\); the file is damaged"):
        read_manifest(tmp_path)
    write_json(tmp_path / "manifest.json", {"kind": "thing", "fingerprint": "f", "inptus": {}})
    with pytest.raises(ArtifactError, match=r"manifest.json: inptus: unknown key; did you mean 'inputs'"):
        read_manifest(tmp_path)


def test_inputs_must_match_and_both_sides_are_named(tmp_path):
    manifest = Manifest(kind="store", fingerprint="f", inputs={"catalog": "aaaa"})
    manifest.require_input("catalog", "aaaa", where=tmp_path)
    with pytest.raises(ArtifactError) as caught:
        manifest.require_input("catalog", "bbbb", where=Path("runs/store"))
    assert str(caught.value) == (
        "runs/store was made from catalog aaaa, but the catalog given here is bbbb; "
        "use the same catalog, or build this store again"
    )


def test_files_are_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file.bin"
    write_bytes(path, b"old")
    with pytest.raises(RuntimeError):
        half_write(replacing(path), RuntimeError)
    assert path.read_bytes() == b"old"
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert [file.name for file in tmp_path.iterdir()] == ["file.bin"]


def test_json_is_written_readably_and_without_nan(tmp_path):
    write_json(tmp_path / "a.json", {"name": "caf\xe9", "values": (1, 2.5, None, True)})
    assert read_json(tmp_path / "a.json") == {"name": "caf\xe9", "values": [1, 2.5, None, True]}
    assert "caf\xe9" in (tmp_path / "a.json").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert read_json(tmp_path / "a.json") == {"name": "caf\xe9", "values": [1, 2.5, None, True]}


def test_canonical_json_ignores_the_order_of_keys():
    assert canonical_json({"b": 1, "a": [1, 2]}) == canonical_json({"a": [1, 2], "b": 1}) == b'{"a":[1,2],"b":1}'


parts = st.lists(st.one_of(st.text(max_size=5), st.binary(max_size=5), st.none()), max_size=4)


@given(parts, parts)
@settings(max_examples=50, deadline=None)
def test_fingerprints_tell_lists_of_parts_apart(first, second):
    assert len(fingerprint(*first)) == 16
    as_bytes = [
        [p if isinstance(p, bytes) else p.encode() if isinstance(p, str) else b"null" for p in x]
        for x in (first, second)
    ]
    assert (fingerprint(*first) == fingerprint(*second)) == (as_bytes[0] == as_bytes[1])


def test_fingerprint_is_stable_over_versions():
    by_hand = hashlib.sha256()
    for part in (b"catalog", b'{"a":null,"b":1}', b"\x00"):
        by_hand.update(struct.pack("<Q", len(part)) + part)
    assert fingerprint("catalog", {"b": 1, "a": None}, b"\x00") == by_hand.hexdigest()[:16] == "d98d0d9c568cf10e"
