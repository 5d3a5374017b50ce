"""The rooms of the code base: imports and includes point down, as the lists in CONTRIBUTING.md say."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "tconv"
CORE = ROOT / "csrc"

BESIDE_ROOMS = ("tconv._core", "tconv.__version__")

_BLOCKS = re.findall(r"^```text\n(.*?)^```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M | re.S)


def levels(block: str) -> dict[str, int]:
    """Number the rooms of a list from the top."""
    lines = [re.split(r" {2,}", line)[0].split() for line in block.splitlines()]
    return {room: level for level, rooms in enumerate(lines) for room in rooms}


PYTHON_ROOMS, CORE_ROOMS = map(levels, _BLOCKS)

MODULES = {
    ".".join(("tconv", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
CORE_FILES = sorted(path for path in CORE.rglob("*") if path.suffix in (".cpp", ".hpp", ".inc"))


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield the full name and the line of everything imported below `tree`, by statement or by `import_module`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            name = node.args[0]
            start = name.values[0] if isinstance(name, ast.JoinedStr) else name
            assert isinstance(start, ast.Constant), f"import of a name nobody can read in line {node.lineno}"
            yield str(start.value), node.lineno


def level(module: str) -> int:
    """Return the level of a name under `tconv`; the package itself stands above all."""
    room = module.split(".")[1:2]
    return PYTHON_ROOMS[room[0]] if room and room[0] in PYTHON_ROOMS else -1


def top_level_statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield what runs at import: not the bodies of functions, not what only type checkers read."""
    for node in tree.body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from node.orelse
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node


@pytest.mark.parametrize("module", [name for name in MODULES if name != "tconv"])
def test_module_has_a_room(module: str) -> None:
    assert level(module) >= 0, f"{module} stands in no room of CONTRIBUTING.md"


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    found = imports(ast.parse(MODULES[module].read_text(encoding="utf-8")))
    upward = [
        f"line {line}: {name}"
        for name, line in found
        if name.split(".")[0] == "tconv" and name not in BESIDE_ROOMS and level(name) < level(module)
    ]
    assert not upward


def test_modules_import_each_other_in_no_circle() -> None:
    graph = {}
    for module, path in MODULES.items():
        statements = top_level_statements(ast.parse(path.read_text(encoding="utf-8")))
        names = {name for statement in statements for name, _ in imports(statement)}
        graph[module] = {n if n in MODULES else n.rpartition(".")[0] for n in names} & MODULES.keys() - {module}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("module", MODULES)
def test_import_needs_no_framework(module: str) -> None:
    own = module.removeprefix("tconv.frameworks.")
    known = {*sys.stdlib_module_names, "numpy", "tconv", own}
    if module.startswith("tconv.cli."):
        known.add("click")
    if module.startswith("tconv.torch"):
        known.add("torch")
    statements = top_level_statements(ast.parse(MODULES[module].read_text(encoding="utf-8")))
    foreign = {name for statement in statements for name, _ in imports(statement)}
    assert {name for name in foreign if name.split(".")[0] not in known} == set()


def test_only_the_native_backend_knows_the_compiled_module() -> None:
    users = {
        module
        for module, path in MODULES.items()
        if any(name.startswith("tconv._core") for name, _ in imports(ast.parse(path.read_text(encoding="utf-8"))))
    }
    assert users <= {"tconv.backends.native"}


def core_room(path: Path) -> str:
    room = path.relative_to(CORE).parts[0].split(".")[0]
    return "abi" if room.endswith("_abi") else room


@pytest.mark.parametrize("path", CORE_FILES, ids=lambda path: str(path.relative_to(CORE)))
def test_includes_point_down(path: Path) -> None:
    assert core_room(path) in CORE_ROOMS, f"{path.name} stands in no room of CONTRIBUTING.md"
    upward = []
    for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(encoding="utf-8"), re.M):
        # A name found nowhere is a file the build generates.
        found = [(place / name).resolve() for place in (path.parent, CORE) if (place / name).exists()]
        upward += [name for included in found[:1] if CORE_ROOMS[core_room(included)] < CORE_ROOMS[core_room(path)]]
    assert not upward


@pytest.mark.parametrize("path", CORE_FILES, ids=lambda path: str(path.relative_to(CORE)))
def test_core_reads_no_environment_and_only_bindings_know_python(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "getenv" not in text
    assert core_room(path) == "bindings" or not re.search(r"nanobind|Python\.h", text)


def test_kernels_see_their_interface_only() -> None:
    seen = {
        name
        for path in (CORE / "kernels").glob("*.cpp")
        for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(encoding="utf-8"), re.M)
    }
    assert {name for name in seen if not name.endswith("_abi.hpp")} == set()


def test_no_file_mutes_a_checker_as_a_whole() -> None:
    muting = re.compile(r"#\s*(ruff|flake8):\s*noqa|#\s*mypy:\s*(ignore|disable)|clang-format " + "off")
    files = [*MODULES.values(), *CORE_FILES, *(ROOT / "tests").rglob("*.py")]
    assert [path for path in files if muting.search(path.read_text(encoding="utf-8"))] == []
