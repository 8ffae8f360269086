"""MIND on small files in its format, against a plain reading of the same lines."""

from datetime import UTC, datetime

import numpy as np
import pytest

from llm_rec.cli import main
from llm_rec.data import Catalog
from llm_rec.data.sources import MINDConfig, load_source
from llm_rec.errors import DataError

START = int(datetime(2019, 11, 9, tzinfo=UTC).timestamp())


def write_part(folder, news, rows):
    """`rows`: (user, seconds, earlier clicks, [(item, clicked)])."""
    folder.mkdir(exist_ok=True)
    lines = [
        f'{name}\tsports\tsoccer\tTitle "of {name}\tIt\'s about {name}, "quoted"\thttps://x\t[]\t[{{"Label": "a"}}]'
        for name in news
    ]
    (folder / "news.tsv").write_text("\n".join(lines) + "\n")
    lines = []
    for number, (user, seconds, earlier, shown) in enumerate(rows, start=1):
        at = datetime.fromtimestamp(START + seconds, tz=UTC)
        clock = f"{at.month}/{at.day}/{at.year} {at.hour % 12 or 12}:{at:%M:%S} {'AM' if at.hour < 12 else 'PM'}"
        words = " ".join(f"{item}-{clicked}" for item, clicked in shown)
        lines.append(f"{number}\t{user}\t{clock}\t{' '.join(earlier)}\t{words}")
    (folder / "behaviors.tsv").write_text("\n".join(lines) + "\n")


def random_rows(rng, users, number, start):
    """Impressions in no order; the earlier clicks of a user differ between them, which tells which count."""
    rows = []
    for seconds in rng.permutation(number) * 977 + start:
        earlier = [f"N{item}" for item in rng.integers(0, 12, rng.integers(0, 4))]
        shown = [(f"N{item}", int(rng.random() < 0.4)) for item in rng.permutation(12)[: rng.integers(1, 6)]]
        rows.append((f"U{rng.integers(users)}", int(seconds), earlier, shown))
    return rows


def expected(rows, *, history, once):
    """Item ids of each user by loops over the rows in time order."""
    found, seen = {}, {}
    for user, _, earlier, shown in sorted(rows, key=lambda row: row[1]):
        if user not in seen:
            seen[user] = True
            found[user] = list(earlier) if history else []
        found[user] += [item for item, clicked in shown if clicked]
    if once:
        found = {user: list(dict.fromkeys(items)) for user, items in found.items()}
    return {user: items for user, items in found.items() if items}


def two_parts(tmp_path):
    rng = np.random.default_rng(0)
    train, dev = random_rows(rng, 8, 60, 0), random_rows(rng, 11, 30, 200_000)
    write_part(tmp_path / "train", [f"N{item}" for item in range(10)], train)
    write_part(tmp_path / "dev", [f"N{item}" for item in range(5, 14)], dev)
    return (tmp_path / "train", tmp_path / "dev"), train + dev


@pytest.mark.parametrize("history", [True, False])
@pytest.mark.parametrize("duplicates", ["first", "keep"])
def test_the_log_is_what_a_plain_reading_gives(tmp_path, monkeypatch, history, duplicates):
    paths, rows = two_parts(tmp_path)
    monkeypatch.setattr("llm_rec.data.sources.mind._BLOCK", 700)  # several batches a file
    catalog, log = load_source(MINDConfig(paths=paths, history=history, duplicates=duplicates))
    wanted = expected(rows, history=history, once=duplicates == "first")
    found = {
        name: [catalog.item_ids[row - 1] for row in log.history(user).tolist()]
        for user, name in enumerate(log.user_ids)
    }
    assert found == wanted
    assert (log.times is None) is history


def test_times_are_those_of_the_impressions(tmp_path):
    shown = [("N1", 1), ("N2", 0), ("N3", 1)]
    write_part(tmp_path, ["N1", "N2", "N3"], [("U1", 12 * 3600 + 5, ["N2"], shown), ("U2", 30, [], [("N2", 1)])])
    _, log = load_source(MINDConfig(paths=(tmp_path,), history=False))
    assert log.times.tolist() == [START + 12 * 3600 + 5] * 2 + [START + 30]


def test_the_catalog_has_all_news_once_with_quotes_as_they_are(tmp_path):
    paths, _ = two_parts(tmp_path)
    catalog, _ = load_source(MINDConfig(paths=paths))
    assert catalog.item_ids == tuple(f"N{item}" for item in range(14))
    assert catalog.texts[3] == 'Title "of N3. It\'s about N3, "quoted"'
    assert catalog.columns["subcategory"][0] == "soccer"


def test_what_is_missing_or_of_another_form_is_named(tmp_path):
    part = tmp_path / "part"
    write_part(part, ["N1"], [("U1", 5, [], [("N1", 1)]), ("U1", 6, [], [("N1", 0)])])
    lines = (part / "behaviors.tsv").read_text()
    config = MINDConfig(paths=(part,))
    for old, new, message in (
        (
            "N1-0",
            "N1",
            r"row 1 \(counted from 0\): 'N1' ends in neither -1 nor -0; the test part of MIND has no clicks",
        ),
        (
            "AM",
            "am?",
            r"behaviors.tsv: row 0 \(counted from 0\): '11/9/2019 12:00:05 am\?' is no time like 11/15/2019 8:",
        ),
        ("N1-1", "N1-0", "behaviors.tsv: no click in it"),
        ("N1-1", "N9-1", "no item id is in the catalog"),
        ("U1\t", "", "not lines of impression, user, time, history, shown"),
    ):
        (part / "behaviors.tsv").write_text(lines.replace(old, new, 1))
        with pytest.raises(DataError, match=message):
            load_source(config)
    (part / "news.tsv").unlink()
    with pytest.raises(DataError, match="news.tsv: no such file; a folder of MIND holds news.tsv and behaviors.tsv"):
        load_source(config)
    with pytest.raises(ValueError, match="paths must name at least one folder of MIND"):
        MINDConfig(paths=())


def test_the_command_line_makes_a_workspace_of_it(tmp_path):
    paths, _ = two_parts(tmp_path)
    words = ("--source.paths", *map(str, paths), "--source.no-history")
    main(["data", "--workspace", str(tmp_path / "ws"), "--preset", "mind", *words])
    assert len(Catalog.load(tmp_path / "ws" / "catalog")) == 14
