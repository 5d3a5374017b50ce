"""List the settings read from the environment."""

import os

import click

from tconv.knobs import KNOBS, read


@click.command()
def command() -> None:
    r"""List the settings read from the environment, with their values.

    \b
    Examples:
      tconv knobs
      TCONV_THREADS=1 tconv knobs
    """
    width = max(len(knob.variable) for knob in KNOBS.values())
    for name, knob in KNOBS.items():
        origin = "set" if knob.variable in os.environ else "default"
        click.echo(f"{knob.variable:{width}}  {read(name)!r} ({origin})")
        click.echo(f"{'':{width}}  {knob.doc}")
