"""Reports survive a round trip, say what they are, and refuse to compare what is not comparable."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from llm_rec.errors import ArtifactError, ConfigError
from llm_rec.report.report import Comparison, Report


@pytest.fixture(scope="module")
def comparison(page_data) -> Comparison:
    return page_data.page().comparison


def printed(table) -> str:
    console = Console(width=250, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def test_a_report_survives_a_round_trip_with_nested_settings(comparison, tmp_path):
    report = comparison.reports[0]
    path = report.save(tmp_path / "run")
    assert Report.load(path) == report
    assert Report.load(tmp_path / "run") == report
    assert Report.load(path).config["model"] == {"dim": 64, "layers": [{"heads": 2}]}


def test_the_documented_keys_are_in_the_file(comparison, tmp_path):
    report = comparison.reports[0]
    plain = json.loads(report.save(tmp_path).read_text())
    assert plain["kind"] == "report"
    assert plain["format_version"] == 1
    value, ends = plain["metrics"]["test"]["unseen"]["recall@10"], plain["intervals"]["test"]["unseen"]["recall@10"]
    assert ends[0] <= value <= ends[1]
    assert plain["counts"]["test"]["all"] == 300
    assert plain["seeds"] == {"run": 0}
    assert plain["history"][0]["epoch"] == 1.0
    assert set(plain) == {
        "task",
        "kind", "format_version", "library_version", "created", "name", "metrics", "intervals", "counts", "config",
        "fingerprints", "seeds", "timings", "history",
    }  # fmt: skip


def test_a_comparison_survives_a_round_trip(comparison, tmp_path):
    comparison.save(tmp_path)
    assert Comparison.load(tmp_path) == comparison


def test_the_table_of_a_report_has_every_slice_with_its_count_and_interval(comparison):
    report = comparison.reports[0]
    text = printed(report.table())
    for part in ("unseen in train", "cold (under 10)", "warm (10 and more)", "bucket 10", "300"):
        assert part in text
    low, high = report.intervals["test"]["all"]["recall@10"]
    assert f"({low:.4f}-{high:.4f})".replace("0.", ".") in text


def test_the_table_of_a_comparison_has_one_row_per_model_and_marks_the_best(comparison):
    text = printed(comparison.table(intervals=False))
    for report in comparison.reports:
        assert report.name in text
    assert "n=300" in text
    values = {r.name: r.metrics["test"]["warm"]["recall@10"] for r in comparison.reports}
    best = max(values, key=lambda name: values[name])
    assert [r.name for r in comparison.reports if comparison.is_best(r, "test", "warm", "recall@10")] == [best]


def test_an_empty_slice_is_a_dash_not_a_zero(comparison):
    report = comparison.reports[0]
    empty = replace(report, metrics={"test": {"all": {}}}, counts={"test": {"all": 0}}, intervals={"test": {}})
    assert " - " in printed(empty.table())


def test_a_part_that_was_not_evaluated_is_an_error(comparison):
    with pytest.raises(ConfigError, match=r"SASRec \(id\) has no part 'validation'; it has test"):
        comparison.reports[0].table(part="validation")


def test_models_with_different_targets_cannot_be_compared(comparison):
    first, second = comparison.reports[:2]
    counts = second.counts["test"]
    fewer, less = {**counts, "all": 1}, {name: n for name, n in counts.items() if name != "warm"}
    for test, more, place in (
        (fewer, {}, r"slice 'all' of test: 1 and 300"),
        (less, {}, r"only SASRec \(id\) has the slice 'warm' of test"),
        (counts, {"validation": {"all": 300}}, r"only SASRec \(text\) has the slice 'all' of validation"),
    ):
        other = replace(second, counts={"test": test, **more})
        message = rf"SASRec \(text\) and SASRec \(id\) were evaluated on different targets \({place}\); evaluate both"
        with pytest.raises(ConfigError, match=message):
            Comparison(reports=(first, other))


def test_two_models_of_one_name_cannot_be_compared(comparison):
    with pytest.raises(ConfigError, match="a comparison needs reports with different names"):
        Comparison(reports=(comparison.reports[0], comparison.reports[0]))


def test_a_folder_without_a_report_is_an_error(tmp_path):
    with pytest.raises(ArtifactError, match="no report here; evaluate a run first"):
        Report.load(tmp_path)


def test_a_comparison_is_not_a_report(comparison, tmp_path):
    comparison.save(tmp_path)
    with pytest.raises(ArtifactError, match="holds a comparison, not a report"):
        Report.load(tmp_path)


def test_a_report_of_a_later_version_is_an_error(comparison, tmp_path):
    path = comparison.reports[0].save(tmp_path)
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(ArtifactError, match="has format version 2, this library reads up to 1; upgrade llm-rec"):
        Report.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"kind": "report"', "not JSON"),
        ("[]", "holds a list, not a report"),
        ('{"kind": "report", "format_version": 1, "config": 3}', "config: expected a mapping, got 3"),
        ('{"kind": "report", "format_version": 1, "metrix": {}}', "metrix: unknown key; did you mean 'metrics'"),
    ],
)
def test_a_damaged_report_is_an_error(tmp_path, text, message):
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(ArtifactError, match=message):
        Report.load(tmp_path)


def test_a_damaged_comparison_is_an_error(tmp_path):
    (tmp_path / "report.json").write_text('{"kind": "comparison", "format_version": 1, "reports": 3}')
    with pytest.raises(ArtifactError, match="reports and differences must be lists"):
        Comparison.load(tmp_path)
    (tmp_path / "report.json").write_text('{"kind": "comparison", "format_version": 1, "reports": []}')
    with pytest.raises(ArtifactError, match="a comparison needs reports with different names, got"):
        Comparison.load(tmp_path)
