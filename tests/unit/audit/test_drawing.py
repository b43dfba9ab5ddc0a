"""The plot of an audit."""

import pytest
from PIL import Image

from service.audit.drawing import write_plot
from service.errors import ConfigurationError


def test_the_plot_is_a_picture(audit, tmp_path):
    write_plot(audit, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.width > 2 * picture.height > 200
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 20, "bars and words, no empty sheet"


def test_a_plot_that_cannot_be_written_is_told(audit, tmp_path):
    with pytest.raises(ConfigurationError, match="in a folder that is there"):
        write_plot(audit, tmp_path / "nowhere" / "out.png")
