"""Amazon reviews of each release, on small raw files."""

import gzip
import json
from collections import Counter

import numpy as np
import pytest

from llm_rec.cli import main
from llm_rec.data import Catalog, Interactions
from llm_rec.data.sources import AmazonConfig, load_source
from llm_rec.data.sources.amazon import RELEASES
from llm_rec.errors import DataError

DAY = 86_400


def review(release, user, item, day, rating=5.0):
    names = RELEASES[release]
    time = day * DAY * names.per_second + (day if release == "2023" else 0)
    return {
        names.user: user,
        names.item: item,
        names.rating: rating,
        names.time: time,
        "reviewText": "fine & 'dandy'",
        **({"asin": item + "-red"} if release == "2023" else {}),
    }


def metadata(release, item):
    title = f'Soap {item} & "co" \'s'
    match release:
        case "2014":
            return {"asin": item, "title": title, "brand": "Acme", "categories": [["Beauty", "Bath"], ["Home"]]}
        case "2018":
            description = ["<b>Mild</b> &amp; cheap", "<style>.a {color: red;}</style>"]
            category = ["Beauty", "Bath"]
            extra = {"feature": ["soft", "round"], "description": description, "also_buy": ["x"]}
            return {
                "asin": item,
                "title": f"<span>{title}</span>",
                "brand": "by\n  Acme",
                "category": category,
                **extra,
            }
        case _:
            extra = {"features": ["soft", "round"], "description": ["Mild & cheap"], "details": {"a": "b"}}
            return {"parent_asin": item, "title": title, "store": "Acme", "categories": ["Beauty", "Bath"], **extra}


def write(path, records, literals=False):
    lines = "\n".join(repr(record) if literals else json.dumps(record) for record in records)
    path.write_bytes(gzip.compress((lines + "\n").encode()))


def write_release(folder, release, events, items, **more):
    config = AmazonConfig(release=release, reviews=folder / "reviews.gz", metadata=folder / "meta.gz", **more)
    write(config.reviews, [review(release, *event) for event in events])
    write(config.metadata, [metadata(release, item) for item in items], literals=release == "2014")
    return config


def random_events(number=400, seed=0):
    rng = np.random.default_rng(seed)
    users, items = rng.zipf(1.4, number) % 40, rng.zipf(1.3, number) % 30
    days, ratings = rng.integers(1, 50, number), rng.integers(1, 6, number)
    rows = zip(users, items, days, ratings, strict=True)
    return [(f"u{user}", f"B{item:03d}", int(day), float(rating)) for user, item, day, rating in rows]


def expected_events(events, core):
    """By loops: the earliest review of a pair, then users and items with enough of them, to a fixed point."""
    kept, pairs = [], set()
    for event in sorted(events, key=lambda event: event[2]):
        if event[:2] not in pairs:
            pairs.add(event[:2])
            kept.append(event)
    while True:
        users, items = Counter(event[0] for event in kept), Counter(event[1] for event in kept)
        still = [event for event in kept if users[event[0]] >= core and items[event[1]] >= core]
        if len(still) == len(kept):
            return kept
        kept = still


@pytest.mark.parametrize("release", ["2014", "2018", "2023"])
def test_the_log_is_the_core_of_the_earliest_reviews_in_time_order(tmp_path, release):
    events = random_events()
    config = write_release(tmp_path, release, events, [f"B{item:03d}" for item in range(30)], core=4)
    catalog, log = load_source(config)
    expected = expected_events(events, 4)
    assert len(expected) > 50
    assert log.num_events == len(expected) < len({event[:2] for event in events})
    assert set(log.user_ids) == {event[0] for event in expected}
    for user, name in enumerate(log.user_ids):
        own = [event for event in expected if event[0] == name]
        assert [catalog.item_ids[row - 1] for row in log.history(user)] == [event[1] for event in own]
        times = log.times[log.offsets[user] : log.offsets[user + 1]]
        assert times.tolist() == [event[2] * DAY for event in own]
    first_named = list(dict.fromkeys(event[1] for event in events))
    assert list(catalog.item_ids) == [item for item in first_named if item in {event[1] for event in expected}]
    assert log.catalog == catalog.fingerprint
    log.validate()


@pytest.mark.parametrize("release", ["2014", "2018", "2023"])
def test_texts_are_clean_and_of_the_asked_for_columns(tmp_path, release):
    events = [("u", "B1", 1), ("v", "B2", 2)]
    config = write_release(tmp_path, release, events, ["B2", "B1", "B9"], core=0)
    catalog, log = load_source(config)
    assert catalog.texts[0] == 'Soap B1 & "co" \'s. Acme. Beauty > Bath'
    assert catalog.columns["category"] == ("Beauty > Bath", "Beauty > Bath")
    assert (catalog.item_ids, log.num_events) == (("B1", "B2"), 2)
    if release != "2014":
        text = "{brand}: {features}; {description}"
        wide = AmazonConfig(release=release, reviews=config.reviews, metadata=config.metadata, text=text, core=0)
        assert load_source(wide)[0].texts[0] == "Acme: soft round; Mild & cheap"


def test_titles_that_are_code_are_empty_and_the_first_line_of_an_item_counts(tmp_path):
    config = write_release(
        tmp_path, "2018", [("u", item, 1) for item in ("B1", "B2", "B3", "B4")], [], core=0, text="title"
    )
    code = "<script>var aPageStart = (new Date()).getTime();</script> Amazon.com"
    lines = [
        {"asin": "B1", "title": code},
        {"asin": "B2", "title": ".a-section {margin-bottom: 0;} .b {color: red;}"},
        {"asin": "B3", "title": "Soap: mild; cheap"},
        {"asin": "B3", "title": "Other"},
    ]
    write(config.metadata, lines)
    catalog, _ = load_source(config)
    assert catalog.texts == ("", "", "Soap: mild; cheap", "")
    assert catalog.empty_text_rows.tolist() == [1, 2, 4]


def test_ratings_and_repeated_pairs(tmp_path):
    events = [("u", "B1", 3, 2.0), ("u", "B1", 5, 5.0), ("u", "B1", 4, 4.0), ("u", "B2", 1, 4.0)]
    write_release(tmp_path, "2018", events, ["B1", "B2"])
    files = {"release": "2018", "reviews": tmp_path / "reviews.gz", "metadata": tmp_path / "meta.gz", "core": 0}
    _, kept = load_source(AmazonConfig(**files, duplicates="keep"))
    assert kept.times.tolist() == [1 * DAY, 3 * DAY, 4 * DAY, 5 * DAY]
    _, first = load_source(AmazonConfig(**files))
    assert first.times.tolist() == [1 * DAY, 3 * DAY]
    assert first.dropped.duplicate == 2
    _, liked = load_source(AmazonConfig(**files, min_rating=4.0))
    assert liked.times.tolist() == [1 * DAY, 4 * DAY]
    with pytest.raises(DataError, match="no review is left; give the file of a category, or a lower min_rating"):
        load_source(AmazonConfig(**files, min_rating=6.0))
    with pytest.raises(ValueError, match="core must not be negative, got -1"):
        AmazonConfig(**{**files, "core": -1})


def test_reviews_of_one_day_keep_the_order_of_the_file_and_milliseconds_count(tmp_path):
    days = [("u", "B3", 2), ("u", "B1", 2), ("u", "B2", 2)]
    catalog, log = load_source(write_release(tmp_path, "2014", days, ["B1"], core=0))
    assert [catalog.item_ids[row - 1] for row in log.history(0)] == ["B3", "B1", "B2"]
    config = write_release(tmp_path, "2023", days, ["B1"], core=0)
    write(config.reviews, [{**review("2023", *event), "timestamp": 1000 - place} for place, event in enumerate(days)])
    catalog, log = load_source(config)
    assert [catalog.item_ids[row - 1] for row in log.history(0)] == ["B2", "B1", "B3"]
    assert log.times.tolist() == [0, 0, 1]


def test_files_of_another_release_or_category_are_named(tmp_path):
    config = write_release(tmp_path, "2018", [("u", "B1", 1)], ["B1"], core=0)
    wrong = AmazonConfig(release="2023", reviews=config.reviews, metadata=config.metadata, core=0)
    with pytest.raises(
        DataError, match=r"reviews.gz: line 1: no 'user_id' \(there are asin, overall, reviewText, reviewer"
    ):
        load_source(wrong)
    write(config.metadata, [metadata("2018", "B7")])
    with pytest.raises(DataError, match=r"meta.gz: none of the 1 reviewed items is here; is it the same category\?"):
        load_source(config)
    config.metadata.unlink()
    with pytest.raises(DataError, match="meta.gz: no such file"):
        load_source(config)
    config.reviews.write_bytes(config.reviews.read_bytes()[:-12])
    with pytest.raises(DataError, match="reviews.gz: ends in the middle, after line"):
        load_source(config)
    write(config.reviews, [{**review("2018", "u", "B1", 1), "unixReviewTime": "May"}])
    with pytest.raises(DataError, match="reviews.gz: line 1: 'unixReviewTime' is 'May', but must be a number"):
        load_source(config)


def test_the_command_line_makes_a_workspace_of_it(tmp_path, capsys):
    config = write_release(tmp_path, "2014", random_events(), [f"B{item:03d}" for item in range(30)])
    files = ("--source.reviews", str(config.reviews), "--source.metadata", str(config.metadata))
    main(["data", "--workspace", str(tmp_path / "ws"), "--preset", "amazon2014", *files, "--source.core", "4"])
    catalog = Catalog.load(tmp_path / "ws" / "catalog")
    log = Interactions.load(tmp_path / "ws" / "interactions", catalog)
    assert log.num_events == len(expected_events(random_events(), 4))
    assert "users" in capsys.readouterr().out
