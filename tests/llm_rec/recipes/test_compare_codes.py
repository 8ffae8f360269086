"""One table of all kinds of quantisers on a planted catalog, and collaborative vectors of a run."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llm_rec.cli import main
from llm_rec.data import leave_one_out
from llm_rec.data.synthetic import PlantedWorld, planted_world
from llm_rec.errors import ConfigError
from llm_rec.recipes import compare_codes
from llm_rec.recipes.codes import IndexJob, write_codes
from llm_rec.recipes.compare_codes import KINDS, budgeted, chosen, code_name, compare_kinds, train_events
from llm_rec.recipes.run_vectors import save_item_vectors
from llm_rec.recipes.workspace import Workspace
from llm_rec.store import ShardLayout, seal, shard_path, write_shard
from semantic_ids.autoencoder import AutoencoderConfig
from semantic_ids.code_table import CodeTable
from semantic_ids.coherence import co_interaction_lift
from semantic_ids.quantizers import FitConfig, LETTERConfig, PQConfig, RQVAEConfig

SMALL = {
    "autoencoder": AutoencoderConfig(hidden_dims=(8,), latent_dim=4),
    "fit": FitConfig(steps=12, warmup_steps=4, batch_size=32),
}
pytestmark = pytest.mark.filterwarnings("ignore::semantic_ids.kmeans.FewRowsWarning")


@pytest.fixture(scope="module")
def world() -> PlantedWorld:
    return planted_world(80, 60, num_clusters=3, seed=1)


@pytest.fixture(scope="module")
def workspace(world: PlantedWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("compare")
    place = Workspace(root)
    world.catalog.save(place.catalog)
    world.log.save(place.interactions)
    vectors = world.embeddings[1:].astype(np.float32)
    layout = ShardLayout(num_items=60, shard_rows=60)
    place.embeddings("text").mkdir(parents=True)
    write_shard(shard_path(place.embeddings("text"), 0), vectors, encoded=60)
    inputs = {"catalog": world.catalog.fingerprint}
    seal(place.embeddings("text"), layout, vectors.shape[1], inputs=inputs, details={})
    return root


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {
        kind: replace(config, **SMALL) if hasattr(config, "autoencoder") else config for kind, config in KINDS.items()
    }
    kinds["library-rq"] = replace(KINDS["library-rq"], steps=3, batch_size=32)
    monkeypatch.setattr(compare_codes, "KINDS", kinds)


def job(workspace: Path, **options) -> IndexJob:
    budget = RQVAEConfig(num_codebooks=4, codebook_size=4)
    return IndexJob(workspace=workspace, quantizer=budget, compare=True, **options)


def test_every_kind_has_a_row_and_what_cannot_be_made_says_why(workspace, world, capsys):
    rows = compare_kinds(job(workspace))
    assert {row.kind for row in rows} == set(KINDS) - {"letter"}
    out = capsys.readouterr().out
    assert "letter left out: letter needs collaborative vectors, but" in out
    assert all(row.health.codebook_sizes == (4, 4, 4, 4) for row in rows)
    found = json.loads((workspace / "comparisons" / "text-4x4-seed0" / "comparison.json").read_text())
    by_kind = {row["kind"]: row for row in found["rows"]}
    assert list(found["left_out"]) == ["letter"]
    assert by_kind["rqkmeans"]["health"]["neighbour_overlap"] > by_kind["random"]["health"]["neighbour_overlap"]
    assert all(len(row["co_interaction"]) == 4 for row in found["rows"])
    assert all(row["fit_seconds"] > 0 for row in found["rows"] if row["kind"] != "random")
    table = (workspace / "comparisons" / "text-4x4-seed0" / "comparison.md").read_text()
    assert table.count("\n| ") == len(rows) + 1
    assert "letter left out" in table


def test_a_second_comparison_fits_nothing_again(workspace, monkeypatch):
    kinds = ("pq", "rqvae")
    first = compare_kinds(job(workspace, kinds=kinds))

    def refuse(*_, **__):
        raise RuntimeError("fitted again")

    monkeypatch.setattr("llm_rec.recipes.codes.fit_quantizer", refuse)
    assert compare_kinds(job(workspace, kinds=kinds)) == first
    assert [row.kind for row in first] == ["rqvae", "pq"]
    with pytest.raises(RuntimeError, match="fitted again"):
        compare_kinds(job(workspace, kinds=kinds, seed=1))


def test_lift_sees_the_train_part_alone(workspace, world):
    events = train_events(job(workspace))
    split = leave_one_out(world.log)
    assert len(events.users) == split.in_train.sum() < world.log.num_events
    row = compare_kinds(job(workspace, kinds=("pq",)))[0]
    table = CodeTable.load(workspace / "codes" / row.name / "codes.safetensors")
    assert row.co_interaction == co_interaction_lift(table, events)


def test_letter_joins_when_a_run_has_given_collaborative_vectors(workspace, world):
    split = leave_one_out(world.log)
    vectors = np.random.default_rng(0).normal(size=(61, 4)).astype(np.float32)
    path = Workspace(workspace).embeddings("collaborative")
    inputs = {"catalog": world.catalog.fingerprint}
    with pytest.raises(ConfigError, match="the model knows 59 items but the catalog has 60"):
        save_item_vectors(vectors[1:], split, path, inputs=inputs, details={})
    store = save_item_vectors(vectors, split, path, inputs=inputs, details={"run": "x"})
    seen = split.train_counts > 0
    assert not seen.all()
    assert np.array_equal(store.all()[seen], vectors[seen])
    assert not store.all()[~seen].any()
    rows = compare_kinds(job(workspace, kinds=("letter",)))
    assert [row.kind for row in rows] == ["letter"]
    wide = replace(SMALL["autoencoder"], latent_dim=5)
    config = LETTERConfig(codebook_size=4, code_clusters=2, autoencoder=wide, fit=SMALL["fit"])
    with pytest.raises(ConfigError, match=r"quantizer: collaborative vectors are \(60, 4\), wanted \(60, 5\)"):
        write_codes(IndexJob(workspace=workspace, name="wide", quantizer=config))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: chosen(["rqkmean"]), "kinds: 'rqkmean' is not a kind of quantizer; did you mean 'rqkmeans'?"),
        (lambda: budgeted("grouped-rq", 3, 8), "3 books are no groups of levels; choose 4, 6, 8, ..."),
        (lambda: budgeted("lfq", 3, 12), "codebook_size must be a power of two"),
        (lambda: budgeted("fsq", 3, 22), "codebook_size 22 is no product of numbers from 3 to 8"),
        (lambda: IndexJob(kinds=("pq",)), "kinds belong to --compare"),
        (lambda: IndexJob(compare=True, collisions="digit"), "compare measures codes as they are fitted; leave"),
    ],
)
def test_what_cannot_be_compared_is_named(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_other_settings_are_other_codes():
    assert code_name("pq", PQConfig(), 0) != code_name("pq", PQConfig(num_codebooks=3), 0)
    assert code_name("pq", PQConfig(), 0) != code_name("pq", PQConfig(), 1)


def test_the_command_line_compares(workspace, capsys):
    sizes = ("--quantizer.num-codebooks", "2", "--quantizer.codebook-size", "4")
    main(["index", "--workspace", str(workspace), "--compare", "--kinds", "rqkmeans", "random", *sizes])
    out = capsys.readouterr().out
    assert "2 books of 4 codes" in out
    assert "co-interaction lift" in out
    with pytest.raises(SystemExit) as stop:
        main(["index", "--workspace", str(workspace), "--compare", "--kinds", "letters"])
    assert stop.value.code == 2
