"""The page of an audit."""

from html.parser import HTMLParser

import pytest

from service.audit.figures import MODES
from service.audit.page import write_page
from service.errors import ConfigurationError


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.words, self.open, self.links = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.links += [value for key, value in attrs if key in ("src", "href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data.strip())


def test_the_page_has_a_row_for_each_mode_and_loads_nothing(audit, tmp_path):
    write_page(audit, tmp_path / "out.html")
    page = Page((tmp_path / "out.html").read_text())
    assert page.open == []
    assert page.links == []
    assert set(MODES) <= set(page.words)
    assert "Did not run: <no targets>" in page.words
    assert "6 MB" in page.words


def test_a_page_that_cannot_be_written_is_told(audit, tmp_path):
    with pytest.raises(ConfigurationError, match="in a folder that is there"):
        write_page(audit, tmp_path / "nowhere" / "out.png")
