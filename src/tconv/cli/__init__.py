"""The command line, `tconv`: one module of this package a subcommand, imported when it is asked for.

A module `NAME` defines `command`, and the first line of its docstring tells what `tconv NAME` does; nothing else
registers it. Modules that begin with an underscore are no subcommands.
"""

import sys
from importlib.util import find_spec

__all__ = ["main"]


def main() -> None:
    """Run `tconv` with the arguments of the process, and leave with its exit code.

    0 is success; 1 an error, told in one line; 2 a command line that does not parse; 130 an interrupt.
    """
    if find_spec("click") is None:
        sys.exit("tconv: the command line needs click; install it by: pip install 'tconv[cli]'")
    from tconv.cli._group import tconv

    tconv(prog_name="tconv")
