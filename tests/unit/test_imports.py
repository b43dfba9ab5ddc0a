"""The shape of the code: no import circle, no file, class or folder that one reading cannot hold, one name a file."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import service

SERVICE = Path(service.__file__).parent
MOST_LINES, MOST_METHODS, MOST_ARGUMENTS, MOST_FILES = 300, 20, 7, 9

#: Names of files that two rooms share on purpose.
SHARED_NAMES = {
    "__init__.py",
    "architecture.py",  # a model's folder, whose cards name it, and the loader of such files
    "comparison.py",  # of two servers, in the benchmark, and of outputs, in a proof
    "picture.py",  # a task's input, and its adapter
    "predict.py",  # the route, and the command
    "process.py",  # the entry point of a child: the engine's, the compiler's
    "results.py",  # of the benchmark, and of an engine
}

FILES = sorted(SERVICE.rglob("*.py"))
TREES = {file: ast.parse(file.read_bytes()) for file in FILES}


def names_of(file: Path) -> tuple[str, ...]:
    """The parts of a file's module: `("service", "loader", "card")`."""
    parts = file.relative_to(SERVICE.parent).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


MODULES = {".".join(names_of(file)): file for file in FILES}


def imported(file: Path) -> Iterator[tuple[str, int]]:
    """Modules of the service that a file imports, each with its line.

    Imports in functions and under TYPE_CHECKING count. `from a import b` is the module `a.b` where there is one.
    """
    package = names_of(file) if file.name == "__init__.py" else names_of(file)[:-1]
    for node in ast.walk(TREES[file]):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            around = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*around, *([node.module] if node.module else [])])
            for alias in node.names:
                found = next((name for name in (f"{base}.{alias.name}", base) if name in MODULES), None)
                if found:
                    yield found, node.lineno


GRAPH = {module: dict(reversed(list(imported(file)))) for module, file in MODULES.items()}


def shortest_circle(module: str) -> list[str]:
    """The shortest way from a module back to itself, with both ends; empty if there is none."""
    came_from: dict[str, str] = {}
    waiting = [module]
    while waiting:
        here = waiting.pop(0)
        for there in GRAPH[here]:
            if there == module:
                way = [module, here]
                while way[-1] != module:
                    way.append(came_from[way[-1]])
                return way[::-1]
            if there not in came_from:
                came_from[there] = here
                waiting.append(there)
    return []


def circles() -> Iterator[str]:
    """Each circle once, as a chain of modules with the lines that import."""
    told: set[frozenset[str]] = set()
    for module in GRAPH:
        way = shortest_circle(module)
        if way and frozenset(way) not in told:
            told.add(frozenset(way))
            links = [f"{here} (line {GRAPH[here][there]})" for here, there in pairwise(way)]
            yield " -> ".join([*links, way[-1]])


def test_no_import_goes_in_a_circle():
    found = list(circles())
    assert not found, "\n".join(["import circles, annotations counted too:", *found])


def test_no_file_is_longer_than_one_reading_holds():
    lengths = {file.relative_to(SERVICE).as_posix(): file.read_text().count("\n") for file in FILES}
    long = {name: lines for name, lines in lengths.items() if lines > MOST_LINES and "loader/controls/" not in name}
    assert not long, f"split by idea; at most {MOST_LINES} lines: {long}"


CLASSES = {
    f"{module}.{node.name}": node
    for module, file in MODULES.items()
    for node in ast.walk(TREES[file])
    if isinstance(node, ast.ClassDef)
}


def methods(node: ast.ClassDef) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [inside for inside in node.body if isinstance(inside, ast.FunctionDef | ast.AsyncFunctionDef)]


def constructor_arguments(node: ast.ClassDef) -> list[str]:
    """The named arguments of `__init__`, self aside; the fields of a dataclass are not an `__init__` of its own."""
    own = [method.args for method in methods(node) if method.name == "__init__"]
    return [a.arg for args in own for a in (*args.posonlyargs, *args.args, *args.kwonlyargs)][1:]


def test_no_class_has_more_methods_than_one_idea_needs():
    many = {name: len(methods(node)) for name, node in CLASSES.items() if len(methods(node)) > MOST_METHODS}
    assert not many, f"split by idea; at most {MOST_METHODS} methods, properties and __init__ among them: {many}"


def test_no_constructor_takes_more_than_it_can_explain():
    taken = {name: constructor_arguments(node) for name, node in CLASSES.items()}
    many = {name: arguments for name, arguments in taken.items() if len(arguments) > MOST_ARGUMENTS}
    words = f"at most {MOST_ARGUMENTS} arguments, self aside"
    assert not many, "\n".join([words, *(f"{name}: {len(given)}: {', '.join(given)}" for name, given in many.items())])


def test_the_service_itself_holds_few_files():
    found = sorted(file.name for file in SERVICE.glob("*.py"))
    assert len(found) <= MOST_FILES, f"at most {MOST_FILES} files beside the rooms; move some into one: {found}"


def test_a_file_name_occurs_once():
    places: dict[str, list[str]] = {}
    for file in FILES:
        places.setdefault(file.name, []).append(file.relative_to(SERVICE).as_posix())
    twice = {name: found for name, found in places.items() if len(found) > 1 and name not in SHARED_NAMES}
    assert not twice, f"name each for what it is: {twice}"


@pytest.mark.parametrize("name", sorted(SHARED_NAMES))
def test_a_name_that_may_be_shared_is_shared(name):
    assert Counter(file.name for file in FILES)[name] > 1, f"take {name} out of SHARED_NAMES"


def test_engine_wire_supervisor_and_compiler_know_nothing_of_pictures_and_classifiers():
    """They go by a model's signature. `.labels(` is Prometheus's."""
    wanted = re.compile(r"picture|pixel|\bcrop\b|classif|\blabels?\b", re.IGNORECASE)
    found = [
        f"{file.relative_to(SERVICE)}:{number}: {line.strip()}"
        for room in ("engine", "wire", "supervisor", "compiler")
        for file in (SERVICE / room).rglob("*.py")
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if wanted.search(line.replace(".labels(", "("))
    ]
    assert found == []
