"""The model is the T5 of transformers over the right tokens; padding, batch mates and unknown users change nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from llm_rec.codec import from_plain, to_plain
from llm_rec.errors import ArtifactError, ConfigError
from llm_rec.generative.batches import GenerativeBatch
from llm_rec.generative.model import GenerativeConfig, GenerativeModel, unique_codes
from llm_rec.generative.t5 import T5ShapeConfig
from llm_rec.generative.task import NextCodesTask
from semantic_ids.code_table import CodeTable
from tests.llm_rec.generative.worlds import CONFIGS, HISTORY, SHAPE, USERS, model, table


def whole_t5(built: GenerativeModel) -> T5ForConditionalGeneration:
    """The published class with the weights of `built`, from token ids to a loss by its own code."""
    shape = built.config.shape
    other = T5ForConditionalGeneration(
        T5Config(
            vocab_size=built.vocabulary, d_model=shape.dim, d_kv=shape.head_dim, d_ff=shape.feed_forward_dim,
            num_layers=shape.num_layers, num_decoder_layers=shape.num_decoder_layers, num_heads=shape.num_heads,
            dropout_rate=shape.dropout, feed_forward_proj=shape.feed_forward, decoder_start_token_id=0,
        )
    )  # fmt: skip
    other.shared.load_state_dict(built.network.tokens.state_dict())
    missing = [
        name
        for stack, own in ((other.encoder, built.network.encoder), (other.decoder, built.network.decoder))
        for name in stack.load_state_dict(own.state_dict(), strict=False).missing_keys
    ]
    assert missing == ["embed_tokens.weight"] * 2
    other.tie_weights()
    return other.eval()


@pytest.mark.parametrize("feed_forward", ["relu", "gated-gelu"])
def test_log_probabilities_are_those_of_the_published_class_on_the_same_tokens(feed_forward):
    built = model(GenerativeConfig(shape=replace(SHAPE, feed_forward=feed_forward), num_users=7))
    other, codes = whole_t5(built), built.table.codes
    starts = 1 + np.concatenate([[0], np.cumsum(built.table.codebook_sizes)])
    targets = [11, 12, 13, 14]
    found = built(HISTORY, USERS, torch.tensor(targets))
    for row in (0, 1, 3):
        tokens = [int(starts[-1] + (USERS[row] - 1) % 7)] if USERS[row] else []
        for item in HISTORY[row].tolist():
            if item:
                tokens += (codes[item] + starts[:-1]).tolist()
        labels = torch.from_numpy(codes[targets[row]] + starts[:-1])[None]
        loss = other(input_ids=torch.tensor([tokens]), labels=labels).loss
        assert found[row].mean().item() == pytest.approx(-loss.item(), abs=1e-5)


def test_every_token_of_a_catalog_is_its_own():
    built = model(CONFIGS["tiger"])
    tokens = (built.codes[1:] + built.starts).tolist()
    for book, size in enumerate(built.table.codebook_sizes):
        column = {row[book] for row in tokens}
        assert min(column) >= built.starts[book]
        assert max(column) < built.starts[book] + size
    assert built.user_start == 1 + sum(built.table.codebook_sizes)
    assert built.network.tokens.num_embeddings == built.user_start + 7


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_padding_and_batch_mates_change_nothing(config):
    built, targets = model(config), torch.tensor([11, 12, 13, 14])
    together = built(torch.nn.functional.pad(HISTORY, (0, 3)), USERS, targets)
    for row in range(4):
        length = max(1, int(HISTORY[row].ne(0).sum()))
        alone = built(HISTORY[row : row + 1, :length], USERS[row : row + 1], targets[row : row + 1])
        assert torch.allclose(together[row], alone[0], atol=1e-5)
    assert torch.isfinite(together).all()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_only_the_latest_items_are_read_and_their_order_matters(config):
    built = model(replace(config, max_length=2))
    user, target = torch.tensor([3]), torch.tensor([5])
    first = built(torch.tensor([[9, 1, 2]]), user, target)
    assert torch.equal(first, built(torch.tensor([[7, 8, 1, 2]]), user, target))
    assert not torch.allclose(first, built(torch.tensor([[2, 1]]), user, target))


def test_users_are_told_apart_by_their_token_alone():
    built = model(CONFIGS["tiger"])
    history, target = torch.tensor([[1, 2]]), torch.tensor([5])
    one, same, other, nobody = (built(history, torch.tensor([key]), target) for key in (3, 3 + 7 * 10**9, 4, 0))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)
    assert not torch.allclose(one, nobody)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_probabilities_of_a_step_sum_to_one_over_what_the_head_allows(config):
    built = model(config)
    found = built.next_codes(built.start(built.encode(HISTORY, USERS)), torch.zeros(4, dtype=torch.int64), 0)
    assert torch.allclose(found.exp().sum(1), torch.ones(4), atol=1e-5)
    own = found[:, 1 : 1 + built.table.codebook_sizes[0]].exp().sum(1)
    assert (own > 1 - 1e-5).all() if config.head == "level" else (own < 0.999).all()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_step_by_step_is_all_at_once(config):
    built, items = model(config), torch.tensor([11, 12, 13, 14])
    expected = built(HISTORY, USERS, items)
    decoding, before = built.start(built.encode(HISTORY, USERS)), torch.zeros(4, dtype=torch.int64)
    for book in range(built.num_books):
        found = built.next_codes(decoding, before, book)
        before = built.codes[items, book] + built.starts[book]
        assert torch.allclose(found.gather(1, before[:, None])[:, 0], expected[:, book], atol=1e-5)


def test_temperature_divides_the_logits():
    warm, cold = model(CONFIGS["tiger"]), model(replace(CONFIGS["tiger"], temperature=0.25))
    first = torch.zeros(4, dtype=torch.int64)
    one = warm.next_codes(warm.start(warm.encode(HISTORY, USERS)), first, 0)
    four = cold.next_codes(cold.start(cold.encode(HISTORY, USERS)), first, 0)
    assert torch.allclose((4 * one).log_softmax(1), four, atol=1e-4)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_loss_is_the_mean_over_examples_and_books_and_reaches_every_parameter(config):
    built = model(config).train()
    targets = torch.tensor([11, 12, 13, 14])
    batch = GenerativeBatch(HISTORY, USERS, targets)
    step = NextCodesTask(built).loss(batch)
    step.total.backward()
    assert [n for n, p in built.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert step.weight == 4
    built.eval()
    step = NextCodesTask(built).loss(batch)
    assert step.total.item() == pytest.approx(-built(HISTORY, USERS, targets).mean().item(), abs=1e-6)
    books = [step.parts[f"book_{n}"].item() for n in range(1, built.num_books + 1)]
    assert np.mean(books) == pytest.approx(step.total.item(), abs=1e-6)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_what_is_saved_comes_back_bit_for_bit(config, tmp_path):
    built = model(config)
    built.save_pretrained(tmp_path / "m")
    again = GenerativeModel.from_pretrained(tmp_path / "m")
    assert not again.training
    assert again.table.codebook_sizes == built.table.codebook_sizes
    targets = torch.tensor([11, 12, 13, 14])
    assert torch.equal(again(HISTORY, USERS, targets), built(HISTORY, USERS, targets))
    assert again.trie.items_of(torch.arange(30)).tolist() == built.trie.items_of(torch.arange(30)).tolist()
    assert from_plain(GenerativeConfig, to_plain(config)) == config


def test_damaged_weights_are_named(tmp_path):
    model(CONFIGS["tiger"]).save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ArtifactError, match="model.safetensors: not the weights of this model"):
        GenerativeModel.from_pretrained(tmp_path / "m")


def test_colliding_codes_are_refused_and_a_digit_tells_them_apart():
    shared = CodeTable.from_codes(np.array([[0, 1], [0, 1], [1, 1]]), (2, 2))
    with pytest.raises(ConfigError, match="items with equal codes cannot be told apart by what is generated"):
        GenerativeModel(CONFIGS["tiger"], shared)
    assert unique_codes(shared).codes[1:].tolist() == [[0, 1, 0], [0, 1, 1], [1, 1, 0]]
    assert unique_codes(table()) is not None
    plain = CodeTable.from_codes(np.array([[0, 1], [1, 1]]), (2, 2))
    assert unique_codes(plain) is plain


def test_the_default_shape_is_tigers_and_has_so_many_weights():
    built = GenerativeModel(GenerativeConfig(), CodeTable.from_codes(np.array([[0, 1, 2, 0]]), (256,) * 4))
    assert built.vocabulary == 1 + 4 * 256 + 2000
    without = sum(p.numel() for name, p in built.named_parameters() if "tokens" not in name)
    assert without == 4_459_648


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GenerativeConfig(max_length=0), "max_length must be at least 1, got 0"),
        (lambda: GenerativeConfig(num_users=-1), "num_users must be at least 0, got -1"),
        (lambda: GenerativeConfig(beams=0), "beams must be at least 1, got 0"),
        (lambda: GenerativeConfig(temperature=0.0), "temperature must be positive, got 0.0"),
        (lambda: T5ShapeConfig(num_heads=0), "num_heads must be at least 1, got 0"),
        (lambda: T5ShapeConfig(dropout=1.0), "dropout must lie in 0..1 (1 excluded), got 1.0"),
    ],
)
def test_settings_are_checked(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message
