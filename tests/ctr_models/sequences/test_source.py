"""Sequences in click models: which fields there are, what is looked up, and what a batch must bring."""

import dataclasses

import pytest
import torch

from ctr_models.batch import FeatureBatch, HistoryBatch
from ctr_models.embeddings import LinearTerm, schema_vectors
from ctr_models.interactions import presets as interactions
from ctr_models.layers import MLPConfig
from ctr_models.model import CTRModel, CTRModelConfig, build_ctr_model, draw_weights
from ctr_models.schema import Categorical, Schema
from ctr_models.sequences import presets
from ctr_models.sequences.bst import BSTConfig
from ctr_models.sequences.events import EventsConfig
from ctr_models.sequences.sim import SIMConfig, SoftSearchConfig
from ctr_models.sequences.source import Selects, SequenceConfig
from ctr_models.sequences.target_attention import TargetAttentionConfig
from ctr_models.towers import TowerConfig
from tests.ctr_models.sequences.worlds import SCHEMA, WITH_USER, batch, model

K = {"dim": 4, "max_length": 12, "top_k": 4}
SEARCHED = {
    "dare": presets.dare(**K),
    "twin": presets.twin(**K),
    "hard": presets.twin_hard(**K),
    "four": presets.twin_4e(**K),
    "projection": presets.twin_projection(**K),
    "narrow": presets.dare(**K, attention_dims=(2, 3, 2)),
}


def without_auxiliary(config):
    encoder = dataclasses.replace(config.sequence.encoder, auxiliary=False)
    return dataclasses.replace(config, sequence=dataclasses.replace(config.sequence, encoder=encoder), auxiliary=())


@pytest.mark.parametrize("name", SEARCHED)
def test_reading_only_the_events_found_changes_no_output_and_no_gradient(name):
    built, given = model(without_auxiliary(SEARCHED[name])), batch()
    source, encoder = built.sequence, built.sequence.encoder
    assert isinstance(encoder, Selects)
    short, whole = source.read(given), source.read(given, whole=True)
    assert short.events.shape[2] == 4
    assert whole.events.shape[2] == 12
    outputs = [encoder(part).vectors for part in (short, whole)]
    torch.testing.assert_close(*outputs)
    weights = torch.randn_like(outputs[0])
    leaves = list(source.events.parameters())
    torch.testing.assert_close(
        *(torch.autograd.grad((out * weights).sum(), leaves, allow_unused=True) for out in outputs)
    )


def test_events_found_stay_in_the_order_of_time_with_their_own_positions():
    built, given = model(without_auxiliary(SEARCHED["hard"])), batch()
    read = built.sequence.read(given)
    when = built.sequence.events.representation.events.times.weight
    row = 0
    matching = given.history.ids[row, :, 1] == given.ids[row, 1]
    ranked = sorted(range(12), key=lambda c: (not matching[c], -c))[:4]
    assert torch.equal(read.event_ids[row], given.history.ids[row, sorted(ranked)])
    torch.testing.assert_close(read.events[0, row, :, -4:], when[[12 - column for column in sorted(ranked)]])


def test_all_events_are_read_where_an_auxiliary_head_or_several_sets_need_them():
    given = batch()
    trained = model(SEARCHED["dare"])
    assert trained.sequence.read(given).events.shape[2] == 12
    assert trained.eval().sequence.read(given).events.shape[2] == 4
    sets = model(dataclasses.replace(without_auxiliary(SEARCHED["dare"]), num_tables=2))
    assert sets.sequence.read(given).events.shape[2] == 12
    assert model(presets.tin(dim=4, max_length=12)).sequence.read(given).events.shape[2] == 12
    assert model(without_auxiliary(presets.dare(dim=4, max_length=3))).sequence.read(given).events.shape[2] == 3


def test_fields_are_the_other_ones_then_the_candidate_then_the_outputs():
    built, given = model(SEARCHED["dare"], WITH_USER), batch(WITH_USER)
    (users,) = built.sources.inner.sources
    sequence = built.sequence(given)
    assert built.sources.num_fields == 1
    assert built.sequence.num_fields == 9 == built.sequence.num_auxiliary_fields
    fields = built._fields(given, sequence)
    torch.testing.assert_close(fields[0, :, 0], users.field_weight("user")[0, given.ids[:, 1]])
    (table,) = built.sequence.events.representation.events.tables
    torch.testing.assert_close(fields[0, :, 1], table.field_weight("item")[0, given.ids[:, 2]])
    torch.testing.assert_close(fields[0, :, 2], table.field_weight("category")[0, given.ids[:, 0]])
    torch.testing.assert_close(fields[:, :, 7:10], fields[:, :, 1:4] * fields[:, :, 4:7])


def test_a_sequence_meets_any_interaction_and_several_sets():
    plain = interactions.dcn_v2(dim=4, num_layers=2, hidden=MLPConfig(widths=(5,)))
    config = dataclasses.replace(plain, num_tables=2, sequence=without_auxiliary(SEARCHED["dare"]).sequence)
    built, given = model(config, WITH_USER, outputs=1), batch(WITH_USER)
    assert built(given).shape == (7, 1)
    built(given).sum().backward()
    assert all(parameter.grad is not None for parameter in built.parameters())


def test_the_inference_path_is_that_of_training_without_its_second_head():
    built, given = model(SEARCHED["dare"]), batch()
    torch.testing.assert_close(built(given), built.outputs(given).logits)
    assert built.outputs(given).auxiliary.shape == (7, 2)
    assert built.eval().outputs(given).auxiliary is None
    plain = model(interactions.dnn(dim=4, hidden=MLPConfig(widths=(5,))), outputs=1)
    assert plain.outputs(given)[1:] == (None, None)


class Inference(torch.nn.Module):
    """Ids of candidates and events -> logits: what a server runs."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, ids, events):
        empty = ids.new_zeros((ids.shape[0], 0), dtype=torch.float32)
        return self.inner(FeatureBatch(ids, empty, empty, empty, None, HistoryBatch(events)))


@pytest.mark.parametrize("name", ["dare", "hard"])
def test_the_inference_path_is_exported_for_any_batch(name):
    given, module = batch(), Inference(model(SEARCHED[name]).eval())
    rows = torch.export.Dim("rows", min=2, max=1 << 20)
    shapes = {"ids": {0: rows}, "events": {0: rows}}
    graph = torch.export.export(module, (given.ids, given.history.ids), dynamic_shapes=shapes)
    torch.testing.assert_close(graph.module()(given.ids[:5], given.history.ids[:5]), module.inner(given)[:5])


def test_longer_histories_are_cut_to_the_newest_events():
    built, given = model(presets.dare(dim=4, max_length=5, top_k=3)).eval(), batch()
    cut = dataclasses.replace(given, history=given.history.newest(5))
    assert torch.equal(built(given), built(cut))


def test_parameters_of_projections_and_encoders_are_no_embeddings():
    built = model(dataclasses.replace(SEARCHED["projection"], linear="weight"), WITH_USER)
    split = built.split_parameters()
    names = {id(p): name for name, p in built.named_parameters()}
    tables = {names[id(p)] for p in split.embeddings}
    prefix = "sequence.events.representation.events"
    assert tables == {
        f"{prefix}.tables.0.embedding.weight",
        f"{prefix}.times.weight",
        "sources.inner.sources.0.embedding.weight",
        "linear.vectors.sources.0.embedding.weight",
    }
    assert sorted(id(p) for group in split for p in group) == sorted(names)


def test_weights_are_drawn_anew_but_biases_and_tables_are_not():
    built = model(presets.dare(dim=4))
    before = {name: value.detach().clone() for name, value in built.named_parameters()}
    torch.manual_seed(3)
    draw_weights(built, 0.01)
    drawn = {name for name, value in built.named_parameters() if not torch.equal(value, before[name])}
    assert drawn == {name for name in before if not name.endswith("bias") and not name.startswith("sequence")}
    assert {"towers.0.hidden.input_norm.weight", "towers.0.hidden.layers.0.prelu.weight"} <= drawn
    weight = dict(built.named_parameters())["towers.0.hidden.layers.1.linear.weight"]
    assert weight.std().item() == pytest.approx(0.01, rel=0.05)


def test_history_length_is_what_a_row_must_bring():
    assert presets.dare(max_length=50).history_length == 50
    assert interactions.lr().history_length == 0


def test_a_batch_that_lacks_the_history_is_named():
    built, given = model(SEARCHED["dare"]), batch()
    with pytest.raises(ValueError, match="^the model reads up to 12 past events but the batch has no history; read th"):
        built(dataclasses.replace(given, history=None))
    with pytest.raises(ValueError, match="^events of the batch have 1 ids each, those of the schema 2$"):
        built(dataclasses.replace(given, history=HistoryBatch(given.history.ids[..., :1])))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 0}, "max_length must be at least 1, got 0"),
        (
            {"max_length": 200, "events": EventsConfig(max_positions=200)},
            "max_length 200 needs 201 positions (the candidate has one), but max_positions is 200",
        ),
        (
            {"encoder": BSTConfig(), "events": EventsConfig(decouple="dare")},
            "BSTConfig reads one kind of vectors; set decouple 'shared', not 'dare'",
        ),
        (
            {
                "encoder": SIMConfig(search=SoftSearchConfig(embeddings="tables")),
                "events": EventsConfig(decouple="shared"),
            },
            "this SIMConfig searches attention tables; set decouple to something other than 'shared'",
        ),
    ],
)
def test_wrong_settings_of_sequences_are_named(settings, message):
    with pytest.raises(ValueError) as error:
        SequenceConfig(**settings)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sequence": SequenceConfig()}, "a model without towers needs linear 'weight', got 'none'"),
        (
            {"sequence": SequenceConfig(), "linear": "weight"},
            "a sequence gives fields to towers; name at least one",
        ),
        (
            {"sequence": SequenceConfig(), "towers": (TowerConfig(),), "linear": "vector"},
            "linear 'vector' weighs the fields of the schema, which a sequence replaces; use 'weight'",
        ),
        (
            {"towers": (TowerConfig(),), "auxiliary": (TowerConfig(),)},
            "auxiliary towers read what a sequence gives; set sequence, or leave auxiliary out",
        ),
    ],
)
def test_wrong_settings_of_models_are_named(settings, message):
    with pytest.raises(ValueError) as error:
        CTRModelConfig(**settings)
    assert str(error.value) == message


def test_parts_that_do_not_fit_are_named():
    def build(config, schema=SCHEMA):
        return build_ctr_model(config, schema, build_sources=schema_vectors, build_linear=LinearTerm)

    with pytest.raises(ValueError, match="^the config names 0 auxiliary towers but its sequence gives 9 auxiliary fie"):
        build(dataclasses.replace(SEARCHED["dare"], auxiliary=()))
    quiet = SequenceConfig(encoder=TargetAttentionConfig(auxiliary=False))
    with pytest.raises(ValueError, match="^the config names 1 auxiliary towers but its sequence gives 0 auxiliary fie"):
        build(CTRModelConfig(towers=(TowerConfig(),), sequence=quiet, auxiliary=(TowerConfig(),)))
    with pytest.raises(ValueError, match="^the config has a sequence but the part is NoneType$"):
        CTRModel(SEARCHED["dare"], None)
    with pytest.raises(ValueError, match="^the schema names no history fields"):
        build(SEARCHED["dare"], Schema(fields=(Categorical(name="item", size=5),)))
