"""The command line: its subcommands, errors and exit codes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from tconv import knobs

pytest.importorskip("click", reason="the command line needs click")

from click.testing import CliRunner, Result

from tconv.cli._group import tconv as group

COMMANDS = group.list_commands(None)


@pytest.fixture
def run() -> Callable[..., Result]:
    """Run `tconv` in this process."""

    def run(*args: object) -> Result:
        return CliRunner().invoke(group, [str(arg) for arg in args], prog_name="tconv")

    return run


def test_help_lists_every_command_and_imports_none(run: Callable[..., Result]) -> None:
    code = """
import sys
sys.argv = ["tconv", "--help"]
try:
    import tconv.__main__
except SystemExit:
    print(*(name for name in sys.modules if name.startswith("tconv.cli.")))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    *text, modules = done.stdout.splitlines()
    assert modules.split() == ["tconv.cli._group"]
    for name in COMMANDS:
        assert any(line.split()[:1] == [name] and len(line.split()) > 2 for line in text)


@pytest.mark.parametrize("name", COMMANDS)
def test_command_has_help_with_examples(run: Callable[..., Result], name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert f"tconv {name}" in result.output.partition("Examples:")[2]


def test_version_and_unknown_command(run: Callable[..., Result]) -> None:
    assert run("--version").output.startswith("tconv, version ")
    assert run("no-such-thing").exit_code == 2


def test_absent_click_is_one_sentence() -> None:
    code = "import sys\nsys.modules['click'] = None\nfrom tconv.cli import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "tconv: the command line needs click; install it by: pip install 'tconv[cli]'\n"


def test_knobs_tells_every_knob(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TCONV_PLANS", "7")
    result = run("knobs")
    assert result.exit_code == 0
    assert all(knob.variable in result.output and knob.doc in result.output for knob in knobs.KNOBS.values())
    assert "7 (set)" in result.output


def test_error_is_one_line(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TCONV_PLANS", "many")
    result = run("knobs")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: TCONV_PLANS: got 'many'")
    assert result.stderr.count("\n") == 1
