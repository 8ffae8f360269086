"""Reports of click models: what is best when lower is better, and that two tasks do not compare."""

import pytest

from llm_rec.errors import ConfigError
from llm_rec.metrics.summary import SliceSummary
from llm_rec.report.report import Comparison, Report, metric_title


def report(name, task="clicks", **figures):
    ends = {metric: value for metric, value in figures.items() if metric != "ece"}
    summary = SliceSummary(count=9, mean=figures, low=ends, high=ends)
    return Report.of(name, {"test": {"all": summary}}, task=task)


def best(comparison, metric):
    return [r.name for r in comparison.reports if comparison.is_best(r, "test", "all", metric)]


def test_the_lowest_loss_and_the_highest_auc_are_best_and_a_ratio_never_is():
    a = report("a", auc=0.7, log_loss=0.5, ece=0.1, predicted_over_actual=1.0)
    b = report("b", auc=0.8, log_loss=0.6, ece=0.05, predicted_over_actual=1.3)
    comparison = Comparison(reports=(a, b))
    assert best(comparison, "auc") == ["b"]
    assert best(comparison, "log_loss") == ["a"]
    assert best(comparison, "ece") == ["b"]
    assert best(comparison, "predicted_over_actual") == []
    assert comparison.task == "clicks"
    assert "ece" not in a.intervals["test"]["all"]


def test_the_task_survives_and_reports_without_one_are_of_rankings(tmp_path):
    report("a", auc=0.7).save(tmp_path)
    assert Report.load(tmp_path).task == "clicks"
    text = (tmp_path / "report.json").read_text()
    (tmp_path / "report.json").write_text(text.replace('  "task": "clicks",\n', ""))
    assert Report.load(tmp_path).task == "ranking"


def test_two_tasks_do_not_compare():
    message = "a is a clicks run and b a ranking run: their figures do not compare; report runs of one kind"
    with pytest.raises(ConfigError, match=message):
        Comparison(reports=(report("a", auc=0.7), report("b", "ranking", mrr=0.2)))


def test_titles():
    assert [metric_title(name) for name in ("auc", "log_loss", "ece")] == ["AUC", "log loss", "ECE"]
