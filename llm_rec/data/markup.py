"""Scraped web text without its markup."""

import re
from html.parser import HTMLParser

_HIDDEN = frozenset({"script", "style"})
_RULE = re.compile(r"\{\s*[a-z-]+\s*:[^{}]*\}|@media\b")
_CALL = re.compile(r"getTime\(|\bfunction\s*\(|\b(window|document)\.\w+\s*[=(.]")


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hidden += tag in _HIDDEN
        self.pieces.append(" ")

    def handle_endtag(self, tag: str) -> None:
        self.hidden = max(0, self.hidden - (tag in _HIDDEN))
        self.pieces.append(" ")

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.pieces.append(data)


def plain_text(text: str) -> str:
    """Text without tags, comments, scripts and styles; entities are characters, white space single blanks.

    >>> plain_text("<b>Soap</b><br>for &amp; by <style>.a {color: red;}</style>hands, 3 < 4")
    'Soap for & by hands, 3 < 4'
    """
    if "<" in text or "&" in text:
        parser = _Text()
        parser.feed(text.replace("<![", "<!"))  # a section of an unknown kind is an error of the parser
        parser.close()
        text = "".join(parser.pieces)
    return " ".join(text.split())


def is_code(text: str) -> bool:
    """Whether a text is a piece of a page's script or style sheet rather than words.

    >>> is_code("var aPageStart = (new Date()).getTime();"), is_code(".a {font-size: 12px;}"), is_code("Soap: mild")
    (True, True, False)
    """
    return bool(_CALL.search(text) or _RULE.search(text))
