from dataclasses import replace

import pytest
import torch

from llm_rec.artifacts import read_json, write_json
from llm_rec.codec import from_plain, to_plain
from llm_rec.errors import ArtifactError, ConfigError
from llm_rec.frequency_gate import BucketGateConfig, LogFrequencyGateConfig, UniformGateConfig
from llm_rec.pad.alignment import NoAlignmentConfig
from llm_rec.pad.config import PADConfig, faithful_pad, pad, pad_negatives, released_pad
from llm_rec.pad.experts import TextProjectorConfig
from llm_rec.pad.export import ServingPAD
from llm_rec.pad.model import ExpertRetriever, PADModel
from llm_rec.sequential.caser import CaserConfig
from llm_rec.sequential.items import ItemSources
from llm_rec.sequential.model import SequentialModel
from llm_rec.sequential.negatives import PositionNegativesConfig, SharedNegativesConfig
from llm_rec.sequential.sasrec import SASRecConfig
from tests.llm_rec.pad.worlds import GRU, tiny_config, tiny_model, tiny_sources, tiny_split

HISTORY = torch.tensor([[3, 5, 9, 0, 0], [1, 0, 0, 0, 0], [7, 7, 2, 4, 11], [0, 0, 0, 0, 0]])

CONFIGS = {
    "three experts": tiny_config(),
    "gru": tiny_config(backbone=GRU),
    "caser": tiny_config(backbone=CaserConfig()),
    "two experts": tiny_config(experts=("collaborative", "text")),
    "one expert": tiny_config(experts=("aligned",)),
    "ids alone": tiny_config(experts=("collaborative",)),
    "single bucket": tiny_config(gate=BucketGateConfig(num_buckets=1)),
    "no gate": tiny_config(gate=UniformGateConfig()),
    "smooth gate": tiny_config(gate=LogFrequencyGateConfig()),
    "masked ids": tiny_config(mask_unseen_ids=True, id_dropout=0.3),
    "linear end": tiny_config(projector=TextProjectorConfig(num_layers=0, end="linear")),
}
EVERY = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


@EVERY
def test_folded_scores_equal_live_scores(config):
    model = tiny_model(config)
    candidates = torch.arange(1, 25).expand(4, -1)
    folded = model.user_vectors(HISTORY) @ model.item_vectors().T
    torch.testing.assert_close(folded[:, 1:], model.live_scores(HISTORY, candidates), atol=1e-5, rtol=1e-5)
    assert folded.shape == (4, 25)
    assert float(folded[:, 0].abs().max()) == 0.0  # padding
    assert float(folded[3].abs().max()) == 0.0  # no history


@torch.no_grad()
def test_live_scores_equal_a_loop_over_experts_users_and_items():
    model = tiny_model().eval()
    rows = torch.arange(25)
    live = model.live_scores(HISTORY, rows.expand(4, -1))
    for user, history in enumerate(HISTORY[:3]):
        real = history[history != 0]
        for item in (1, 8, 24):
            one, score = torch.tensor([item]), 0.0
            weights = model.gate(one)[0]
            for k, name in enumerate(model.config.experts):
                tower = model.expert(name)
                vectors = tower.items(model.inputs(real))[None]
                state = tower.backbone(vectors, torch.ones(1, len(real), dtype=torch.bool))[0, -1]
                score += float(weights[k] * (state @ tower.items(model.inputs(one))[0]))
            assert float(live[user, item]) == pytest.approx(score, abs=1e-5)


@EVERY
def test_saved_model_is_bit_equal_without_training_data(config, tmp_path):
    model = tiny_model(config)
    model.save_pretrained(tmp_path / "model", catalog="abc")
    loaded = PADModel.from_pretrained(tmp_path / "model")
    assert loaded.config == config
    assert torch.equal(loaded.user_vectors(HISTORY), model.user_vectors(HISTORY))
    assert torch.equal(loaded.item_vectors(), model.item_vectors())


@EVERY
def test_serving_form_scores_as_the_model_and_holds_no_text(config, tmp_path):
    model = tiny_model(config)
    serving = ServingPAD.of(model)
    serving.save_pretrained(tmp_path / "serving")
    loaded = ServingPAD.from_pretrained(tmp_path / "serving")
    for one in (serving, loaded):
        torch.testing.assert_close(one.user_vectors(HISTORY), model.user_vectors(HISTORY), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(one.item_vectors(), model.item_vectors(), atol=1e-6, rtol=1e-5)
    assert not [name for name in serving.state_dict() if "embeddings" in name or "projector" in name]
    assert loaded.max_length == model.max_length


def test_vectors_are_those_of_evaluation_and_leave_the_mode_alone():
    model = tiny_model(tiny_config(id_dropout=0.5)).train()
    assert torch.equal(model.item_vectors(), model.item_vectors())
    assert torch.equal(model.user_vectors(HISTORY), model.user_vectors(HISTORY))
    assert model.training
    assert not torch.equal(model.look_up(torch.arange(1, 9)).vectors, model.look_up(torch.arange(1, 9)).vectors)


def test_padding_of_a_history_changes_nothing():
    model = tiny_model()
    short = model.user_vectors(HISTORY[:2, :3])
    torch.testing.assert_close(model.user_vectors(HISTORY)[:2], short, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_unseen_items_lose_their_ids_only_when_asked():
    unseen = torch.from_numpy((tiny_split().train_counts == 0).nonzero()[0])[1:]
    seen = torch.from_numpy(tiny_split().train_counts.nonzero()[0])
    assert len(unseen) >= 1
    masked, plain = tiny_model(tiny_config(mask_unseen_ids=True)).eval(), tiny_model().eval()
    assert float(masked.look_up(unseen).vectors[0].abs().max()) == 0.0
    assert bool((plain.look_up(unseen).vectors[0].abs().sum(1) > 0).all())
    assert torch.equal(masked.look_up(seen).vectors, plain.look_up(seen).vectors)
    weights = masked.look_up(unseen).weights  # the others take over the share of the silent expert
    torch.testing.assert_close(weights.sum(-1), torch.ones(len(unseen)))
    gate = plain.look_up(unseen).weights
    torch.testing.assert_close(weights[:, 1:], gate[:, 1:] / gate[:, 1:].sum(-1, keepdim=True))
    assert float(weights[:, 0].max()) == 0.0
    without_id = masked.expert("aligned").items.parts(masked.inputs(unseen)).fused
    changed = tiny_model(tiny_config(mask_unseen_ids=True)).eval()
    with torch.no_grad():
        changed.expert("aligned").items.ids.table.weight[unseen] += 5
    assert torch.equal(changed.expert("aligned").items.parts(changed.inputs(unseen)).fused, without_id)


@torch.no_grad()
def test_id_dropout_hides_an_item_from_both_experts_with_ids_together():
    model = tiny_model(tiny_config(id_dropout=0.5, projector=TextProjectorConfig(dropout=0.0))).train()
    rows = torch.arange(1, 25)
    torch.manual_seed(0)
    hidden = model.look_up(rows).vectors
    whole = model.eval().look_up(rows).vectors
    gone = (hidden[0] == 0).all(1)
    assert 4 < int(gone.sum()) < 20
    torch.testing.assert_close(hidden[0][~gone], whole[0][~gone])
    assert torch.equal((hidden[1] != whole[1]).any(1), gone)
    torch.testing.assert_close(hidden[2], whole[2])


def test_expert_alone_ranks_by_its_own_inner_product():
    model = tiny_model(tiny_config(gate=UniformGateConfig()))
    users, items = model.user_vectors(HISTORY), model.item_vectors()
    for k, name in enumerate(model.config.experts):
        own = ExpertRetriever(model, name)
        part = slice(8 * k, 8 * k + 8)
        torch.testing.assert_close(own.user_vectors(HISTORY), users[:, part], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(own.item_vectors() / 3, items[:, part], atol=1e-6, rtol=1e-5)
        assert own.max_length == model.max_length


def test_copy_of_the_pretrained_tower_starts_both_id_experts_and_shares_nothing():
    torch.manual_seed(5)
    config = tiny_config()
    pretrained = SequentialModel(config.pretrained, tiny_sources())
    model = tiny_model(config)
    model.copy_pretrained(pretrained)
    alone = ExpertRetriever(model, "collaborative")
    assert torch.equal(alone.user_vectors(HISTORY), pretrained.user_vectors(HISTORY))
    assert torch.equal(alone.item_vectors(), pretrained.item_vectors())
    table = model.expert("aligned").items.ids.table.weight
    assert torch.equal(table, pretrained.items.table.weight)
    with torch.no_grad():
        table.add_(1.0)
    assert not torch.equal(table, pretrained.items.table.weight)
    assert not torch.equal(table, model.expert("collaborative").items.ids.table.weight)


def test_experts_share_no_parameter():
    model = tiny_model()
    parameters = [p.data_ptr() for p in model.parameters()]
    assert len(parameters) == len(set(parameters))
    assert len([name for name, _ in model.named_buffers() if "embeddings" in name]) == 1


def test_text_projector_end_decides_the_range():
    texts = torch.randn(64, 6, generator=torch.Generator().manual_seed(0)) * 5
    torch.manual_seed(0)
    for end, low in (("gelu", -0.171), ("linear", -100.0)):
        model = tiny_model(tiny_config(projector=TextProjectorConfig(end=end, num_layers=1, dropout=0.0)))
        values = model.expert("text").items.projector(texts)
        assert float(values.detach().min()) >= low
        assert (float(values.detach().min()) < -0.2) is (end == "linear")


@pytest.mark.parametrize(
    "config", [*CONFIGS.values(), faithful_pad(), released_pad(), pad(), tiny_config(alignment=NoAlignmentConfig())]
)
def test_config_round_trips(config):
    assert from_plain(PADConfig, to_plain(config)) == config


def test_presets_name_the_published_and_our_settings():
    paper, released, ours = faithful_pad(), released_pad(), pad()
    assert (paper.dim, paper.max_length, paper.backbone.num_layers, paper.backbone.norm) == (128, 20, 5, "post")
    assert (paper.alignment.weight, paper.alignment.estimator, paper.gamma2) == (0.2, "biased", -4.0)
    assert (paper.projector.num_layers, paper.projector.end, paper.mask_unseen_ids) == (4, "gelu", False)
    assert (released.alignment.estimator, released.alignment_rows) == ("official", "all")
    assert (ours.projector.end, ours.mask_unseen_ids) == ("linear", True)
    assert pad_negatives(paper) == PositionNegativesConfig(number=1)
    assert pad_negatives(ours) == SharedNegativesConfig(number=256, seen_in_train_only=True)
    assert faithful_pad(backbone=SASRecConfig(num_layers=2)).backbone.num_layers == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 0}, "dim must be at least 1, got 0"),
        ({"max_alignment_rows": 1}, "max_alignment_rows must be at least 2, got 1"),
        ({"experts": ()}, "experts must name each of collaborative, aligned, text at most once, got ()"),
        ({"experts": ("text", "text")}, "at most once, got ('text', 'text')"),
        ({"id_dropout": 1.0}, "id_dropout must lie in 0..1 (1 excluded), got 1.0"),
        (
            {"anchor": False, "alignment": NoAlignmentConfig()},
            "phase 2 has nothing to learn without anchor and without",
        ),
    ],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(ValueError) as caught:
        tiny_config(**changes)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": -1}, "num_layers must not be negative, got -1"),
        ({"dropout": 1.0}, "dropout must lie in 0..1 (1 excluded), got 1.0"),
    ],
)
def test_wrong_projectors_are_named(changes, message):
    with pytest.raises(ValueError) as caught:
        TextProjectorConfig(**changes)
    assert message in str(caught.value)


def test_missing_sources_are_named():
    counts = tiny_sources().train_counts
    with pytest.raises(ConfigError, match="the aligned expert needs text embeddings; encode the catalog first"):
        PADModel(tiny_config(), ItemSources(num_items=24, train_counts=counts))
    with pytest.raises(ConfigError, match="PAD needs train_counts for its gate; build the sources with ItemSources.fr"):
        PADModel(tiny_config(), replace(tiny_sources(), train_counts=None))
    with pytest.raises(ConfigError, match="this PAD model has no text expert; it has collaborative"):
        tiny_model(tiny_config(experts=("collaborative",))).expert("text")


def test_damaged_and_foreign_folders_are_refused(tmp_path):
    tiny_model().save_pretrained(tmp_path / "model")
    with pytest.raises(ArtifactError, match="holds a pad_model, not a pad_serving"):
        ServingPAD.from_pretrained(tmp_path / "model")
    plain = read_json(tmp_path / "model" / "config.json")
    plain["model"]["dim"] = 4
    write_json(tmp_path / "model" / "config.json", plain)
    with pytest.raises(ArtifactError, match="not the weights of this model .*; save it again"):
        PADModel.from_pretrained(tmp_path / "model")
