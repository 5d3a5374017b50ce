"""The group of all subcommands, their errors, and their exit codes."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from tconv import __version__, cli
from tconv.errors import MXNetError

INTERRUPTED = 130


class LazyGroup(click.Group):
    """A group whose subcommands are modules, of which a list of them all imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the modules that are subcommands."""
        return sorted(found.name for found in pkgutil.iter_modules(cli.__path__) if found.name[0] != "_")

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand."""
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = import_module(f"tconv.cli.{cmd_name}").command
        command.name = cmd_name
        # Docstrings are raw, and click wants the character itself before lines it must not join.
        command.help = (command.help or "").replace("\\b\n", "\b\n")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the first line of every subcommand's docstring."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _summary(name)) for name in self.list_commands(ctx)])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a subcommand, and tell its errors in one line."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (MXNetError, OSError) as error:
            raise click.ClickException(" ".join(str(error).split())) from error
        except MemoryError as error:
            raise click.ClickException(" ".join(f"not enough memory: {error}".split())) from error
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            sys.exit(INTERRUPTED)


def _summary(name: str) -> str:
    source = Path(cli.__path__[0], f"{name}.py").read_text(encoding="utf-8")
    return inspect.cleandoc(ast.get_docstring(ast.parse(source)) or "").partition("\n")[0].rstrip(".")


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 116})
@click.version_option(__version__, prog_name="tconv")
def tconv() -> None:
    """Run, inspect and convert models of MXNet; tell what the operator does with a problem."""
