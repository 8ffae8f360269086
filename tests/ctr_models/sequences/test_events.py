"""Vectors of candidates and events: tables by role, positions, gaps, further fields of items."""

import pytest
import torch
from torch import nn

from ctr_models.batch import HistoryBatch
from ctr_models.embeddings import NormalInit
from ctr_models.schema import Categorical, Schema
from ctr_models.sequences.events import (
    EventsConfig,
    EventSource,
    EventSources,
    EventTables,
    event_layout,
    history_schema,
    places,
)
from tests.ctr_models.sequences.worlds import CATEGORIES, CATEGORY, ITEM, ITEMS, SCHEMA, WITH_USER, batch, history

DIM, ROWS = 4, 7
KINDS = ("shared", "dare", "three", "four", "projection")


def tables(num_tables=1, schema=SCHEMA, sources=None, sparse=False, **settings):
    torch.manual_seed(0)
    config = EventsConfig(max_positions=40, **settings)
    return EventTables(config, schema, DIM, num_tables, init=NormalInit(std=0.5), sparse=sparse, sources=sources)


def read(events, given=None):
    given = given or batch()
    return events.join(given.ids[:, :2], given.history)


def test_the_newest_event_is_at_place_one_and_the_candidate_at_zero():
    assert places(4).tolist() == [4, 3, 2, 1]
    joined = read(tables())
    assert joined.times.tolist() == [[0, *range(12, 0, -1)]]
    assert torch.equal(joined.ids[:, 0], batch().ids)
    assert torch.equal(joined.ids[:, 1:], batch().history.ids)


def test_an_event_appended_moves_every_other_by_one_place():
    events = tables()
    when = events.representation.events.times.weight
    old, _ = events(read(events))
    longer = batch(columns=13)
    new, _ = events(events.join(longer.ids, longer.history))
    torch.testing.assert_close(old.events[0, 0, :, -DIM:], when[places(12)])
    torch.testing.assert_close(new.events[0, 0, :, -DIM:], when[places(13)])


@pytest.mark.parametrize("position", ["concat", "add", "none"])
def test_vectors_are_rows_of_tables_side_by_side(position):
    events = tables(decouple="shared", position=position)
    (table,) = events.representation.events.tables
    given = batch()
    found, attention = events(read(events, given))
    assert attention is None
    for row in range(ROWS):
        for column in range(-1, 12):
            item, category = given.ids[row] if column < 0 else given.history.ids[row, column]
            expected = torch.cat([table.field_weight("item")[0, item], table.field_weight("category")[0, category]])
            place = 0 if column < 0 else 12 - column
            if position == "concat":
                expected = torch.cat([expected, events.representation.events.times.weight[place]])
            elif position == "add":
                expected = expected + events.representation.events.times.weight[place]
            vector = found.target[0, row] if column < 0 else found.events[0, row, column]
            assert torch.equal(vector, expected)


@pytest.mark.parametrize("decouple", KINDS)
def test_vectors_of_padding_are_zero_before_a_position_and_give_no_gradient(decouple):
    events = tables(decouple=decouple, position="none")
    found, attention = events(read(events))
    padded = ~history().mask
    for vectors in (found, attention):
        if vectors is not None:
            assert vectors.events[0][padded].abs().max() == 0
    sums = [vectors.target.sum() + vectors.events.sum() for vectors in (found, attention) if vectors is not None]
    sum(sums).backward()
    for module in events.modules():
        if hasattr(module, "rows"):
            assert module.embedding.weight.grad[[rows.start for rows in module.rows.values()]].abs().max() == 0


EXPECTED = {
    "shared": {"representation.events"},
    "dare": {"representation.events", "attention.events"},
    "three": {"representation.events", "attention.target", "attention.events"},
    "four": {"representation.target", "representation.events", "attention.target", "attention.events"},
    "projection": {"representation.events"},
}


@pytest.mark.parametrize("decouple", KINDS)
def test_each_kind_has_its_tables_and_gradients_reach_those_of_their_role(decouple):
    events = tables(decouple=decouple)
    names = {name.rsplit(".tables", 1)[0] for name, _ in events.named_parameters() if ".tables." in name}
    assert names == EXPECTED[decouple]
    touched = {}
    for role in ("representation", "attention"):
        for side in ("target", "events"):
            found, attention = events(read(events))
            vectors = found if role == "representation" or attention is None else attention
            events.zero_grad()
            getattr(vectors, side).square().sum().backward()
            touched[role, side] = {
                name.rsplit(".tables", 1)[0]
                for name, p in events.named_parameters()
                if ".tables." in name and p.grad is not None and p.grad.abs().max() > 0
            }
    split_attention, split_representation = decouple in ("three", "four"), decouple == "four"
    for (role, side), found_names in touched.items():
        own = role if role == "representation" or decouple in ("dare", "three", "four") else "representation"
        split = split_attention if own == "attention" else split_representation
        assert found_names == {f"{own}.{side if split else 'events'}"}


def test_projections_map_each_part_by_itself():
    events = tables(num_tables=2, decouple="projection", attention_dims=(3,))
    shared = events.representation(read(events))
    found, attention = events(read(events))
    maps = events.projections
    assert attention.events.shape == (2, ROWS, 12, 9)
    for mapped, raw, weight in (
        (found.target, shared.target, maps.target.weight),
        (found.events, shared.events, maps.event.weight),
        (attention.target, shared.target, maps.query.weight),
        (attention.events, shared.events, maps.key.weight),
    ):
        for table in range(2):
            parts = [raw[table][..., 4 * p : 4 * p + 4] @ weight[table, p] for p in range(3)]
            torch.testing.assert_close(mapped[table], torch.cat(parts, -1))


@pytest.mark.parametrize("position", ["concat", "add"])
def test_attention_vectors_have_widths_of_their_own(position):
    dims = (2, None, 3) if position == "concat" else (2, None)
    events = tables(decouple="dare", position=position, attention_dims=dims)
    found, attention = events(read(events))
    assert found.events.shape[-1] == (12 if position == "concat" else 8)
    assert attention.events.shape[-1] == (2 + 4 + 3 if position == "concat" else 6)
    (item, category), given = events.attention.events.tables, batch()
    column = attention.events[0, 0, 5]
    item_id, category_id = given.history.ids[0, 5]
    when = events.attention.events.times.weight[7]
    fields = torch.cat([item.field_weight("item")[0, item_id], category.field_weight("category")[0, category_id]])
    torch.testing.assert_close(column, torch.cat([fields, when]) if position == "concat" else fields + when)


def test_sets_are_columns_of_one_table():
    events = tables(num_tables=3, decouple="dare")
    (table,) = events.representation.events.tables
    given = batch()
    found, attention = events(read(events, given))
    assert found.events.shape == (3, ROWS, 12, 12) == attention.events.shape
    torch.testing.assert_close(found.target[2, :, :4], table.field_weight("item")[2, given.ids[:, 0]])
    torch.testing.assert_close(found.target[1, 0, -4:], events.representation.events.times.weight[0].view(3, 4)[1])


def test_gaps_take_the_place_of_positions_and_large_ones_share_the_last_row():
    torch.manual_seed(0)
    events = EventTables(EventsConfig(decouple="shared", time="gap", max_positions=20), SCHEMA, DIM)
    given = batch()
    joined = read(events, given)
    assert torch.equal(joined.times[:, 1:], given.history.gaps)
    assert joined.times[:, 0].tolist() == [0] * ROWS
    assert given.history.gaps.max() > 19
    found, _ = events(joined)
    when = events.representation.events.times.weight[given.history.gaps.clamp(max=19)]
    torch.testing.assert_close(found.events[0, ..., -DIM:], when)


class Codes(nn.Module):
    """Two further fields of an item; even padding has a vector."""

    def __init__(self, dim, num_tables):
        super().__init__()
        self.num_fields = 2
        self.weight = nn.Parameter(torch.randn(num_tables, ITEMS, 2, dim))

    def look_up(self, ids):
        return self.weight[:, ids]


def test_further_fields_of_items_join_candidates_and_events_between_fields_and_position():
    made = []

    def build(dim):
        made.append(dim)
        return [Codes(dim, 2)]

    assert isinstance(Codes(3, 1), EventSource)
    events = tables(num_tables=2, sources=EventSources(2, build), decouple="dare", attention_dims=(3, 2, 5, 4))
    assert made == [4, 5]  # one source for each table, as wide as its part
    assert events.layout.parts == 5
    assert events.layout.attention_widths == (3, 2, 5, 5, 4)
    given = batch()
    found, attention = events(read(events, given))
    (own,) = events.attention.events.sources
    torch.testing.assert_close(attention.target[1, :, 5:15], own.weight[1, given.ids[:, 0]].flatten(1))
    assert found.events.shape[-1] == 5 * DIM
    padded = ~given.history.mask
    assert found.events[:, padded][..., 8:16].abs().max() == 0
    codes = events.representation.events.sources[0].weight[0, given.history.ids[0, 3, 0]]
    torch.testing.assert_close(found.events[0, 0, 3, 8:16], codes.flatten())


def test_tables_may_have_sparse_gradients():
    events = tables(decouple="dare", sparse=True)
    found, _ = events(read(events))
    found.events.sum().backward()
    gradient = events.representation.events.tables[0].embedding.weight.grad
    assert gradient.is_sparse
    assert gradient.coalesce().values().abs().max() > 0


def test_fields_come_in_the_order_of_the_history():
    assert [field.name for field in history_schema(WITH_USER).fields] == ["item", "category"]
    assert event_layout(EventsConfig(position="none"), 2, 0, 5).parts == 2
    assert event_layout(EventsConfig(attention_dims=(8,)), 2, 1, 5).attention_widths == (8, 8, 8, 8)
    assert (ITEM.size, CATEGORY.size) == (ITEMS, CATEGORIES)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_positions": 1}, "max_positions must be at least 2, got 1"),
        (
            {"decouple": "shared", "attention_dims": (4,)},
            "attention_dims (4,) need attention vectors; decouple is 'shared'",
        ),
        ({"attention_dims": (4, 0)}, "attention_dims must be at least 1, got 0"),
        (
            {"decouple": "projection", "attention_dims": (4, 4, 2)},
            "projections give all parts one width; name one attention dim, not (4, 4, 2)",
        ),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError) as error:
        EventsConfig(**settings)
    assert str(error.value) == message


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"^attention_dims \(4, 2\) must name one dim, or one for each of 3 parts"):
        event_layout(EventsConfig(attention_dims=(4, 2)), 2, 0, 4)
    with pytest.raises(ValueError, match="^the schema names no history fields; a model of sequences needs at least"):
        history_schema(Schema(fields=(Categorical(name="item", size=5),)))
    events, given = tables(time="gap"), batch()
    without = HistoryBatch(given.history.ids)
    with pytest.raises(ValueError, match="^time is 'gap' but the batch has no gaps; take time 'position', or a log"):
        events.join(given.ids, without)

    class Loose:
        num_fields = 1

        def look_up(self, ids):
            return ids

    with pytest.raises(ValueError, match="^a source of events must be a torch module, so that its parameters"):
        tables(sources=EventSources(1, lambda dim: [Loose()]))
