"""What all item vectors promise."""

import numpy as np
import pytest
import torch

from llm_rec.codec import from_plain, to_plain
from llm_rec.errors import ConfigError
from llm_rec.sequential import items as items_module
from llm_rec.sequential.code_ngrams import NgramItemsConfig
from llm_rec.sequential.items import (
    CodeItemsConfig,
    IdItemsConfig,
    ItemSources,
    MixedItemsConfig,
    TextItemsConfig,
    build_items,
    distinct_rows,
)
from llm_rec.sequential.model import SequentialConfig, SourceSizes
from llm_rec.sequential.protocols import ItemVectors
from semantic_ids.fusion import GateFusionConfig, MLPFusionConfig

CONFIGS = {
    "id": IdItemsConfig(),
    "id_normal": IdItemsConfig(init="normal", std=0.1),
    "text": TextItemsConfig(),
    "text_mlp": TextItemsConfig(projection="mlp", num_layers=3, trainable_scale=True),
    "codes": CodeItemsConfig(),
    "codes_gate_concat": CodeItemsConfig(fusion=GateFusionConfig(), pooling="concat", std=0.5),
    "codes_mlp_mean": CodeItemsConfig(fusion=MLPFusionConfig(), pooling="mean", std=0.5),
    "prefixes": NgramItemsConfig(num_rows=50, std=0.5),
    "ngrams_concat": NgramItemsConfig(pieces="ngram", n=2, num_rows=50, pooling="concat", std=0.5),
    "mixed_all": MixedItemsConfig(codes=CodeItemsConfig(), combine="gate"),
    "mixed_text_codes": MixedItemsConfig(id=None, codes=CodeItemsConfig(), combine="concat"),
    "mixed_sum": MixedItemsConfig(id_dropout=0.5, mask_unseen_ids=True),
    "mixed_concat": MixedItemsConfig(combine="concat"),
    "mixed_gate": MixedItemsConfig(combine="gate", id_dropout=0.2),
}
DIM, NUM_ITEMS = 6, 9


def sources():
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(NUM_ITEMS + 1, 5, generator=generator)
    embeddings[0] = 0
    counts = torch.tensor([0, 3, 1, 0, 2, 5, 1, 1, 0, 2])
    codes = torch.stack([torch.arange(10) % 3, torch.arange(10) // 3], dim=1)
    codes[0] = 0
    return ItemSources(
        num_items=NUM_ITEMS, embeddings=embeddings, codes=codes, codebook_sizes=(3, 4), train_counts=counts
    )


@pytest.fixture(params=CONFIGS, name="config")
def fixture_config(request):
    return CONFIGS[request.param]


@pytest.fixture(name="vectors")
def fixture_vectors(config):
    torch.manual_seed(0)
    return build_items(config, sources(), DIM)


def test_they_are_item_vectors_and_a_module(vectors):
    assert isinstance(vectors, ItemVectors)
    assert isinstance(vectors, torch.nn.Module)
    assert vectors.dim == DIM


def test_config_survives_json(config):
    model = SequentialConfig(items=config)
    assert from_plain(SequentialConfig, to_plain(model)) == model


def test_padding_is_zero_before_and_after_a_step_of_training(vectors):
    optimiser = torch.optim.AdamW(vectors.parameters(), lr=0.5)
    for _ in range(3):
        assert (vectors.all()[0] == 0).all()
        assert (vectors(torch.tensor([[0, 2], [0, 0]]))[:, 0] == 0).all()
        (vectors(torch.arange(NUM_ITEMS + 1)) - 1).pow(2).sum().backward()
        optimiser.step()
        optimiser.zero_grad()


def test_any_shape_of_rows_agrees_with_all(vectors):
    vectors.eval()
    table = vectors.all()
    assert table.shape == (NUM_ITEMS + 1, DIM)
    for rows in (torch.tensor(3), torch.tensor([1, 1, 9]), torch.tensor([[[4, 0], [2, 4]]]), torch.zeros(0, 3).long()):
        assert torch.allclose(vectors(rows), table[rows], atol=1e-6)


def test_all_has_evaluation_behaviour_in_training_mode_too(vectors):
    expected = vectors.eval().all()
    assert torch.equal(vectors.train().all(), expected)
    assert torch.equal(vectors.train().all(), expected)


def test_all_in_chunks_is_the_same(vectors, monkeypatch):
    whole = vectors.all().detach()
    monkeypatch.setattr(items_module, "ROWS_AT_A_TIME", 3)
    with torch.no_grad():
        assert torch.allclose(vectors.all(), whole, atol=1e-6)


def test_gradient_reaches_every_parameter_through_all_and_through_rows(vectors):
    for output in (lambda: vectors.all(), lambda: vectors.eval()(torch.arange(NUM_ITEMS + 1))):
        vectors.zero_grad()
        (output() * torch.randn(NUM_ITEMS + 1, DIM)).sum().backward()
        assert [name for name, p in vectors.named_parameters() if not p.grad.abs().sum() > 0] == []


def test_weights_make_the_vectors(vectors, config):
    torch.manual_seed(7)
    other = build_items(config, SourceSizes.of(sources()).blank(), DIM)
    other.load_state_dict(vectors.state_dict())
    assert torch.equal(other.all(), vectors.all())


def test_frozen_embeddings_and_codes_are_saved_but_not_trained():
    vectors = build_items(CONFIGS["mixed_all"], sources(), DIM)
    trained = dict(vectors.named_parameters())
    for name, expected in (("text.embeddings", sources().embeddings), ("codes.codes", sources().codes + 1)):
        assert torch.equal(vectors.state_dict()[name][1:], expected[1:])
        assert name not in trained


def test_codes_pool_the_vectors_of_their_books():
    codes = build_items(CodeItemsConfig(std=1.0), sources(), DIM)
    table = codes.embedding.weight  # book 0: padding and 3 codes, then book 1: padding and 4 codes
    first, second = sources().codes[7].tolist()
    assert torch.allclose(codes.all()[7], table[1 + first] + table[4 + 1 + second])


def test_text_projection_equals_the_layer_by_hand():
    text = build_items(TextItemsConfig(), sources(), DIM)
    by_hand = sources().embeddings @ text.projection[0].weight.T + text.projection[0].bias
    assert torch.allclose(text.all()[1:], by_hand[1:], atol=1e-6)


@pytest.mark.parametrize("combine", ["sum", "concat", "gate"])
def test_mixtures_equal_their_parts_by_hand(combine):
    mixed = build_items(MixedItemsConfig(combine=combine), sources(), DIM)
    parts = [mixed.id.all(), mixed.text.all()]
    joined = torch.cat(parts, dim=1)
    if combine == "sum":
        expected = parts[0] + parts[1]
    elif combine == "concat":
        expected = joined @ mixed.mix.weight.T
    else:
        weights = (joined @ mixed.gate.weight.T + mixed.gate.bias).softmax(1)
        expected = weights[:, :1] * parts[0] + weights[:, 1:] * parts[1]
    assert torch.allclose(mixed.all(), expected, atol=1e-6)


def test_items_without_train_events_get_no_id_part():
    mixed = build_items(MixedItemsConfig(mask_unseen_ids=True), sources(), DIM)
    table, text = mixed.all(), mixed.text.all()
    assert torch.equal(table[[3, 8]], text[[3, 8]])
    assert not (table[[1, 2, 4]] == text[[1, 2, 4]]).any()


def test_id_dropout_drops_whole_id_vectors_at_its_rate_in_training_only():
    mixed = build_items(MixedItemsConfig(id_dropout=0.3), sources(), DIM)
    rows = torch.full((20_000,), 5)
    torch.manual_seed(0)
    is_text = torch.isclose(mixed(rows), mixed.text(rows)).all(dim=1)
    is_both = torch.isclose(mixed(rows[:1]) * 0 + mixed.all()[5], mixed(rows)).all(dim=1)
    assert is_text.float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert is_both.float().mean().item() == pytest.approx(0.7, abs=0.02)
    assert torch.allclose(mixed.eval()(rows[:2]), mixed.all()[rows[:2]])


def test_distinct_rows_rebuild_the_rows():
    rows = torch.tensor([[3, 1, 3], [0, 1, 1]])
    for num_rows in (4, 10, 1000):  # by marking, by marking, by sorting
        distinct, place = distinct_rows(rows, num_rows)
        assert distinct.tolist() == [0, 1, 3]
        assert torch.equal(distinct[place], rows)


def test_rows_off_the_cpu_are_chosen_by_counts_alone():
    rows = torch.zeros(2, 3, dtype=torch.int64, device="meta")
    few, place = distinct_rows(rows, 100)
    assert (few.shape, place.shape) == ((6,), (2, 3))
    every, place = distinct_rows(rows, 4)
    assert (every.shape, place.shape) == ((4,), (2, 3))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: build_items(TextItemsConfig(), ItemSources(num_items=3), 4), "text items need embeddings; encode the"),
        (
            lambda: build_items(
                MixedItemsConfig(mask_unseen_ids=True), ItemSources(num_items=3, embeddings=torch.zeros(4, 2)), 4
            ),
            "mask_unseen_ids needs train_counts; build the sources with ItemSources.from_split",
        ),
        (
            lambda: ItemSources(num_items=3, embeddings=torch.zeros(3, 2)),
            r"embeddings hold 3 rows but the catalog has 3 items \(and padding\); make the embeddings from the same",
        ),
        (
            lambda: build_items(CodeItemsConfig(), ItemSources(num_items=3), 4),
            "code items need codes; index the",
        ),
        (lambda: ItemSources(num_items=3, codebook_sizes=(4,)), "codes and codebook_sizes belong together"),
    ],
)
def test_missing_or_foreign_sources_are_named(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: IdItemsConfig(std=0.0), "std must be positive, got 0.0"),
        (lambda: CodeItemsConfig(std=-1.0), "std must be positive, got -1.0"),
        (
            lambda: MixedItemsConfig(id=None, codes=CodeItemsConfig(), id_dropout=0.5),
            "id_dropout and mask_unseen_ids",
        ),
        (lambda: TextItemsConfig(num_layers=0), "num_layers must be at least 1, got 0"),
        (lambda: MixedItemsConfig(text=None), "mixed items need at least two of id, text and codes"),
        (lambda: MixedItemsConfig(id_dropout=1.0), r"id_dropout must lie in 0..1 \(1 excluded\), got 1.0"),
    ],
)
def test_settings_out_of_range_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_sources_from_a_split_take_arrays_as_stores_hand_them_out():
    from llm_rec.data import leave_one_out
    from llm_rec.data.synthetic import planted_world

    world = planted_world(50, 24, num_clusters=3)
    split = leave_one_out(world.log)
    made = ItemSources.from_split(split, embeddings=world.embeddings.astype(np.float32))
    assert made.num_items == 24
    assert made.embeddings.dtype == torch.float32
    assert torch.equal(made.train_counts, torch.tensor(split.train_counts))
