"""What a source may import, read from its text."""

import pytest

from service.loader.imported import imported_names


@pytest.mark.parametrize(
    ("source", "package", "names"),
    [
        ("import a.b, c as d", (), [(0, "a.b"), (0, "c")]),
        ("from a.b import c, d", (), [(0, "a.b"), (0, "a.b.c"), (0, "a.b.d")]),
        ("from a import *", (), [(0, "a")]),
        ("from . import b", (), [(1, ""), (1, "b")]),
        ("from .a import b", ("p",), [(1, "p.a"), (1, "p.a.b")]),
        ("from ..a import b", ("p", "q"), [(1, "p.a"), (1, "p.a.b")]),
        ("from ..a import b", (), []),
        ("def forward(x):\n    import a\n    return a", (), [(0, "a")]),
        ("class A:\n    try:\n        import a\n    except ImportError: pass", (), [(0, "a")]),
    ],
)
def test_every_module_that_an_import_may_mean_is_named(source, package, names):
    found = {(relative, ".".join(parts)) for relative, parts in imported_names(source.encode(), package)}
    assert found == set(names)


def test_what_is_not_python_is_a_syntax_error():
    with pytest.raises(SyntaxError):
        list(imported_names(b"import (", ()))
