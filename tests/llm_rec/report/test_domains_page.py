"""The page about models of domains and tasks: what is drawn, escaped, and left out."""

import re
from dataclasses import replace

import numpy as np
import pytest

from llm_rec.analysis.domain_experts import DomainAnalysis, ExpertReport, InterestEntanglement
from llm_rec.report.domains import domains_page

EXPERTS = ExpertReport(
    correlation=np.array([[0.9, 0.125], [0.125, 0.8]]),
    similarity=np.array([[1.0, 0.375], [0.375, 1.0]]),
    deviation=np.array([0.5, 0.25]),
    dead=np.array([0.0, 0.125]),
)
FOUND = DomainAnalysis(
    names=("<home>", "search", "tail"),
    experts=EXPERTS,
    gates=np.array([[0.75, 0.25], [0.5, 0.5], [np.nan, np.nan]]),
    effective_experts=np.array([1.7548, 2.0, np.nan]),
    domains=("<home>", "search", "tail"),
    abundance=np.array([3.5, 2.5, np.nan]),
    abundance_over_initial=np.array([0.875, 0.625, np.nan]),
)
TANGLED = InterestEntanglement(
    tasks=("click", "like"), distances=np.array([[0.25, 0.5, np.nan], [0.75, 1.0, 0.125]]), order=np.array([0.9, 0.5])
)


def rows_of(page: str, section: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    body = page.split(f"<h2>{section}</h2>")[1].split("<tbody>")[1].split("</tbody>")[0]
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in body.split("</tr>")[:-1]]


def test_the_page_has_the_figures_of_domains_gates_experts_and_interests_escaped():
    page = domains_page("Domains <b>", FOUND, TANGLED)
    assert rows_of(page, "Domains") == [
        ["&lt;home&gt;", "3.5000", "0.8750"],
        ["search", "2.5000", "0.6250"],
        ["tail", "", ""],
    ]
    assert rows_of(page, "Gates")[0] == ["&lt;home&gt;", "1.7548", "0.7500", "0.2500"]
    assert rows_of(page, "Gates")[2] == ["tail", "", "", ""]
    assert rows_of(page, "Experts") == [["1", "0.5000", "0.0%"], ["2", "0.2500", "12.5%"]]
    assert rows_of(page, "Interests") == [
        ["table 1", "0.2500", "0.5000", "", "0.9000"],
        ["table 2", "0.7500", "1.0000", "0.1250", "0.5000"],
    ]
    assert page.count("<figure>") == page.count('role="img"') == 4
    # 3 domains by 2 experts, two maps of 2 by 2 experts, 2 tables by 3 kinds
    assert page.count("<rect") == 6 + 4 + 4 + 6
    assert "Domains &lt;b&gt;" in page
    for forbidden in ("<home>", "<script", " href=", " src="):
        assert forbidden not in page


def test_an_expert_is_not_compared_with_itself():
    page = domains_page("Domains", FOUND)
    assert "shades 0.125 to 0.125" in page
    assert "1, expert 2: 0.375" in page
    assert "1, expert 1: nan" in page


@pytest.mark.parametrize("tangled", [None, TANGLED])
def test_what_a_model_does_not_have_is_left_out(tangled):
    page = domains_page("Domains", replace(FOUND, experts=None, gates=None, effective_experts=None), tangled)
    found = re.findall("<h2>(.*?)</h2>", page)
    assert found == ["Domains", *(["Interests"] if tangled else [])]
    assert page.count("<figure>") == (1 if tangled else 0)


def test_means_are_those_of_the_analysis():
    page = domains_page("Domains", FOUND)
    assert "<th scope=row>expert correlation</th><td>0.1250</td>" in page
    assert "<th scope=row>effective experts</th><td>1.8774</td>" in page
    assert "tail over initial" not in page  # the tail keeps no value
