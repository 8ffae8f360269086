"""Markdown of tables of click models."""

import pytest

from llm_rec.errors import ConfigError
from llm_rec.experiment import Comparison, Row
from llm_rec.recipes.click_markdown import click_markdown, click_tests_markdown


def row(model, metric, mean, std=None, seeds=1, **columns):
    return Row(model=model, columns=columns, metric=metric, mean=mean, std=std, seeds=seeds, exploratory=seeds < 5)


def test_five_digits_whole_numbers_and_only_columns_that_differ():
    rows = [
        row("A", "auc", 0.983824, 0.000431, 5, slice="all", data="x"),
        row("A", "parameters", 458391.0, 0.0, 5, slice="all", data="x"),
        row("B", "auc", 0.9, None, 1, slice="all", data="y"),
        row("B", "gradient", 7.4e-6, 1e-7, 2, slice="all", data="z"),
    ]
    assert click_markdown(rows, ("auc", "parameters", "gradient"), ("slice", "data")).splitlines() == [
        "| model | data | seeds | auc | parameters | gradient |",
        "| --- | --- | --- | --- | --- | --- |",
        "| A | x | 5 | 0.98382 ± 0.00043 | 458,391 |  |",
        "| B | y | 1* | 0.9 |  |  |",
        "| B | z | 2* |  |  | 7.40e-06 ± 1e-07 |",
    ]


def test_rows_that_would_overwrite_each_other_are_refused():
    rows = [row("A", "auc", 0.5, scale=1), row("A", "auc", 0.6, scale=2)]
    with pytest.raises(ConfigError, match=r"several rows of auc on one line; name the columns \['scale'\] too"):
        click_markdown(rows, ("auc",))


def test_a_baseline_of_the_same_columns_is_named_shortly():
    def comparison(baseline):
        return Comparison(
            model="JRC (data x)",
            baseline=baseline,
            columns={},
            metric="auc",
            difference=0.01,
            std=0.002,
            seeds=5,
            t_p=0.012,
            sign_flip_p=0.06,
            holm_t_p=0.024,
            holm_sign_flip_p=0.06,
            exploratory=False,
        )

    lines = click_tests_markdown([comparison("BCE (data x)"), comparison("BCE (data y)")]).splitlines()
    assert lines[2] == "| JRC (data x) | BCE | auc | +0.01000 ± 0.00200 | 5 | 0.0120 | 0.0240 |"
    assert "| BCE (data y) |" in lines[3]
    assert click_tests_markdown([]) == ""
