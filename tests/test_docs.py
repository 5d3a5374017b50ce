"""Every example of the documentation runs: in docstrings, in README.md and in docs/."""

from __future__ import annotations

import ast
import doctest
import re
from importlib import import_module
from pathlib import Path

import pytest

import tconv as mx
from tconv.params import DeconvolutionParams

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "tconv"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MODULES = [
    ".".join(("tconv", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def run(test: doctest.DocTest) -> dict[str, object]:
    """Run one doctest, with automatic names starting at 0; return the names it leaves."""
    report: list[str] = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=FLAGS)
    with mx.name.NameManager():
        runner.run(test, out=report.append, clear_globs=False)
    assert not report, "".join(report)
    return test.globs


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if name.startswith("tconv.torch"):
        pytest.importorskip("torch", reason="PyTorch is not installed")
    module = import_module(name)
    tests = [test for test in doctest.DocTestFinder(exclude_empty=True).find(module) if test.examples]
    assert tests
    for test in tests:
        run(test)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the Python blocks of a page one after the other, in one namespace."""
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    if ">>> import torch" in text:
        pytest.importorskip("torch", reason="PyTorch is not installed")
    names: dict[str, object] = {}
    parser = doctest.DocTestParser()
    for block in re.finditer(r"^```(python|pycon)\n(.*?)^```", text, re.M | re.S):
        line = text.count("\n", 0, block.start(2))
        if block[1] == "pycon":
            names = run(parser.get_doctest(block[2], names, page.name, str(page), line))
        else:
            exec(compile("\n" * line + block[2], str(page), "exec"), names)


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.name
)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_argument_is_in_the_reference() -> None:
    text = (
        (ROOT / "docs" / "deconvolution.md")
        .read_text(encoding="utf-8")
        .partition("## Arguments")[2]
        .partition("\n## ")[0]
    )
    table = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", text, re.M))
    rows = DeconvolutionParams.rows()
    assert [*table][3:] == [row.name for row in rows]
    for row in rows:
        told = table[row.name]
        if told.startswith("`"):
            assert ast.literal_eval(told.strip("`")) == row.default
        else:
            assert row.required if told == "required" else row.default == ()
