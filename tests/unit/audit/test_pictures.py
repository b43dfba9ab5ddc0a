"""The picture and the page of an audit."""

from html.parser import HTMLParser

import pytest
from PIL import Image

from service.audit.figures import MODES, Audit, ModeFigures, in_words, megabytes
from service.audit.pictures import write_page, write_plot
from service.errors import ConfigurationError


@pytest.fixture
def audit():
    """Figures as they come, and a mode that has none."""
    modes = [
        ModeFigures(
            mode=mode, graph_nodes=7, saved_tensors=9, saved_bytes=10**7, held_bytes=10**6 * size, latency_ms=5.0
        )
        for size, mode in enumerate(MODES)
    ]
    modes[0] = ModeFigures(mode=MODES[0], error="<no targets>")
    modes[0].words = in_words(modes[0])
    return Audit(model="a<b", device="cpu", batch_size=8, weights_bytes=5000, modes=modes)


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


def test_the_plot_is_a_picture(audit, tmp_path):
    write_plot(audit, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.width > 2 * picture.height > 200
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 20, "bars and words, no empty sheet"


@pytest.mark.parametrize("write", [write_plot, write_page])
def test_a_file_that_cannot_be_written_is_told(write, audit, tmp_path):
    with pytest.raises(ConfigurationError, match="in a folder that is there"):
        write(audit, tmp_path / "nowhere" / "out.png")


def test_sizes_are_told_in_powers_of_ten():
    assert [megabytes(size) for size in (None, 0, 999, 8192, 177_470_720, 2 * 10**9)] == [
        *("-", "0 B", "999 B", "8.19 KB", "177 MB", "2 GB")
    ]
