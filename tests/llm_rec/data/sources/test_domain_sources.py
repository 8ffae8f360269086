"""Sources with domains, each on tiny files in its exact format."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm_rec.data.log_encoding import encode_log
from llm_rec.data.log_spec import ByFractionsConfig
from llm_rec.data.sources.click_table import click_source
from llm_rec.data.sources.domain_folders import DomainFoldersConfig, load_domain_folders
from llm_rec.data.sources.kuairand_domains import USER_FIELDS, VIDEO_FIELDS, KuairandDomainsConfig
from llm_rec.errors import DataError

LOG = (
    *("user_id", "video_id", "date", "hourmin", "time_ms", "is_click", "is_like", "is_follow", "is_comment"),
    *("is_forward", "is_hate", "long_view", "play_time_ms", "duration_ms", "profile_stay_time", "comment_stay_time"),
    *("is_profile_enter", "is_rand", "tab"),
)
HALVES = ByFractionsConfig(validation=0.2, test=0.2)


def write_csv(path, header, rows):
    path.write_text("\n".join(",".join(map(str, row)) for row in [header, *rows]) + "\n")


def write_kuairand(folder, variant="1k"):
    rng = np.random.default_rng(0)
    for name, rows in (("4_08_to_4_21", 40), ("4_22_to_5_08", 60)):
        cells = rng.integers(0, 2, (rows, len(LOG)))
        cells[:, LOG.index("user_id")] = rng.integers(0, 5, rows)
        cells[:, LOG.index("video_id")] = rng.integers(0, 9, rows)
        cells[:, LOG.index("tab")] = rng.choice([0, 1, 2, 3, 4], rows)
        write_csv(folder / f"log_standard_{name}_{variant}.csv", LOG, cells.tolist())
    users = [[user, *(f"{name}{user % 2}" for name in USER_FIELDS), 7] for user in range(5)]
    write_csv(folder / f"user_features_{variant}.csv", ("user_id", *USER_FIELDS, "onehot_feat0"), users)
    videos = [[video, *(f"{name}{video % 3}" for name in VIDEO_FIELDS), f'"{video},1"'] for video in range(8)]
    write_csv(folder / f"video_features_basic_{variant}.csv", ("video_id", *VIDEO_FIELDS, "tag"), videos)


def test_kuairand_keeps_the_tabs_asked_for_as_domains_and_responses_as_tasks(tmp_path):
    write_kuairand(tmp_path)
    config = KuairandDomainsConfig(path=tmp_path, labels=("is_click", "long_view"), tabs=("0", "1", "2"), parts=HALVES)
    log = encode_log(*click_source(config), tmp_path / "log")
    raw = np.loadtxt(tmp_path / "log_standard_4_22_to_5_08_1k.csv", delimiter=",", skiprows=1, dtype=int)
    kept = raw[np.isin(raw[:, LOG.index("tab")], [0, 1, 2])]
    assert sum(log.rows.values()) == len(kept)
    assert (log.schema.domain, log.schema.labels, log.schema.group) == ("tab", ("is_click", "long_view"), "user_id")
    clicks = sum(float(log.part(part).labels[:, 0].sum()) for part in log.rows)
    assert clicks == kept[:, LOG.index("is_click")].sum()
    assert [field.name for field in log.schema.fields] == [
        *("user_id", "video_id", "tab"),
        *USER_FIELDS,
        *VIDEO_FIELDS,
        "tag",
    ]
    tags = log.columns[-1].encoder.state["values"]
    assert {"0", "1"} <= set(tags)


def test_kuairand_reads_the_early_log_too_and_does_without_features(tmp_path):
    write_kuairand(tmp_path, "pure")
    wide = KuairandDomainsConfig(
        path=tmp_path, early=True, features=False, tabs=("0", "1", "2", "3", "4"), parts=HALVES
    )
    log = encode_log(*click_source(wide), tmp_path / "log")
    assert sum(log.rows.values()) == 100
    assert [field.name for field in log.schema.fields] == ["user_id", "video_id", "tab"]
    (tmp_path / "user_features_pure.csv").unlink()
    with pytest.raises(DataError, match=r"0 files user_features_\*.csv, one is needed; or switch features off"):
        click_source(KuairandDomainsConfig(path=tmp_path))
    with pytest.raises(DataError, match=r"no log_standard_4_22_to_5_08_\*.csv here; give the folder with KuaiRand's"):
        click_source(KuairandDomainsConfig(path=tmp_path / "nowhere"))


def write_folder(folder, items, events, times=False):
    folder.mkdir()
    names, kinds = zip(*items, strict=True)
    pq.write_table(pa.table({"item_id": names, "title": names, "kind": kinds}), folder / "items.parquet")
    users, seen = zip(*events, strict=True)
    clock = {"time" if times else "order": list(range(len(events)))}
    pq.write_table(pa.table({"user_id": users, "item_id": seen, **clock}), folder / "interactions.parquet")
    return folder


def test_folders_keep_items_apart_and_share_people(tmp_path):
    shoes = write_folder(tmp_path / "shoes", [("1", "red"), ("2", "blue")], [("u", "1"), ("v", "2"), ("u", "2")])
    hats = write_folder(tmp_path / "hats", [("2", "wool"), ("3", "felt")], [("u", "3"), ("w", "2"), ("u", "2")])
    found = load_domain_folders(DomainFoldersConfig(paths=(shoes, hats), keep=("kind",)))
    assert found.catalog.item_ids == ("shoes/1", "shoes/2", "hats/2", "hats/3")
    assert found.catalog.columns == {
        "domain": ("shoes", "shoes", "hats", "hats"),
        "kind": ("red", "blue", "wool", "felt"),
    }
    assert found.log.user_ids == ("shoes/u", "shoes/v", "hats/u", "hats/w")
    assert found.people == ["u", "v", "u", "w"]
    assert found.log.offsets.tolist() == [0, 2, 3, 5, 6]
    assert found.log.items.tolist() == [1, 2, 2, 4, 3, 3]


def test_folders_with_and_without_clock_times_do_not_mix(tmp_path):
    shoes = write_folder(tmp_path / "shoes", [("1", "red")], [("u", "1")], times=True)
    hats = write_folder(tmp_path / "hats", [("2", "wool")], [("u", "2")])
    with pytest.raises(DataError, match="hats: no clock times, and other folders have them; give all folders times"):
        load_domain_folders(DomainFoldersConfig(paths=(shoes, hats)))
    with pytest.raises(ValueError, match=r"name at least two folders with different names, got \['shoes', 'shoes'\]"):
        DomainFoldersConfig(paths=(shoes, shoes))
