"""The shape of the code: no circle of imports, no function whose body is longer than a screen."""

import ast
from graphlib import TopologicalSorter

from tests.conftest import CHECKOUT

LONGEST_BODY = 40  # lines, without signature and docstring
TREES = {
    ".".join(path.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(path.read_bytes())
    for path in (CHECKOUT / "drhn_cli").rglob("*.py")
}


def imported_modules(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def body_lines(function):
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return function.end_lineno - body[0].lineno + 1 if body else 0


def test_no_modules_import_each_other_in_a_circle():
    imports = {module: set(imported_modules(tree)) & TREES.keys() for module, tree in TREES.items()}
    assert len(TREES) > 50
    assert sum(map(len, imports.values())) > 100
    TopologicalSorter(imports).prepare()  # its error names the circle


def test_function_bodies_are_short():
    longer = [
        f"{module}.{function.name}"
        for module, tree in TREES.items()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and body_lines(function) > LONGEST_BODY
    ]
    assert longer == []
