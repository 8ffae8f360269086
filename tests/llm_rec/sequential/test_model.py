import pytest
import torch
from safetensors.torch import load_file, save_file

from llm_rec.artifacts import read_manifest, write_artifact
from llm_rec.codec import from_plain, to_plain
from llm_rec.data import leave_one_out
from llm_rec.data.synthetic import planted_world
from llm_rec.errors import ArtifactError, ConfigError
from llm_rec.sequential.gru4rec import GRU4RecConfig
from llm_rec.sequential.items import ItemSources, MixedItemsConfig, TextItemsConfig
from llm_rec.sequential.model import SequentialConfig, SequentialModel

NUM_ITEMS = 24


@pytest.fixture(name="sources", scope="module")
def fixture_sources():
    world = planted_world(50, NUM_ITEMS, num_clusters=3, dim=8)
    return ItemSources.from_split(leave_one_out(world.log), embeddings=world.embeddings)


CONFIGS = {
    "default": SequentialConfig(dim=8, max_length=6),
    "mixed_cosine": SequentialConfig(
        items=MixedItemsConfig(mask_unseen_ids=True, combine="gate"), dim=8, max_length=6, score="cosine"
    ),
    "item_dropout": SequentialConfig(dim=8, max_length=6, item_dropout=0.5),
    "text_gru": SequentialConfig(items=TextItemsConfig(), backbone=GRU4RecConfig(), dim=8, max_length=6),
}


@pytest.fixture(params=CONFIGS, name="model")
def fixture_model(request, sources):
    torch.manual_seed(0)
    return SequentialModel(CONFIGS[request.param], sources)


HISTORY = torch.tensor([[3, 5, 7, 0], [9, 0, 0, 0], [1, 2, 3, 4]])


def test_a_saved_model_comes_back_bit_equal_without_its_data(model, tmp_path):
    model.save_pretrained(tmp_path / "model", catalog="abc")
    loaded = SequentialModel.from_pretrained(tmp_path / "model")
    assert loaded.config == model.config
    assert not loaded.training
    assert torch.equal(loaded.user_vectors(HISTORY), model.user_vectors(HISTORY))
    assert torch.equal(loaded.item_vectors(), model.item_vectors())
    manifest = read_manifest(tmp_path / "model", "sequential_model")
    assert manifest.inputs == {"catalog": "abc"}


def test_fingerprint_changes_with_a_weight(model, tmp_path):
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "same")
    with torch.no_grad():
        next(model.parameters())[0] += 1
    model.save_pretrained(tmp_path / "other")
    one, same, other = (read_manifest(tmp_path / name).fingerprint for name in ("one", "same", "other"))
    assert one == same != other


def test_user_vectors_are_the_last_real_states(model):
    model.eval()
    states = model(HISTORY)
    expected = torch.stack([states[0, 2], states[1, 0], states[2, 3]])
    assert torch.allclose(model.user_vectors(HISTORY), expected)


def test_user_vectors_ignore_training_mode_and_leave_it_as_it_was(model):
    expected = model.eval().user_vectors(HISTORY)
    assert torch.equal(model.train().user_vectors(HISTORY), expected)
    assert model.training
    assert not model.user_vectors(HISTORY).requires_grad
    assert not model.item_vectors().requires_grad


def test_an_empty_history_gives_zeros(model):
    vectors = model.user_vectors(torch.tensor([[0, 0], [4, 0]]))
    assert (vectors[0] == 0).all()
    assert torch.allclose(vectors[1], model.user_vectors(torch.tensor([[4]]))[0], atol=1e-6)


def test_cosine_scores_lie_between_minus_one_and_one(sources):
    torch.manual_seed(0)
    model = SequentialModel(CONFIGS["mixed_cosine"], sources)
    assert torch.allclose(model.user_vectors(HISTORY).norm(dim=1), torch.ones(3))
    assert torch.allclose(model.item_vectors()[1:].norm(dim=1), torch.ones(NUM_ITEMS))
    assert (model.item_vectors()[0] == 0).all()


def test_config_survives_json_with_its_kinds():
    plain = to_plain(CONFIGS["text_gru"])
    assert plain["items"]["kind"] == "text_items"
    assert plain["backbone"]["kind"] == "gru4rec"
    assert from_plain(SequentialConfig, plain) == CONFIGS["text_gru"]


def test_an_unknown_backbone_is_named_with_the_known_ones():
    with pytest.raises(ConfigError, match="backbone.kind: 'sasrek' is not one of .*; did you mean 'sasrec'"):
        from_plain(SequentialConfig, {"backbone": {"kind": "sasrek"}})


def test_sizes_out_of_range_are_named():
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        SequentialConfig(dim=0)
    with pytest.raises(ValueError, match="max_length must be at least 1, got 0"):
        SequentialConfig(max_length=0)
    with pytest.raises(ValueError, match=r"item_dropout must lie in 0..1 \(1 excluded\), got 1.0"):
        SequentialConfig(item_dropout=1.0)
    with pytest.raises(ValueError, match="item_dropout must lie in 0..1 .*, got -0.1"):
        SequentialConfig(item_dropout=-0.1)


def test_item_dropout_draws_one_mask_for_all_occurrences_of_an_item(sources):
    torch.manual_seed(0)
    model = SequentialModel(SequentialConfig(dim=64, max_length=6, item_dropout=0.25), sources).train()
    rows = torch.tensor([3, 5, 3, 7, 0, 5, 3, 24])
    masks = model.step_vectors(rows) / model.items(rows)
    masks[rows == 0] = 0
    kept = masks != 0
    assert torch.allclose(masks[kept], torch.tensor(1 / 0.75))
    assert torch.equal(kept[0], kept[2])
    assert torch.equal(kept[0], kept[6])
    assert torch.equal(kept[1], kept[5])
    distinct = kept[[0, 1, 3, 7]]
    assert len(distinct.unique(dim=0)) == 4
    assert 0.6 < distinct.float().mean() < 0.9
    assert not torch.equal(model.step_vectors(rows), model.step_vectors(rows))  # another step, another mask


def test_item_dropout_acts_in_training_only_and_draws_nothing_when_off(sources):
    torch.manual_seed(0)
    rows = torch.tensor([3, 5, 3])
    model = SequentialModel(SequentialConfig(dim=8, max_length=6, item_dropout=0.5), sources).eval()
    assert torch.equal(model.step_vectors(rows), model.items(rows))
    assert torch.equal(model.item_vectors(), model.train().item_vectors())
    off = SequentialModel(SequentialConfig(dim=8, max_length=6), sources).train()
    state = torch.get_rng_state()
    assert torch.equal(off.step_vectors(rows), off.items(rows))
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_of_another_model_are_refused(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights.pop(sorted(weights)[0])
    save_file(weights, tmp_path / "model" / "model.safetensors")
    with pytest.raises(ArtifactError, match="(?s)model.safetensors: not the weights of this model .*; save it again"):
        SequentialModel.from_pretrained(tmp_path / "model")


def test_damaged_and_foreign_folders_are_refused(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(ArtifactError, match="not the weights of this model"):
        SequentialModel.from_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text('{"model": {}, "sources": {"num_item": 3}}')
    with pytest.raises(ArtifactError, match="config.json: not the settings of a model .*did you mean 'num_items'"):
        SequentialModel.from_pretrained(tmp_path / "model")
    with write_artifact(tmp_path / "other", kind="catalog", fingerprint="f"):
        pass
    with pytest.raises(ArtifactError, match="holds a catalog, not a sequential_model"):
        SequentialModel.from_pretrained(tmp_path / "other")
    with pytest.raises(ArtifactError, match="already exists"):
        model.save_pretrained(tmp_path / "model")
    model.save_pretrained(tmp_path / "model", overwrite=True)
    SequentialModel.from_pretrained(tmp_path / "model")
