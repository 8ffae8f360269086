"""Catalogs that grow, shrink and change their order, through the command line: no item loses its codes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from llm_rec.artifacts import read_json, read_manifest, write_manifest
from llm_rec.cli import main
from llm_rec.data import Catalog
from llm_rec.encoders import HashingEncoderConfig, build_encoder, encode_catalog
from llm_rec.encoders.transforms import CentreConfig, fit_transform
from llm_rec.errors import ArtifactError, ConfigError
from llm_rec.recipes.index import IndexJob, run
from llm_rec.recipes.workspace import Workspace
from llm_rec.store import EmbeddingStore
from semantic_ids.code_table import CodeTable
from semantic_ids.quantizers import RQKMeansConfig, load_quantizer

WORDS = ("red", "blue", "shoe", "hat", "warm", "light", "long", "short")
SMALL = RQKMeansConfig(num_codebooks=2, codebook_size=4)
ENCODER = HashingEncoderConfig(dim=16)


def text(item: int) -> str:
    """A few words of few; some items have the same."""
    rng = np.random.default_rng(item % 40)
    return " ".join(rng.choice(WORDS, 4))


def catalog_of(items: Sequence[int]) -> Catalog:
    return Catalog([f"i{item}" for item in items], [text(item) for item in items])


def put(place: Workspace, catalog: Catalog, encoder: HashingEncoderConfig = ENCODER) -> None:
    """The catalog of the workspace from now on, with embeddings."""
    catalog.save(place.catalog, overwrite=True)
    encode_catalog(catalog, build_encoder(encoder), place.embeddings("text"), overwrite=True)


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / "ws")
    put(workspace, catalog_of(range(50)))
    return workspace


def index(place: Workspace, name: str, **changes: object) -> CodeTable:
    return run(IndexJob(workspace=place.root, name=name, **changes))[0]


def codes_by_item(place: Workspace, table: CodeTable) -> dict[str, list[int]]:
    return dict(zip(place.load_catalog().item_ids, table.items.tolist(), strict=True))


GROWN = [*range(70, 49, -1), *range(10, 50), *range(10)]  # new items first, the old ones in another order


@pytest.mark.parametrize("collisions", ["share", "digit", "grid-digit", "sinkhorn", "balanced", "balanced+digit"])
def test_a_grown_catalog_in_another_order_keeps_every_code(place: Workspace, collisions: str) -> None:
    old = codes_by_item(place, index(place, "v1", quantizer=SMALL, collisions=collisions))
    put(place, catalog_of(GROWN))
    table = index(place, "v2", grow="v1")
    new = codes_by_item(place, table)
    assert {item: new[item] for item in old} == old
    assert len(new) == 71
    if "digit" in collisions:
        assert table.is_injective()
    growth = read_json(place.codes("v2") / "growth.json")
    assert (growth["new"], growth["left"], growth["moved_on"], growth["version"]) == (21, 0, 0.0, 2)
    compared = read_json(place.codes("v2") / "stability.json")
    assert (compared["old"], compared["shared"], compared["only_new"], compared["unchanged"]) == ("v1", 50, 21, 1.0)


def test_new_items_get_what_the_older_quantiser_says_of_them(place: Workspace) -> None:
    index(place, "v1", quantizer=SMALL)
    put(place, catalog_of(GROWN))
    table = index(place, "v2", grow="v1")
    quantizer = load_quantizer(place.codes("v1") / "quantizer.safetensors")
    vectors = EmbeddingStore.open(place.embeddings("text")).all()[1:]
    assert np.array_equal(table.items, quantizer.encode(vectors))
    one, two = (place.codes(name) / "quantizer.safetensors" for name in ("v1", "v2"))
    assert one.read_bytes() == two.read_bytes()


def test_new_items_move_to_free_codes_where_the_way_of_collisions_looks_for_them(place: Workspace) -> None:
    three = RQKMeansConfig(num_codebooks=3, codebook_size=4)
    old = codes_by_item(place, index(place, "v1", quantizer=three, collisions="balanced"))
    put(place, catalog_of(range(80)))
    table = index(place, "v2", grow="v1")
    vectors = EmbeddingStore.open(place.embeddings("text")).all()[1:]
    quantised = load_quantizer(place.codes("v1") / "quantizer.safetensors").encode(vectors)
    taken = {tuple(codes) for codes in old.values()}
    new = [tuple(codes) for codes in table.items[50:].tolist()]
    assert np.array_equal(table.items[50:, :2], quantised[50:, :2])
    assert (table.items[50:, 2] != quantised[50:, 2]).any()
    placed = len(set(new) - taken)
    assert placed > len({tuple(codes) for codes in quantised[50:].tolist()} - taken)
    assert read_json(place.codes("v2") / "growth.json")["sharing"] == 30 - placed


def test_codes_of_items_that_left_stay_reserved_and_are_there_when_they_come_back(place: Workspace) -> None:
    first = codes_by_item(place, index(place, "v1", quantizer=SMALL, collisions="digit"))
    put(place, catalog_of([*range(5, 50), 90, 91]))
    with pytest.raises(
        ArtifactError, match=r"lost 5 items that codes v1 have: 'i0', 'i1', 'i2', 'i3', 'i4'; pass --departed reserve"
    ):
        index(place, "v2", grow="v1")
    second = codes_by_item(place, index(place, "v2", grow="v1", departed="reserve"))
    assert read_json(place.codes("v2") / "growth.json")["reserved"] == 5
    put(place, catalog_of([*range(50), 90, 91, 92]))
    third = codes_by_item(place, index(place, "v3", grow="v2"))
    assert {item: third[item] for item in first} == first
    assert {item: third[item] for item in second} == second
    assert len({tuple(codes) for codes in third.values()}) == 53
    assert read_json(place.codes("v3") / "growth.json")["returned"] == 5
    slots = pq.read_table(place.codes("v3") / "slots.parquet").to_pydict()
    assert slots["arrived"] == [1] * 50 + [2] * 2 + [3]
    assert slots["left"] == [0] * 53
    away = pq.read_table(place.codes("v2") / "slots.parquet").to_pydict()
    assert away["left"] == [2] * 5 + [0] * 47


def test_the_manifest_names_all_versions_before(place: Workspace) -> None:
    index(place, "v1", quantizer=SMALL)
    put(place, catalog_of(range(51)))
    index(place, "v2", grow="v1")
    put(place, catalog_of(range(52)))
    index(place, "v3", quantizer=SMALL, migrate_from="v2")
    details = read_manifest(place.codes("v3")).details
    assert details["version"] == 3
    assert [(one["name"], one["version"], one["next"]) for one in details["lineage"]] == [
        ("v1", 1, "grown"),
        ("v2", 2, "learned anew"),
    ]
    assert details["lineage"][1]["fingerprint"] == read_manifest(place.codes("v2")).fingerprint


def test_codes_may_grow_in_their_place_and_once_only(place: Workspace) -> None:
    old = codes_by_item(place, index(place, "v1", quantizer=SMALL, collisions="digit"))
    put(place, catalog_of(GROWN))
    with pytest.raises(ArtifactError, match="v1 already exists"):
        index(place, "v1", grow="v1")
    table = index(place, "v1", grow="v1", overwrite=True)
    new = codes_by_item(place, table)
    assert {item: new[item] for item in old} == old
    made = (place.codes("v1") / "manifest.json").read_bytes()
    assert np.array_equal(index(place, "v1", grow="v1", overwrite=True).codes, table.codes)
    assert (place.codes("v1") / "manifest.json").read_bytes() == made


def test_a_growth_that_is_there_is_kept(place: Workspace) -> None:
    index(place, "v1", quantizer=SMALL)
    put(place, catalog_of(GROWN))
    index(place, "v2", grow="v1")
    made = (place.codes("v2") / "manifest.json").read_bytes()
    index(place, "v2", grow="v1")
    assert (place.codes("v2") / "manifest.json").read_bytes() == made


def test_an_item_whose_text_changed_keeps_its_codes_and_is_counted(place: Workspace) -> None:
    old = codes_by_item(place, index(place, "v1", quantizer=SMALL))
    texts = [text(item) for item in range(50)]
    other = next(item for item in range(1, 50) if old[f"i{item}"] != old["i0"])
    put(place, Catalog([f"i{item}" for item in range(50)], [text(other), *texts[1:]]))
    assert codes_by_item(place, index(place, "v2", grow="v1")) == old
    assert read_json(place.codes("v2") / "growth.json")["moved_on"] == pytest.approx(1 / 50)


def test_learning_anew_writes_a_table_from_old_codes_to_new_ones(place: Workspace) -> None:
    old = codes_by_item(place, index(place, "v1", quantizer=SMALL))
    put(place, catalog_of([60, *range(1, 50)]))
    new = codes_by_item(place, index(place, "v2", quantizer=SMALL, seed=1, migrate_from="v1"))
    rows = pq.read_table(place.codes("v2") / "migration.parquet").to_pylist()
    assert [row["item_id"] for row in rows] == ["i60", *(f"i{item}" for item in range(1, 50)), "i0"]
    for row in rows:
        item = row["item_id"]
        assert [row["old_0"], row["old_1"]] == old.get(item, [None, None])
        assert [row["new_0"], row["new_1"]] == new.get(item, [None, None])
    compared = read_json(place.codes("v2") / "stability.json")
    assert compared["unchanged"] == pytest.approx(np.mean([old[f"i{i}"] == new[f"i{i}"] for i in range(1, 50)]))
    assert compared["shared"] == 49
    assert read_json(place.codes("v2") / "health.json")["num_items"] == 50


def test_the_command_line_prints_growth_and_stability(place: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--quantizer.num-codebooks", "2", "--quantizer.codebook-size", "4")
    main(["index", "--workspace", str(place.root), "--preset", "rqkmeans", *small, "--name", "v1"])
    put(place, catalog_of(range(1, 60)))
    capsys.readouterr()
    main(["index", "--workspace", str(place.root), "--name", "v2", "--grow", "v1", "--departed", "reserve"])
    printed = capsys.readouterr().out
    assert "growth.json" in printed
    assert "stability.json" in printed
    assert [line.split("│")[2].strip() for line in printed.splitlines() if "│ reserved" in line] == ["1"]


def test_codes_written_before_items_were_kept_grow_when_the_catalog_begins_with_theirs(place: Workspace) -> None:
    old = codes_by_item(place, index(place, "v1", quantizer=SMALL))
    (place.codes("v1") / "slots.parquet").unlink()
    manifest = read_manifest(place.codes("v1"))
    for name in ("version", "lineage"):
        manifest.details.pop(name)
    manifest.inputs.pop("encoder")
    write_manifest(place.codes("v1"), manifest)
    put(place, catalog_of(range(60)))
    new = codes_by_item(place, index(place, "v2", grow="v1"))
    assert {item: new[item] for item in old} == old
    put(place, catalog_of(GROWN))
    with pytest.raises(ArtifactError, match="does not begin with the 50 items it was made from; index that catalog"):
        index(place, "v3", grow="v1")


def test_vectors_of_another_kind_are_refused(place: Workspace) -> None:
    index(place, "v1", quantizer=SMALL)
    put(place, catalog_of(range(51)), HashingEncoderConfig(dim=8))
    with pytest.raises(ArtifactError, match="codes v1 are of vectors 16 wide, but embeddings text are 8 wide; encode"):
        index(place, "v2", grow="v1")
    put(place, catalog_of(range(51)), HashingEncoderConfig(dim=16, word_ngrams=1))
    with pytest.raises(ArtifactError, match="but embeddings text are of encoder .*; encode the catalog with the same"):
        index(place, "v2", grow="v1")


def test_a_transform_that_was_fitted_again_is_refused(place: Workspace) -> None:
    def centred() -> None:
        store = EmbeddingStore.open(place.embeddings("text"))
        fit_transform(store, (CentreConfig(),), place.embeddings("centred"), overwrite=True)

    centred()
    index(place, "v1", quantizer=SMALL, embeddings="centred")
    index(place, "same", grow="v1", embeddings="centred")
    put(place, catalog_of(range(51)))
    centred()
    with pytest.raises(ArtifactError, match="its steps were fitted again on this catalog, which moves every vector"):
        index(place, "v2", grow="v1", embeddings="centred")


def test_a_catalog_of_other_items_is_refused(place: Workspace) -> None:
    index(place, "v1", quantizer=SMALL)
    put(place, catalog_of(range(100, 160)))
    for changes in ({"grow": "v1"}, {"quantizer": SMALL, "migrate_from": "v1"}):
        with pytest.raises(
            ArtifactError, match=r"has no item of codes v1 \(they know 'i0' and 49 more\); item ids must"
        ):
            index(place, "v2", **changes)
    with pytest.raises(ArtifactError, match="no codes here .*; run `llm-rec index --name v9` first"):
        index(place, "v2", grow="v9")


def test_settings_that_disagree_are_refused() -> None:
    with pytest.raises(ConfigError, match="grow keeps the codes that are there, migrate_from learns new ones; set one"):
        IndexJob(grow="a", migrate_from="b")
    for changes in ({"quantizer": SMALL}, {"collisions": "digit"}, {"seed": 1}):
        with pytest.raises(ConfigError, match="grow takes quantizer, collisions and seed from the codes it grows"):
            IndexJob(grow="a", **changes)
    with pytest.raises(ConfigError, match="departed belongs to grow: name the codes to grow, or leave it out"):
        IndexJob(departed="reserve")
