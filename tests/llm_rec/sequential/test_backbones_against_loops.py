"""Each backbone against a slow, obvious version of itself."""

import pytest
import torch
import torch.nn.functional as F

from llm_rec.sequential.caser import Caser, CaserConfig
from llm_rec.sequential.gru4rec import GRU4Rec, GRU4RecConfig
from llm_rec.sequential.sasrec import SASRec, SASRecConfig, null_key_mask, pad_sasrec, places_from_end, released_sasrec

DIM, MAX_LENGTH = 8, 7


def batch(*sizes):
    torch.manual_seed(3)
    mask = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
    return torch.randn(len(sizes), max(sizes), DIM).double(), mask


def left_padded_sasrec(model, config, vectors, size):
    """The usual formulation for one user: left padding up to the full length, explicit mask of keys, head by head."""
    width = len(model.position_table)
    x = torch.cat([torch.randn(width - size, DIM).double(), vectors[:size]])
    x = x + model.position_table.flip(0)  # place 0 of the table is the most recent event
    x = model.embedding_norm(x)
    real = torch.arange(width) >= width - size
    allowed = torch.tril(torch.ones(width, width, dtype=torch.bool)) & real[None, :]
    for block in model.blocks:
        x = naive_block(block, config, x, allowed)
    return model.final_norm(x)[width - size :]


def naive_block(block, config, x, allowed):
    def attend(queries, y):
        q, _, _ = (queries @ block.qkv.weight.T + block.qkv.bias).split(DIM, dim=1)
        _, k, v = (y @ block.qkv.weight.T + block.qkv.bias).split(DIM, dim=1)
        heads = []
        for q_h, k_h, v_h in zip(*(part.chunk(config.num_heads, dim=1) for part in (q, k, v)), strict=True):
            scores = (q_h @ k_h.T) / q_h.shape[1] ** 0.5
            scores = scores.masked_fill(~allowed, -1e9)
            heads.append(scores.softmax(dim=1) @ v_h)
        return block.out(torch.cat(heads, dim=1))

    def feed(y):
        act = F.relu if config.activation == "relu" else F.gelu
        return block.ffn[3](act(block.ffn[0](y)))

    if config.norm == "pre":
        normed = block.attention_norm(x)
        x = x + attend(normed, normed)
        return x + feed(block.ffn_norm(x))
    if config.norm == "query":
        normed = block.attention_norm(x)
        normed = block.ffn_norm(normed + attend(normed, x))
        return normed + feed(normed)
    x = block.attention_norm(x + attend(x, x))
    return block.ffn_norm(x + feed(x))


def randomised(model):
    """Biases and norms away from their starts of zero and one, where mistakes would not show."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.5 * torch.randn_like(parameter)
    return model


def unmasked_sasrec(model, config, vectors, size, *, reset):
    """One user without any mask of keys: left padding to the full window, zeros there, causal attention.

    `reset`: padded states are zeros again before every block; else before the first alone.
    """
    width = len(model.position_table)
    real = (torch.arange(width) >= width - size)[:, None]
    x = torch.cat([torch.zeros(width - size, DIM).double(), vectors[:size]])
    x = (x + model.position_table.flip(0)) * real
    allowed = torch.tril(torch.ones(width, width, dtype=torch.bool))
    for block in model.blocks:
        x = naive_block(block, config, x * real if reset else x, allowed)
    return model.final_norm(x)[width - size :]


@pytest.mark.parametrize("norm", ["post", "query"])
@pytest.mark.parametrize(("layers", "reset"), [(1, False), (1, True), (3, True)])
def test_null_key_equals_left_padding_with_zeros_and_no_mask_of_keys(norm, layers, reset):
    torch.manual_seed(0)
    config = SASRecConfig(norm=norm, num_layers=layers, null_key=True)
    model = randomised(SASRec(config, DIM, MAX_LENGTH)).double().eval()
    sizes = (7, 3, 1)  # the first row is full: it has no null key
    vectors, mask = batch(*sizes)
    vectors.requires_grad_()
    states = model(vectors, mask)
    for row, size in enumerate(sizes):
        naive = unmasked_sasrec(model, config, vectors[row], size, reset=reset)
        torch.testing.assert_close(states[row, :size], naive, atol=1e-10, rtol=0)
        inputs = [vectors, *model.parameters()]
        ours = torch.autograd.grad(states[row, :size].pow(2).sum(), inputs, retain_graph=True)
        theirs = torch.autograd.grad(naive.pow(2).sum(), inputs)
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)


def test_null_key_of_stacked_layers_differs_from_padded_states_that_are_never_reset():
    torch.manual_seed(0)
    config = SASRecConfig(norm="query", num_layers=2, null_key=True)
    model = randomised(SASRec(config, DIM, MAX_LENGTH)).double().eval()
    vectors, mask = batch(7, 3)
    states = model(vectors, mask)
    torch.testing.assert_close(states[0], unmasked_sasrec(model, config, vectors[0], 7, reset=False))
    assert not torch.allclose(states[1, :3], unmasked_sasrec(model, config, vectors[1], 3, reset=False), atol=1e-3)


@pytest.mark.parametrize("norm", ["pre", "post", "query"])
@pytest.mark.parametrize("sizes", [(7, 3, 0), (7, 7), (7,), (0, 1)])
def test_null_key_keeps_values_and_gradients_finite_for_full_and_empty_histories(norm, sizes):
    torch.manual_seed(0)
    model = randomised(SASRec(SASRecConfig(norm=norm, null_key=True), DIM, MAX_LENGTH)).train()
    vectors, mask = batch(*sizes)
    vectors = vectors.float().requires_grad_()
    states = model(vectors, mask)
    states.pow(2).sum().backward()
    assert states.isfinite().all()
    assert vectors.grad.isfinite().all()
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.isfinite().all()] == []


SETTINGS = [
    SASRecConfig(),
    SASRecConfig(activation="gelu", norm="post"),
    SASRecConfig(norm="query", ffn_multiplier=1),
    SASRecConfig(norm="query", num_heads=1, final_norm=False),
    pad_sasrec(),
]


@pytest.mark.parametrize("config", SETTINGS)
def test_right_padded_sasrec_equals_the_usual_left_padded_one(config):
    torch.manual_seed(0)
    model = randomised(SASRec(config, DIM, MAX_LENGTH)).double().eval()
    sizes = (7, 3, 1)
    vectors, mask = batch(*sizes)
    vectors.requires_grad_()
    states = model(vectors, mask)
    for row, size in enumerate(sizes):
        naive = left_padded_sasrec(model, config, vectors[row], size)
        assert torch.allclose(states[row, :size], naive, atol=1e-10)
        ours = torch.autograd.grad(states[row, :size].pow(2).sum(), vectors, retain_graph=True)[0]
        theirs = torch.autograd.grad(naive.pow(2).sum(), vectors)[0]
        assert torch.allclose(ours, theirs, atol=1e-9)


def test_places_count_back_from_the_last_real_event():
    mask = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    assert places_from_end(mask).tolist() == [[2, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_positions_from_start_ignore_what_follows():
    torch.manual_seed(0)
    model = SASRec(SASRecConfig(positions="from_start"), DIM, MAX_LENGTH).double().eval()
    vectors, mask = batch(6)
    assert torch.allclose(model(vectors, mask)[:, :4], model(vectors[:, :4], mask[:, :4]))


def test_sasrec_refuses_a_history_longer_than_its_positions():
    model = SASRec(SASRecConfig(), DIM, MAX_LENGTH)
    vectors, mask = batch(8)
    with pytest.raises(ValueError, match="history of length 8, but this backbone was built for 7"):
        model(vectors.float(), mask)


def test_pad_setting_is_the_released_encoder():
    model = SASRec(pad_sasrec(), 128, 20)
    assert len(model.blocks) == 5
    assert all(block.norm == "post" and block.num_heads == 2 for block in model.blocks)
    assert model.blocks[0].ffn[0].out_features == 512
    assert isinstance(model.blocks[0].ffn[1], torch.nn.ReLU)
    assert model.dropout.p == 0.1
    assert isinstance(model.embedding_norm, torch.nn.LayerNorm)
    assert isinstance(model.final_norm, torch.nn.Identity)


def test_released_setting_is_the_block_with_unmasked_padding():
    config = released_sasrec(num_layers=2, dropout=0.5)
    assert (config.norm, config.null_key, config.num_heads, config.ffn_multiplier) == ("query", True, 1, 1)
    assert (config.num_layers, config.dropout) == (2, 0.5)


def test_null_key_mask_counts_the_paddings_of_the_window():
    mask = torch.tensor([[True, True], [True, False]])
    bias = null_key_mask(mask, 2, torch.float64)
    inf = torch.inf
    assert bias[0, 0].tolist() == [[-inf, 0, -inf], [-inf, 0, 0]]
    assert bias[1, 0].tolist() == [[0, 0, -inf], [0, 0, 0]]
    assert torch.allclose(null_key_mask(mask, 5, torch.float64)[:, 0, 0, 0].exp(), torch.tensor([3.0, 4.0]).double())


def test_caser_equals_its_convolutions_unfolded_window_by_window():
    torch.manual_seed(0)
    config = CaserConfig(window=3, num_horizontal=4, num_vertical=2)
    model = Caser(config, DIM).double().eval()
    vectors, mask = batch(6, 2)
    states = model(vectors, mask)
    padded = torch.cat([torch.zeros(2, 2, DIM).double(), vectors], dim=1)
    for row, size in enumerate((6, 2)):
        for t in range(size):
            window = padded[row, t : t + 3]
            features = []
            for height, conv in enumerate(model.horizontal, start=1):
                for weight, bias in zip(conv.weight, conv.bias, strict=True):
                    slides = [(window[i : i + height] * weight.T).sum() + bias for i in range(3 - height + 1)]
                    features.append(torch.stack(slides).relu().max())
            columns = [
                (window * w[0][:, None]).sum(0) + b
                for w, b in zip(model.vertical.weight, model.vertical.bias, strict=True)
            ]
            vertical = torch.stack(columns, dim=1).flatten()  # dim-major, filters inside
            features = torch.cat([torch.stack(features), vertical])
            naive = model.out(model.hidden(features).relu())
            assert torch.allclose(states[row, t], naive, atol=1e-10)


def test_gru4rec_equals_its_cell_run_step_by_step():
    torch.manual_seed(0)
    model = GRU4Rec(GRU4RecConfig(hidden=5), DIM).double().eval()
    vectors, mask = batch(4)
    gru, hidden = model.gru, torch.zeros(5).double()
    for t in range(4):
        from_input = (gru.weight_ih_l0 @ vectors[0, t] + gru.bias_ih_l0).chunk(3)
        from_state = (gru.weight_hh_l0 @ hidden + gru.bias_hh_l0).chunk(3)
        reset, update = (torch.sigmoid(from_input[i] + from_state[i]) for i in (0, 1))
        candidate = torch.tanh(from_input[2] + reset * from_state[2])
        hidden = (1 - update) * candidate + update * hidden
        assert torch.allclose(model(vectors, mask)[0, t], model.out(hidden), atol=1e-10)
