"""From a symbol to an ONNX model: what MXNet's operators become is told by the converters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np

from tconv import dtypes, ndarray
from tconv.dtypes import DType
from tconv.errors import MXNetError, ParameterError
from tconv.ndarray import NDArray
from tconv.onnx import elementwise, shapes, spatial  # noqa: F401  # Converters enter themselves.
from tconv.onnx.graph import CONVERTERS, ExportError, Graph, OnnxNode, OnnxValue, Site
from tconv.onnx.writer import write
from tconv.operators.registry import Array
from tconv.symbol import Symbol, load
from tconv.symbol.inference import DTypes, Shapes
from tconv.symbol.node import Entry, Node, variables, walk

__all__ = ["Dims", "export_model", "to_model"]

Dims = Sequence["int | str | None"]
"""Sizes of an input; a text, or None, is one that varies."""


def export_model(
    sym: Symbol | str | PathLike[str],
    params: Mapping[str, Any] | str | PathLike[str],
    in_shapes: Sequence[Dims] | Mapping[str, Dims] | None = None,
    in_types: Any = np.float32,
    onnx_file_path: str | PathLike[str] = "model.onnx",
    verbose: bool = False,
    dynamic: bool = False,
    dynamic_input_shapes: Sequence[Dims] | Mapping[str, Dims] | None = None,
    run_shape_inference: bool = False,
    input_type: Any = None,
    input_shape: Any = None,
) -> str:
    """Write a symbol and its parameters as an ONNX model of operator set 17.

    Parameters
    ----------
    sym : Symbol or path
        The network, or its JSON file.
    params : mapping of str to NDArray, or path
        Its parameters, with or without `arg:` and `aux:` before the names, or their `.params` file.
    in_shapes : sequence in the order of the inputs, or mapping by name
        Shapes of the inputs, which are the arguments without parameter. A text is a size that varies, as in
        ``{"data": ("batch", 3, "height", "width")}``.
    in_types : dtype or sequence of dtype
        Types of the inputs.
    onnx_file_path : path
        Where to write.
    verbose : bool
        Known for the sake of scripts.
    dynamic : bool
        Whether `dynamic_input_shapes` count, and without them every first size varies.
    dynamic_input_shapes : sequence or mapping, optional
        The shapes, with None or text for sizes that vary.
    run_shape_inference : bool
        Known for the sake of scripts; shapes of outputs are always told.
    input_type, input_shape : optional
        Older names of `in_types` and `in_shapes`.

    Returns
    -------
    str
        The path of the file.

    Raises
    ------
    ExportError
        If ONNX has no counterpart of an operator (all are listed) or of a parameter.
    MXNetError
        If the shapes do not fit, or a parameter is missing.

    Examples
    --------
    >>> import tconv as mx
    >>> up = mx.sym.Deconvolution(mx.sym.var("data"), kernel=(4, 4), stride=(2, 2), num_filter=3, name="up")
    >>> params = {"up_weight": mx.nd.ones((8, 3, 4, 4))}
    >>> mx.onnx.export_model(up, params, [("batch", 8, 16, 16)], onnx_file_path="up.onnx")  # doctest: +SKIP
    'up.onnx'
    """
    network = sym if isinstance(sym, Symbol) else load(sym)
    given = params if isinstance(params, Mapping) else ndarray.load(params)
    if not isinstance(given, Mapping):
        raise ParameterError(f"onnx: params: got {str(params)!r}, a file of arrays without names; need names")
    shapes_given = in_shapes if input_shape is None else input_shape
    if dynamic:
        shapes_given = dynamic_input_shapes or shapes_given
    names = [name for name in network.list_inputs() if name not in _plain(given)]
    by_name = _by_name(shapes_given, names)
    if dynamic and dynamic_input_shapes is None:
        by_name = {name: ("batch", *dims[1:]) for name, dims in by_name.items()}
    types = in_types if input_type is None else input_type
    if not isinstance(types, (list, tuple)):
        types = [types] * len(names)
    graph = to_model(network, given, by_name, dict(zip(names, types)))
    write(graph, str(onnx_file_path))
    return str(onnx_file_path)


def _by_name(given: Any, names: Sequence[str]) -> dict[str, Dims]:
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return dict(given)
    if isinstance(given, tuple) and all(size is None or isinstance(size, (int, str)) for size in given):
        given = [given]
    return dict(zip(names, given))


def _plain(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters without `arg:` and `aux:` before their names."""
    return {name.split(":", 1)[-1] if name[:4] in ("arg:", "aux:") else name: a for name, a in params.items()}


def to_model(
    symbol: Symbol,
    params: Mapping[str, Any],
    in_shapes: Mapping[str, Dims],
    in_types: Mapping[str, Any] | None = None,
) -> Graph:
    """Convert a symbol and its parameters to an ONNX graph, without need of any ONNX library.

    Parameters and errors are those of `export_model`.

    Examples
    --------
    >>> import tconv as mx
    >>> net = mx.sym.relu(mx.sym.var("x") + 1)
    >>> [node.op for node in mx.onnx.to_model(net, {}, {"x": ("batch", 2)}).nodes]
    ['Add', 'Relu']
    """
    return _Export(symbol, _plain(params), in_shapes, in_types or {}).graph


FLOATING_ONLY = {
    *("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Cos", "Cosh", "Erf", "Exp", "Floor", "IsNaN"),
    *("Log", "Reciprocal", "Sigmoid", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Tan", "Tanh"),
}


class _Export:
    """The walk over a symbol, operator by operator."""

    def __init__(
        self,
        symbol: Symbol,
        params: Mapping[str, Any],
        in_shapes: Mapping[str, Dims],
        in_types: Mapping[str, Any],
    ) -> None:
        self.graph = Graph()
        self._names: dict[Entry, str] = {}
        heads = [head._replace(version=0) for head in symbol.heads]
        order = walk(heads)
        _check_operators(order)
        arrays = {
            name: array.asnumpy() if isinstance(array, NDArray) else np.asarray(array)
            for name, array in params.items()
        }
        found = [node.name for nodes in variables(order) for node in nodes]
        unknown = [name for name in in_shapes if name not in found]
        if unknown:
            raise ParameterError(f"onnx: in_shapes: got {', '.join(unknown)}; the inputs are {', '.join(found)}")
        known: dict[str, tuple[int | None, ...] | None] = {
            name: tuple(size if isinstance(size, int) and size > 0 else None for size in dims)
            for name, dims in in_shapes.items()
        }
        known |= {name: arrays[name].shape for name in found if name in arrays}
        types: dict[str, DType | None] = {name: dtypes.as_dtype(dtype) for name, dtype in in_types.items()}
        types |= {name: arrays[name].dtype for name in found if name in arrays}
        self._shapes, self._dtypes = Shapes(heads, known), DTypes(heads, types)
        _check_batch(heads, known, in_shapes)
        for node in order:
            if node.operator is None:
                self._enter_variable(node, arrays, in_shapes)
            else:
                self._convert(node)
        self._finish(heads)

    def _enter_variable(self, node: Node, arrays: Mapping[str, Array], in_shapes: Mapping[str, Dims]) -> None:
        entry = Entry(node)
        name = self.graph.unique(node.name)
        if node.name in arrays:
            self.graph.constants[name] = arrays[node.name]
        else:
            shape, dtype = self._shapes.of(entry), self._dtypes.of(entry)
            words = in_shapes.get(node.name, shape or ())
            dims = (
                None
                if shape is None
                else tuple(
                    (word if isinstance(word, str) else f"{name}_{axis}") if size is None else size
                    for axis, (size, word) in enumerate(zip(shape, words))
                )
            )
            self.graph.inputs.append(OnnxValue(name, dims, dtype or np.dtype(np.float32)))
        self._names[entry] = name

    def _convert(self, node: Node) -> None:
        assert node.operator is not None
        entries = [Entry(node, place) for place in range(len(node.output_names))]
        inputs = [entry._replace(version=0) for entry in node.inputs]
        site = Site(
            self.graph,
            node.operator.name,
            node.name,
            node.params,
            [self._names[entry] for entry in inputs],
            [self._shapes.of(entry) for entry in inputs],
            [self._shapes.of(entry) for entry in entries],
            [self._dtypes.of(entry) or np.dtype(np.float32) for entry in inputs],
            [self._dtypes.of(entry) or np.dtype(np.float32) for entry in entries],
        )
        begin = len(self.graph.nodes)
        made = CONVERTERS[site.operator](site)
        if site.dtypes and site.dtypes[0].kind != "f":
            narrow = sorted({node.op for node in self.graph.nodes[begin:]} & FLOATING_ONLY)
            if narrow:
                raise site.refusal("data", f"{site.dtypes[0]}, which ONNX's {narrow[0]} does not take", "a float")
        for entry, name in zip(entries, [made] if isinstance(made, str) else made):
            self._names[entry] = self._renamed(begin, name, entry.name)

    def _renamed(self, begin: int, name: str, wanted: str) -> str:
        """Give an output of a node that was just made the name it has in MXNet."""
        producer = next((node for node in self.graph.nodes[begin:] if name in node.outputs), None)
        if producer is None:
            return name
        new = self.graph.unique(wanted)
        for node in self.graph.nodes[begin:]:
            node.inputs = [new if one == name else one for one in node.inputs]
        producer.outputs = [new if one == name else one for one in producer.outputs]
        return new

    def _finish(self, heads: Sequence[Entry]) -> None:
        taken = {value.name for value in self.graph.inputs}
        for head in heads:
            if head not in self._names:
                raise ExportError(f"onnx: output {head.name}: got one that is not there in ONNX; need another")
            name, shape = self._names[head], self._shapes.of(head)
            if name in taken or name in self.graph.constants:
                copy = self.graph.unique(head.name)
                self.graph.nodes.append(OnnxNode("Identity", [name], [copy], {}))
                name = copy
            taken.add(name)
            self.graph.outputs.append(OnnxValue(name, shape, self._dtypes.of(head) or np.dtype(np.float32)))
        self.graph.prune()
        untold = [value.name for value in self.graph.inputs if value.shape is None]
        if untold:
            raise ParameterError(
                f"onnx: in_shapes: {', '.join(untold)}: missing; need the shape of every input, and parameters of "
                "all others"
            )


def _check_batch(
    heads: Sequence[Entry], known: Mapping[str, tuple[int | None, ...] | None], in_shapes: Mapping[str, Dims]
) -> None:
    """Refuse a first size that varies where the graph allows no other than 1."""
    of_two = {
        name: (2, *sizes[1:])
        for name, sizes in known.items()
        if sizes and name in in_shapes and not isinstance(in_shapes[name][0], int)
    }
    try:
        Shapes(heads, {**known, **of_two})
    except MXNetError as error:
        raise ExportError(
            f"onnx: in_shapes: got a first size that varies; the graph does not allow 2: {error}"
        ) from None


def _check_operators(order: Sequence[Node]) -> None:
    missing = sorted({n.operator.name for n in order if n.operator} - CONVERTERS.keys())
    if missing:
        raise ExportError(f"onnx: op: got {', '.join(missing)}; ONNX has no counterpart of it")
