import numpy as np
import pytest

from llm_rec.ctr.planted_patterns import PlantedPatternsConfig, planted_patterns

CONFIG = PlantedPatternsConfig(users=80, items=30, triples=20, own=3, length=36, noise=0.25, click=1.0)
WORLD = planted_patterns(CONFIG, seed=1)


def clean_items(user: int, before: int) -> list[int]:
    rows = slice(WORLD.events.starts[user], WORLD.events.starts[user] + before)
    items: list[int] = WORLD.events.ids[rows, 0][~WORLD.noise[rows]].tolist()
    return items


def test_without_noise_users_repeat_their_own_triples() -> None:
    known = {tuple(triple) for triple in WORLD.triples.tolist()}
    for user in range(CONFIG.users):
        items = clean_items(user, CONFIG.length)
        triples = {tuple(items[start : start + 3]) for start in range(0, len(items) - 2, 3)}
        assert triples <= known
        assert len(triples) <= CONFIG.own
        assert len({triple[:2] for triple in triples}) == len(triples)


def test_prefixes_have_two_ends() -> None:
    assert (WORLD.triples[::2, :2] == WORLD.triples[1::2, :2]).all()
    assert (WORLD.triples[::2, 2] != WORLD.triples[1::2, 2]).all()


def test_clicks_follow_the_pattern_that_is_being_played() -> None:
    by_prefix: dict[tuple[int, ...], set[int]] = {}
    for triple in WORLD.triples.tolist():
        by_prefix.setdefault(tuple(triple[:2]), set()).add(triple[2])
    twins = familiar = 0
    for user, past, candidate, label in zip(WORLD.users, WORLD.past, WORLD.candidates[:, 0], WORLD.labels, strict=True):
        items = clean_items(int(user), int(past))
        assert len(items) % 3 == 2
        everything = clean_items(int(user), CONFIG.length)
        completed = everything[len(items)] if len(items) < len(everything) else None
        if completed is not None:
            assert (candidate == completed) == (label == 1)
        if label == 0:
            twins += int(candidate) in by_prefix[tuple(items[-2:])]
            familiar += int(candidate) not in by_prefix[tuple(items[-2:])]
    assert min(twins, familiar) > len(WORLD.labels) / 8
    assert 0.4 < WORLD.labels.mean() < 0.6


def test_the_share_of_noise_is_as_asked_and_the_world_reproducible() -> None:
    assert WORLD.noise.mean() == pytest.approx(0.25, abs=0.03)
    again, other = planted_patterns(CONFIG, seed=1), planted_patterns(CONFIG, seed=2)
    assert np.array_equal(again.events.ids, WORLD.events.ids)
    assert np.array_equal(again.labels, WORLD.labels)
    assert not np.array_equal(other.events.ids, WORLD.events.ids)


def test_histories_end_before_the_row() -> None:
    histories = WORLD.histories(50)
    assert histories.shape == (len(WORLD.labels), 50, 2)
    for row in (0, 7, len(WORLD.labels) - 1):
        start, past = WORLD.events.starts[WORLD.users[row]], WORLD.past[row]
        assert np.array_equal(histories[row, 50 - past :], WORLD.events.ids[start : start + past])
        assert not histories[row, : 50 - past].any()


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="triples must be even and at least 2, items at least 6, got 3 and 60"):
        PlantedPatternsConfig(triples=3)
    with pytest.raises(ValueError, match="own must be in 2..30, half the triples, got 31"):
        PlantedPatternsConfig(own=31)
    with pytest.raises(ValueError, match="noise must be in \\[0, 1\\) and click in \\[0.5, 1\\], got 1.0 and 0.9"):
        PlantedPatternsConfig(noise=1.0)
    with pytest.raises(ValueError, match="rows_per_user must be at least 1 and length at least 12, got 6 and 5"):
        PlantedPatternsConfig(length=5)
