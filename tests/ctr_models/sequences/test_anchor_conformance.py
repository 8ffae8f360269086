"""What every encoder of past events promises."""

import pytest
import torch
from safetensors.torch import load, save

from ctr_models.sequences.bst import BST, BSTConfig
from ctr_models.sequences.dien import DIEN, DIENConfig
from ctr_models.sequences.eta import ETA, ETAConfig
from ctr_models.sequences.hstu import HSTU, HSTUConfig
from ctr_models.sequences.multi_head import MultiHeadConfig
from ctr_models.sequences.protocols import SequenceEncoder
from ctr_models.sequences.sdim import SDIM, SDIMConfig
from ctr_models.sequences.sim import SIM, HardSearchConfig, SIMConfig, SoftSearchConfig
from ctr_models.sequences.twin import TWIN, TWINConfig
from ctr_models.sequences.twin_v2 import TWINV2, TWINV2Config
from tests.ctr_models.sequences.histories import LENGTHS, TABLES, WIDTH, build, one_number, padded, rows, sequence

HEADS = MultiHeadConfig(num_heads=2, attention_dim=6)
ALL = MultiHeadConfig(num_heads=3, attention_dim=6, short_length=2, target_product=True)
OWN = SoftSearchConfig(embeddings="tables", pooling="sum")
CASES = {
    "sim_hard": (SIM, SIMConfig(search=HardSearchConfig(), top_k=2, attention=HEADS)),
    "sim_soft": (SIM, SIMConfig(search=SoftSearchConfig(search_dim=5), top_k=3, attention=ALL)),
    "sim_own_tables": (SIM, SIMConfig(search=OWN, top_k=3, attention=HEADS)),
    "eta": (ETA, ETAConfig(bits=24, top_k=3, attention=HEADS)),
    "eta_items": (ETA, ETAConfig(bits=40, top_k=3, hash_parts=2, attention=ALL)),
    "sdim": (SDIM, SDIMConfig(bits=12, group_size=2)),
    "sdim_unit": (SDIM, SDIMConfig(bits=40, group_size=1, pooling="unit", hash_parts=1, target_product=True)),
    "twin": (TWIN, TWINConfig(top_k=3, attention=HEADS)),
    "twin_all": (TWIN, TWINConfig(top_k=20, cross_parts=0, attention=ALL)),
    "twin_v2": (TWINV2, TWINV2Config(num_levels=2, max_size=2, twin=TWINConfig(top_k=3, attention=HEADS))),
    "twin_v2_plain": (
        TWINV2,
        TWINV2Config(num_levels=1, size_aware=False, twin=TWINConfig(cross_parts=0, attention=ALL)),
    ),
    "dien": (DIEN, DIENConfig()),
    "dien_no_loss": (DIEN, DIENConfig(next_event_weight=0.0)),
    "bst": (BST, BSTConfig(num_heads=2, attention_dim=6, hidden_dim=5)),
    "bst_mean": (BST, BSTConfig(num_layers=2, num_heads=3, attention_dim=6, hidden_dim=5, pooling="mean")),
    "hstu": (HSTU, HSTUConfig(query_dim=3, value_dim=4, max_length=7)),
    "hstu_one": (HSTU, HSTUConfig(num_layers=1, num_heads=3, query_dim=2, value_dim=3, max_length=9)),
}
EMPTY = LENGTHS.index(0)


@pytest.fixture(params=CASES, name="case")
def fixture_case(request):
    return CASES[request.param]


def world(case, **options):
    """Attention tables for the encoder that asks for them, none for the others."""
    own = isinstance(case[1], SIMConfig) and case[1].search == OWN
    return sequence(attention_width=5 if own else None, **options)


def assert_equal_outputs(found, expected):
    torch.testing.assert_close(found.vectors, expected.vectors)
    for one, other in zip(found[1:], expected[1:], strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other)


def test_result_has_the_promised_shape(case):
    module, given = build(*case), world(case)
    assert isinstance(module, SequenceEncoder)
    output = module.train()(given)
    assert output.vectors.shape == (TABLES, len(LENGTHS), module.num_outputs, WIDTH)
    auxiliary = 0 if output.auxiliary is None else output.auxiliary.shape[2]
    assert auxiliary == module.num_auxiliary


def test_losses_and_auxiliary_vectors_are_for_training_alone(case):
    module, given = build(*case), world(case)
    training, evaluation = module.train()(given), module.eval()(given)
    assert evaluation.auxiliary is None
    assert evaluation.loss is None
    torch.testing.assert_close(training.vectors, evaluation.vectors)


def test_a_row_without_events_gives_zero_and_finite_gradients(case):
    module, given = build(*case).train(), world(case, gradient=True)
    output = module(given)
    assert torch.count_nonzero(output.vectors[:, EMPTY]) == 0
    assert all((output.vectors[:, row] != 0).any() for row in range(len(LENGTHS)) if row != EMPTY)
    one_number(output).backward()
    assert torch.isfinite(given.events.grad).all()
    assert torch.count_nonzero(given.events.grad[:, EMPTY]) == 0


def test_a_batch_of_empty_histories_is_finite(case):
    module, given = build(*case).train(), rows(world(case, gradient=True), [EMPTY, EMPTY])
    output = module(given)
    assert torch.count_nonzero(output.vectors) == 0
    one_number(output).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("columns", [1, 13])
def test_more_padding_changes_nothing(case, columns):
    module, given = build(*case).train(), world(case)
    assert_equal_outputs(module(padded(given, columns)), module(given))


def test_less_padding_changes_nothing_down_to_no_column(case):
    module, given = build(*case).train(), rows(world(case), [2, 3])
    assert_equal_outputs(module(padded(given, -4)), module(given))
    empty = rows(world(case), [EMPTY])
    assert_equal_outputs(module(padded(empty, -7)), module(empty))


def test_what_padding_holds_is_never_read(case):
    module, given = build(*case).train(), world(case)
    loud = padded(given, 3, noise=1e4)
    assert_equal_outputs(module(loud), module(given))
    loud.events.requires_grad_()
    one_number(module(loud)).backward()
    assert torch.count_nonzero(loud.events.grad * ~loud.mask.unsqueeze(-1)) == 0


def test_batched_sets_equal_a_loop_over_sets(case):
    module, given = build(*case).train(), world(case)
    together, state = module(given), module.state_dict()
    losses = []
    for table in range(TABLES):
        single = build(*case, tables=1).train()
        single.load_state_dict({name: value.chunk(TABLES)[table] for name, value in state.items()})
        part = slice(table, table + 1)
        attention = (given.attention_target, given.attention_events)
        own = [None if vectors is None else vectors[part] for vectors in attention]
        ids = (given.target_ids, given.event_ids)
        alone = single(type(given)(given.target[part], given.events[part], given.mask, *ids, *own))
        torch.testing.assert_close(alone.vectors[0], together.vectors[table])
        if together.auxiliary is not None:
            torch.testing.assert_close(alone.auxiliary[0], together.auxiliary[table])
        losses.append(alone.loss)
    if together.loss is not None:
        torch.testing.assert_close(sum(losses), together.loss)


def test_rows_do_not_touch_and_a_batch_of_one_works(case):
    module, given = build(*case).eval(), world(case)
    for row in range(len(LENGTHS)):
        torch.testing.assert_close(module(rows(given, [row])).vectors, module(given).vectors[:, row : row + 1])


def test_gradient_reaches_every_parameter_and_every_event_a_table(case):
    module, given = build(*case).train(), world(case, gradient=True)
    one_number(module(given)).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert (parameter.grad.flatten(1) != 0).any(1).all(), name
    assert (given.events.grad != 0).any(2).any(2)[:, [0, 2, 3, 4]].all()


def test_saved_and_loaded_is_bit_equal(case):
    module, given = build(*case).eval(), world(case)
    again = build(*case).eval()
    with torch.no_grad():
        for tensor in [*again.parameters(), *again.buffers()]:
            tensor.zero_()
    again.load_state_dict(load(save(module.state_dict())))
    assert torch.equal(again(given).vectors, module(given).vectors)


def test_bfloat16_is_finite_close_and_keeps_its_type(case):
    module, given = build(*case).bfloat16().train(), world(case, dtype=torch.bfloat16)
    rounded = module(given)
    assert rounded.vectors.dtype == torch.bfloat16
    assert all(part is None or torch.isfinite(part).all() for part in rounded)
    exact = module.float()(mapped(given, torch.Tensor.float))
    assert (rounded.vectors.float() - exact.vectors).norm() < 0.1 * exact.vectors.norm()


def test_autocast_is_close_and_trains(case):
    module, given = build(*case).float().train(), world(case, dtype=torch.float32, gradient=True)
    exact = module(given).vectors
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = module(given)
    errors = (rounded.vectors.float() - exact).flatten(2).norm(dim=2)
    assert errors.median() < 0.05 * exact.flatten(2).norm(dim=2).mean()  # a rounded search may find another event
    one_number(rounded).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in module.parameters())


BOUNDED = [name for name, case in CASES.items() if not (case[0] is SIM and case[1].search == OWN)]  # not a plain sum


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", BOUNDED, indirect=True)
def test_large_vectors_do_not_overflow_the_mask(case, dtype):
    module, given = build(*case).to(dtype).eval(), world(case, dtype=dtype)
    output = module(mapped(given, lambda vectors: 30 * vectors))
    assert torch.isfinite(output.vectors).all()
    assert torch.count_nonzero(output.vectors[:, EMPTY]) == 0


def fields_of(given):
    return [getattr(given, name) for name in type(given).__dataclass_fields__]


def mapped(given, change):
    """The batch with `change` applied to its vectors."""
    parts = fields_of(given)
    return type(given)(*(change(part) if part is not None and part.is_floating_point() else part for part in parts))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "eta" else [pytest.mark.slow]) for name in CASES]
)
def test_exported_graph_takes_any_batch(name):
    case = CASES[name]
    module, given = build(*case).eval(), world(case)

    class Flat(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = module

        def forward(self, *parts):
            return self.encoder(type(given)(*parts)).vectors

    parts = [part for part in fields_of(given) if part is not None]
    batch = torch.export.Dim("batch", min=2, max=1 << 16)
    axes = tuple({0: batch} if part.dtype in (torch.bool, torch.int64) else {1: batch} for part in parts)
    graph = torch.export.export(Flat(), tuple(parts), dynamic_shapes=(axes,))
    few = [part[:3] if part.dtype in (torch.bool, torch.int64) else part[:, :3] for part in parts]
    torch.testing.assert_close(graph.module()(*few), Flat()(*few))
