"""Checkpoints: a symbol and its parameters as two files (`mx.model`)."""

from __future__ import annotations

import logging
from collections import namedtuple
from collections.abc import Mapping

from tconv import context, ndarray, symbol
from tconv.errors import FormatError
from tconv.ndarray import NDArray
from tconv.symbol import Symbol

__all__ = ["BatchEndParam", "load_checkpoint", "load_params", "save_checkpoint"]

BatchEndParam = namedtuple("BatchEndParam", ["epoch", "nbatch", "eval_metric", "locals"])  # noqa: PYI024
"""What a callback at the end of a batch is given."""


def _params_file(prefix: str, epoch: int) -> str:
    return f"{prefix}-{epoch:04d}.params"


def save_checkpoint(
    prefix: str,
    epoch: int,
    symbol: Symbol | None,
    arg_params: Mapping[str, NDArray],
    aux_params: Mapping[str, NDArray],
    remove_amp_cast: bool = True,
) -> None:
    """Write `PREFIX-symbol.json` and `PREFIX-%04d.params`.

    Parameters
    ----------
    prefix : str
        Beginning of the files' names.
    epoch : int
        Number in the name of the parameter file.
    symbol : Symbol or None
        The network; None to write the parameters alone.
    arg_params, aux_params : dict of str to NDArray
        Arguments and auxiliary states.
    remove_amp_cast : bool
        Known for the sake of scripts; there are no such casts.
    """
    if symbol is not None:
        symbol.save(f"{prefix}-symbol.json")
    arrays = {f"arg:{name}": array.as_in_context(context.cpu()) for name, array in arg_params.items()}
    arrays |= {f"aux:{name}": array.as_in_context(context.cpu()) for name, array in aux_params.items()}
    path = _params_file(prefix, epoch)
    ndarray.save(path, arrays)
    logging.info('Saved checkpoint to "%s"', path)


def load_params(prefix: str, epoch: int) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
    """Read arguments and auxiliary states from `PREFIX-%04d.params`.

    Raises
    ------
    FormatError
        If the file is damaged, or its names do not begin with `arg:` or `aux:`.
    """
    return read_params(_params_file(prefix, epoch))


def read_params(path: str) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
    """Read arguments and auxiliary states from a file; raises as `load_params`."""
    loaded = ndarray.load(path)
    found: dict[str, dict[str, NDArray]] = {"arg": {}, "aux": {}}
    if not loaded:
        logging.warning("Params file '%s' is empty", path)
    elif not isinstance(loaded, dict):
        raise FormatError(f"load_params: {path}: got arrays without names; need names that begin with arg: or aux:")
    else:
        for key, array in loaded.items():
            kind, colon, name = key.partition(":")
            if not colon:
                raise FormatError(f"load_params: {path}: got the name {key!r}; need arg: or aux: before it")
            if kind in found:
                found[kind][name] = array
    return found["arg"], found["aux"]


def load_checkpoint(prefix: str, epoch: int) -> tuple[Symbol, dict[str, NDArray], dict[str, NDArray]]:
    """Read a checkpoint.

    Parameters
    ----------
    prefix : str
        Beginning of the files' names.
    epoch : int
        Number in the name of the parameter file.

    Returns
    -------
    symbol : Symbol
        The network.
    arg_params, aux_params : dict of str to NDArray
        Arguments and auxiliary states.

    Raises
    ------
    FormatError
        If a file is damaged.

    Examples
    --------
    >>> import tconv as mx, tempfile
    >>> net = mx.sym.Deconvolution(mx.sym.Variable("data"), kernel=(2,), num_filter=1, name="up")
    >>> prefix = tempfile.mkdtemp() + "/model"
    >>> mx.model.save_checkpoint(prefix, 3, net, {"up_weight": mx.nd.ones((1, 1, 2))}, {})
    >>> loaded, args, states = mx.model.load_checkpoint(prefix, 3)
    >>> loaded.list_arguments(), list(args), states
    (['data', 'up_weight'], ['up_weight'], {})
    """
    arg_params, aux_params = load_params(prefix, epoch)
    return symbol.load(f"{prefix}-symbol.json"), arg_params, aux_params
