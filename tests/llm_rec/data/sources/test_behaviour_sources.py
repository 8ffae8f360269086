"""Behaviour logs in their exact raw formats, tiny."""

import numpy as np
import pytest

from llm_rec.data.behaviour_files import behaviours_fingerprint, read_behaviours
from llm_rec.data.sources.kuairand import KuairandConfig, kuairand
from llm_rec.data.sources.taobao import TaobaoConfig, taobao
from llm_rec.data.sources.tmall import TmallConfig, tmall
from llm_rec.errors import DataError

# user, item, category, behaviour, seconds; users 1000001 and 100 are cut into pieces
TAOBAO = """\
1000001,2268318,2520377,pv,1511544070
1000001,2333346,2520771,pv,1511561733
1000001,2333346,2520771,buy,1511561744
100,2268318,2520377,pv,1511600000
1000001,2576651,149192,pv,1511572885
1000001,2268318,99,pv,1511572885
100,5104300,1080785,pv,1511600100
7,4365585,2520377,pv,1511596146
1000001,4365585,2520377,cart,1511596146
100,2333346,2520771,pv,1511600100
"""


def texts(log, field):
    values = log.columns[field].encoder.values
    return [values[id_ - 2] for id_ in log.ids[:, field].tolist()]


def read(source, folder, **settings):
    folder.mkdir()
    return read_behaviours(source, folder, **settings)


@pytest.mark.parametrize("chunk_rows", [2, 3, 1000])
def test_taobao(tmp_path, chunk_rows):
    (tmp_path / "UserBehavior.csv").write_text(TAOBAO)
    source = taobao(TaobaoConfig(path=tmp_path / "UserBehavior.csv"), 2)
    log = read(source, tmp_path / "scratch", chunk_rows=chunk_rows)
    assert log.users.values == ("1000001", "100")
    assert log.offsets.tolist() == [0, 4, 7]
    assert texts(log, 0) == ["2268318", "2333346", "2576651", "2268318", "2268318", "5104300", "2333346"]
    assert texts(log, 1) == ["2520377", "2520771", "149192", "99", "2520377", "1080785", "2520771"]
    assert log.times.tolist()[:4] == [1511544070, 1511561733, 1511572885, 1511572885]
    assert log.labels is None
    # ids by first appearance among page views; those of users that were left out count
    assert log.columns[0].encoder.values == ("2268318", "2333346", "2576651", "5104300", "4365585")
    assert log.frequencies.tolist() == [0, 0, 3, 2, 1, 1, 1]
    # the category that an item came with last in the file: user 100 does, after the 99 would be wrong
    assert [log.columns[1].encoder.values[id_ - 2] for id_ in log.latest[2:, 1].tolist()] == [
        "99",
        "2520771",
        "149192",
        "1080785",
        "2520377",
    ]
    assert (log.counts.rows, log.counts.kept_rows, log.counts.users, log.counts.kept_users, log.counts.items) == (
        10,
        8,
        3,
        2,
        5,
    )
    assert log.fingerprint == behaviours_fingerprint(source)


def test_taobao_out_of_order_is_refused_or_sorted(tmp_path):
    lines = TAOBAO.splitlines()
    lines[0], lines[1] = lines[1], lines[0]
    (tmp_path / "UserBehavior.csv").write_text("\n".join(lines) + "\n")
    message = (
        r"column 'time': user '1000001' has time 1511561733 and then 1511544070; events of a user must be in order "
        "of time: sort the file, or set order to sort"
    )
    with pytest.raises(DataError, match=message):
        read(taobao(TaobaoConfig(path=tmp_path / "UserBehavior.csv"), 2), tmp_path / "a")
    log = read(taobao(TaobaoConfig(path=tmp_path / "UserBehavior.csv", order="sort"), 2), tmp_path / "b")
    assert texts(log, 0)[:4] == ["2268318", "2333346", "2576651", "2268318"]


def test_files_that_hold_nothing_to_use_say_so(tmp_path):
    path = tmp_path / "UserBehavior.csv"
    path.write_text(TAOBAO)
    with pytest.raises(DataError, match=r"none of 3 users has 210 events \(the most is 4\); lower min_events"):
        read(taobao(TaobaoConfig(path=path), 210), tmp_path / "a")
    with pytest.raises(DataError, match="no event is left of 10 rows; check `where` and the columns"):
        read(taobao(TaobaoConfig(path=path, behaviours=("view",)), 1), tmp_path / "b")
    path.write_text("1,2,3,pv,soon\n")
    with pytest.raises(DataError, match=r"column 'time': row 0 .*'soon' is no whole number; repair or remove"):
        read(taobao(TaobaoConfig(path=path), 1), tmp_path / "c")
    path.write_text("1,,3,pv,4\n")
    with pytest.raises(DataError, match=r"column 'item': row 0 .* is no id; repair or remove these rows"):
        read(taobao(TaobaoConfig(path=path), 1), tmp_path / "d")
    with pytest.raises(ValueError, match="min_events must be at least 1, got 0"):
        taobao(TaobaoConfig(path=path), 0)


TMALL = """\
user_id,item_id,cat_id,seller_id,brand_id,time_stamp,action_type
328862,323294,833,2882,2661.0,829,0
328862,844400,1271,2882,2661.0,829,0
328862,575153,1271,2882,2661.0,1111,0
328862,996875,1271,2882,,1111,2
328862,1086186,1271,1253,1049.0,1001,0
234512,623866,1271,2882,2661.0,1012,0
"""


def test_tmall_sorts_by_day_and_keeps_the_order_within_one(tmp_path):
    (tmp_path / "user_log_format1.csv").write_text(TMALL)
    config = TmallConfig(path=tmp_path / "user_log_format1.csv")
    log = read(tmall(config, 1), tmp_path / "a")
    assert texts(log, 0) == ["323294", "844400", "1086186", "575153", "623866"]
    assert texts(log, 1) == ["833", "1271", "1271", "1271", "1271"]
    assert log.times is None
    four = TmallConfig(path=config.path, four_characters=True, seller_and_brand=True)
    cut = read(tmall(four, 1), tmp_path / "b")
    assert texts(cut, 0) == ["1086186", "575153", "623866"]
    assert [column.spec.name for column in cut.columns] == ["item", "category", "seller", "brand"]
    assert (log.counts.kept_rows, cut.counts.kept_rows) == (5, 3)


HEADER = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
)


def kuairand_row(user, video, time, click, rand=0):
    cells = [user, video, 20220408, 1200, time, click, 0, 0, 0, 0, 0, 1 - click, 9, 99, 0, 0, 0, rand, 1]
    return ",".join(map(str, cells))


def kuairand_folder(folder):
    logs = {
        "log_standard_4_08_to_4_21_pure.csv": [(0, 50, 300, 1), (0, 60, 200, 1), (1, 50, 100, 0), (0, 70, 400, 0)],
        "log_standard_4_22_to_5_08_pure.csv": [(1, 60, 900, 1), (0, 50, 950, 0)],
        "log_random_4_22_to_5_08_pure.csv": [(1, 80, 950, 1)],
    }
    for name, rows in logs.items():
        (folder / name).write_text("\n".join([HEADER, *(kuairand_row(*row) for row in rows)]) + "\n")
    (folder / "video_features_basic_pure.csv").write_text(
        'video_id,author_id,video_type,tag\n50,8,NORMAL,"12,65"\n60,9,NORMAL,3\n99,9,NORMAL,1\n70,8,AD,\n'
    )


def test_kuairand_has_impressions_in_time_order_and_the_first_tag(tmp_path):
    kuairand_folder(tmp_path)
    log = read(kuairand(KuairandConfig(path=tmp_path, author=True)), tmp_path / "a")
    assert texts(log, 0) == ["60", "50", "70", "50", "50", "60"]
    assert log.times.tolist() == [200, 300, 400, 950, 100, 900]
    assert log.labels.tolist() == [1, 1, 0, 0, 0, 1]
    tags = log.columns[1].encoder
    assert [0 if id_ == 0 else tags.vocabulary.values[id_ - 2] for id_ in log.ids[:, 1].tolist()] == [
        "3",
        "12",
        0,
        "12",
        "12",
        "3",
    ]
    assert texts(log, 2) == ["9", "8", "8", "8", "8", "9"]
    more = read(kuairand(KuairandConfig(path=tmp_path, random=True, label="long_view")), tmp_path / "b")
    assert len(more) == 7
    assert more.labels.tolist() == [0, 0, 1, 1, 1, 0, 0]


def test_a_folder_without_kuairand_says_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"no log_standard_\*.csv here; give the folder with KuaiRand's csv files"):
        kuairand(KuairandConfig(path=tmp_path))
    kuairand_folder(tmp_path)
    (tmp_path / "video_features_basic_pure.csv").unlink()
    with pytest.raises(DataError, match="0 files video_features_basic_.*, category and author need exactly one"):
        kuairand(KuairandConfig(path=tmp_path))
    log = read(kuairand(KuairandConfig(path=tmp_path, category=False)), tmp_path / "scratch")
    assert log.ids.shape == (6, 1)


def test_labels_are_0_and_1(tmp_path):
    row = kuairand_row(0, 1, 2, 7)
    (tmp_path / "log_standard_4_08_to_4_21_pure.csv").write_text(f"{HEADER}\n{row}\n")
    with pytest.raises(DataError, match="column 'is_click': row 0 .*'7' is no label; repair it: labels are 0 and 1"):
        read(kuairand(KuairandConfig(path=tmp_path, category=False)), tmp_path / "scratch")


def test_many_events_come_out_as_a_plain_sort_gives_them(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    rows = np.stack(
        [rng.integers(0, 40, 3000), rng.integers(0, 50, 3000), rng.integers(0, 9, 3000), rng.integers(0, 99, 3000)],
        axis=1,
    )
    path = tmp_path / "UserBehavior.csv"
    path.write_text("".join(f"{u},{i},{c},pv,{t}\n" for u, i, c, t in rows.tolist()))
    monkeypatch.setattr("llm_rec.data.behaviour_files._BLOCK", 97)
    log = read(taobao(TaobaoConfig(path=path, order="sort"), 70), tmp_path / "scratch", chunk_rows=500)
    users = list(dict.fromkeys(rows[:, 0].tolist()))
    expected = []
    for user in users:
        own = sorted((row for row in rows.tolist() if row[0] == user), key=lambda row: row[3])
        expected += own if len(own) >= 70 else []
    assert 0 < len(log) < 3000
    found = zip(texts(log, 0), texts(log, 1), log.times.tolist(), strict=True)
    assert [list(map(int, row)) for row in found] == [row[1:] for row in expected]
    last = {item: category for _, item, category, _ in rows.tolist()}
    items, categories = (log.columns[place].encoder.values for place in (0, 1))
    assert {int(items[i]): int(categories[log.latest[i + 2, 1] - 2]) for i in range(50)} == last
