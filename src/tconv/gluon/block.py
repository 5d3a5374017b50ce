"""Blocks: layers and networks, run array by array or, once hybridized, as one graph (`mx.gluon.Block`)."""

from __future__ import annotations

import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tconv import autograd, ndarray, symbol
from tconv.context import Context
from tconv.errors import DTypeError, MXNetError, ParameterError, ShapeError
from tconv.gluon import errors
from tconv.gluon.hooks import Hook, HookHandle, Hooks
from tconv.gluon.parameter import DeferredInitializationError, Parameter, ParameterDict, named_arrays
from tconv.gluon.scope import BlockScope, new_names
from tconv.gluon.structure import Form, flatten, forms_agree, regroup
from tconv.gluon.summary import summary_text
from tconv.gluon.text import brief, indent
from tconv.ndarray import NDArray, tape
from tconv.symbol import Symbol
from tconv.symbol.passes import Streamlined
from tconv.symbol.program import Program

__all__ = ["Block", "HybridBlock", "SymbolBlock"]

if TYPE_CHECKING:
    from typing_extensions import Self


class Block:
    """Base of layers and networks. A subclass makes children and parameters, and computes in `forward`.

    A child or parameter set as an attribute is registered under the attribute's name.

    Parameters
    ----------
    prefix : str, optional
        Put before the names of its parameters, and of what is made within `name_scope()`. By default the class's
        name in lower case with a running number.
    params : ParameterDict, optional
        Parameters to share.

    Examples
    --------
    >>> import tconv as mx
    >>> class Net(mx.gluon.Block):
    ...     def __init__(self, **kwargs):
    ...         super().__init__(**kwargs)
    ...         with self.name_scope():
    ...             self.up = mx.gluon.nn.Conv2DTranspose(1, 4, strides=2, padding=1)
    ...
    ...     def forward(self, x):
    ...         return self.up(x) * 2
    >>> net = Net(prefix="net_")
    >>> net.initialize()
    >>> net(mx.nd.ones((1, 3, 5, 5))).shape
    (1, 1, 10, 10)
    >>> list(net.collect_params())
    ['net_conv0_weight', 'net_conv0_bias']
    """

    def __init__(self, prefix: str | None = None, params: ParameterDict | None = None) -> None:
        self._empty_prefix = prefix == ""
        self._prefix, self._params = new_names(prefix, params, self._alias())
        self._name = self._prefix[:-1] if self._prefix.endswith("_") else self._prefix
        self._scope = BlockScope(self)
        self._children: OrderedDict[str, Block] = OrderedDict()
        self._reg_params: dict[str, Parameter] = {}
        self._forward_hooks = Hooks()
        self._forward_pre_hooks = Hooks()

    def __repr__(self) -> str:
        return self._repr_of((key, value) for key, value in self.__dict__.items() if isinstance(value, Block))

    def _repr_of(self, children: Iterator[tuple[str, Block]]) -> str:
        lines = "\n".join(f"  ({key}): {indent(repr(child))}" for key, child in children)
        return f"{type(self).__name__}(\n{lines}\n)"

    def __setattr__(self, name: str, value: Any) -> None:
        existing = getattr(self, name, None)
        if isinstance(existing, (Parameter, Block)) and not isinstance(value, type(existing)):
            raise DTypeError(
                f"{type(self).__name__}: {name}: got {type(value).__name__}; need {type(existing).__name__}"
            )
        if isinstance(value, Block):
            self.register_child(value, name)
        elif isinstance(value, Parameter):
            if name in self._reg_params:
                raise errors.AssertionError(
                    f"{type(self).__name__}: {name}: got a second parameter; to share one, give the block params"
                )
            self._reg_params[name] = value
        super().__setattr__(name, value)

    def _alias(self) -> str:
        return type(self).__name__.lower()

    @property
    def prefix(self) -> str:
        """What the names of its parameters begin with."""
        return self._prefix

    @property
    def name(self) -> str:
        """The prefix without its final underscore."""
        return self._name

    def name_scope(self) -> BlockScope:
        """Return the scope within which names get this block's prefix, for use in a `with` statement."""
        return self._scope

    @property
    def params(self) -> ParameterDict:
        """Parameters of this block alone."""
        return self._params

    def collect_params(self, select: str | None = None) -> ParameterDict:
        """Return the parameters of this block and of all blocks inside.

        Parameters
        ----------
        select : str, optional
            A regular expression that the beginning of a name has to match, as in `".*weight|.*bias"`.
        """
        self._warn_of_hidden_blocks()
        found = ParameterDict(self._params.prefix)
        pattern = re.compile(select or "")
        found.update({name: param for name, param in self.params.items() if pattern.match(name)})
        for child in self._children.values():
            found.update(child.collect_params(select))
        return found

    def _warn_of_hidden_blocks(self) -> None:
        known = set(self._children.values())

        def hides(value: Any) -> bool:
            if isinstance(value, Block):
                return value not in known
            inside = (
                value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
            )
            return any(hides(element) for element in inside)

        for key, value in self.__dict__.items():
            if isinstance(value, (list, tuple, dict)) and key != "_children" and hides(value):
                warnings.warn(
                    f"{type(self).__name__}.{key} holds blocks that are not registered, so their parameters are "
                    "not collected; use register_child() or nn.Sequential",
                    stacklevel=3,
                )

    def _collect_params_with_prefix(self, prefix: str = "") -> dict[str, Parameter]:
        """Return the parameters by the path of attributes that leads to each, as `save_parameters` names them."""
        path = prefix + "." if prefix else ""
        found = {path + key: param for key, param in self._reg_params.items()}
        for name, child in self._children.items():
            found.update(child._collect_params_with_prefix(path + name))
        return found

    def save_parameters(self, filename: str, deduplicate: bool = False) -> None:
        """Write all parameters to a `.params` file, each named by the path of attributes that leads to it.

        Parameters
        ----------
        filename : str
            The file.
        deduplicate : bool
            Whether a shared parameter is written once, under its last path, rather than under each.
        """
        params = self._collect_params_with_prefix()
        if deduplicate:
            last = {param: path for path, param in params.items()}
            params = {path: param for param, path in last.items()}
        ndarray.save(filename, {path: param._reduce() for path, param in params.items()})

    def save_params(self, filename: str) -> None:
        """Write all parameters under their names without this block's prefix; `save_parameters` is preferred."""
        warnings.warn("Block.save_params is deprecated; use save_parameters", DeprecationWarning, stacklevel=2)
        self.collect_params().save(filename, strip_prefix=self.prefix)

    def load_parameters(
        self,
        filename: str,
        ctx: Context | Sequence[Context] | None = None,
        allow_missing: bool = False,
        ignore_extra: bool = False,
        cast_dtype: bool = False,
        dtype_source: str = "current",
    ) -> None:
        """Read a `.params` file written by `save_parameters`, `ParameterDict.save`, `export` or `save_checkpoint`.

        Parameters
        ----------
        filename : str
            The file.
        ctx : Context or list of Context, optional
            Devices to hold a copy.
        allow_missing, ignore_extra : bool
            Whether the file may lack parameters, or have further ones.
        cast_dtype : bool
            Whether another element type is cast instead of refused.
        dtype_source : {'current', 'saved'}
            Which type stays when casting.

        Raises
        ------
        ArgumentError
            If names, shapes or types do not fit.
        """
        loaded = named_arrays(ndarray.load(filename), f"file {filename}")
        params = self._collect_params_with_prefix()
        if not loaded and not params:
            return
        if not any("." in name for name in loaded):
            named = self.collect_params()
            # Files by name carry whole names, or names without this block's prefix.
            prefix = "" if any(name in named for name in loaded) else self.prefix
            named.load_dict(loaded, ctx, allow_missing, ignore_extra, prefix, filename, cast_dtype, dtype_source)
            return
        if not allow_missing:
            present = {params[path] for path in loaded if path in params}
            for path, param in params.items():
                if param not in present:
                    raise errors.AssertionError(
                        f"Parameter {path}: missing in file {filename}, which has {brief(loaded)}; need the same "
                        "paths, or allow_missing=True"
                    )
        for path, array in loaded.items():
            if path in params:
                params[path]._load_init(array, ctx, cast_dtype=cast_dtype, dtype_source=dtype_source)
            elif not ignore_extra:
                raise errors.ValueError(
                    f"Parameter {path}: in file {filename}, but not among {brief(params)}; need the same paths, or "
                    "ignore_extra=True"
                )

    def load_params(
        self,
        filename: str,
        ctx: Context | Sequence[Context] | None = None,
        allow_missing: bool = False,
        ignore_extra: bool = False,
    ) -> None:
        """Read a `.params` file; `load_parameters` is preferred."""
        warnings.warn("Block.load_params is deprecated; use load_parameters", DeprecationWarning, stacklevel=2)
        self.load_parameters(filename, ctx, allow_missing, ignore_extra)

    def register_child(self, block: Block, name: str | None = None) -> None:
        """Take in a child, under a running number if it has no name; attributes are taken in by themselves."""
        self._children[str(len(self._children)) if name is None else name] = block

    def register_forward_pre_hook(self, hook: Hook) -> HookHandle:
        """Have `hook(block, inputs)` run before every call."""
        handle = HookHandle()
        handle.attach(self._forward_pre_hooks, hook)
        return handle

    def register_forward_hook(self, hook: Hook) -> HookHandle:
        """Have `hook(block, inputs, outputs)` run after every call."""
        handle = HookHandle()
        handle.attach(self._forward_hooks, hook)
        return handle

    def apply(self, fn: Callable[[Block], Any]) -> Self:
        """Call `fn` on every block inside, and then on this one, which is returned."""
        for child in self._children.values():
            child.apply(fn)
        fn(self)
        return self

    def initialize(
        self,
        init: Any = None,
        ctx: Context | Sequence[Context] | None = None,
        verbose: bool = False,
        force_reinit: bool = False,
    ) -> None:
        """Initialize all parameters, inside too; arguments as of `ParameterDict.initialize`."""
        self.collect_params().initialize(init, ctx, verbose, force_reinit)

    def hybridize(self, active: bool = True, **kwargs: Any) -> None:
        """Have all hybrid blocks inside run as graphs (or no longer, with `active=False`)."""
        for child in self._children.values():
            child.hybridize(active, **kwargs)

    def cast(self, dtype: Any) -> None:
        """Change the element type of all parameters."""
        for child in self._children.values():
            child.cast(dtype)
        for param in self.params.values():
            param.cast(dtype)

    def __call__(self, *args: Any) -> Any:
        """Run the hooks and `forward`."""
        for hook in self._forward_pre_hooks.values():
            hook(self, args)
        out = self.forward(*args)
        for hook in self._forward_hooks.values():
            hook(self, args, out)
        return out

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the outputs; a subclass defines it."""
        raise NotImplementedError(f"{type(self).__name__}: forward: missing; a subclass has to define it")

    def summary(self, *inputs: Any) -> None:
        """Run the block on `inputs` and print its layers, their output shapes and numbers of parameters.

        Raises
        ------
        ArgumentError
            If the block is hybridized.
        """
        from tconv.gluon.nn import HybridSequential, Sequential

        print(summary_text(self, inputs, (Sequential, HybridSequential)))


# What scripts for MXNet see as an MXNetError and nothing more.
_OPERATOR_ERRORS = (DTypeError, ParameterError, ShapeError)


class _Graph:
    """A block traced to symbols: inputs, outputs, and the forms of arguments and results."""

    def __init__(self, inputs: Sequence[Symbol], out: Symbol, in_form: Form, out_form: Form) -> None:
        self.inputs = list(inputs)
        self.out = out
        self.in_form = in_form
        self.out_form = out_form
        self.program = Program(out)
        self.streamlined = Streamlined(self.program)
        self.input_names = [str(variable.name) for variable in self.inputs]
        self.param_names = [name for name in out.list_inputs() if name not in set(self.input_names)]

    def run(self, arrays: Sequence[NDArray], params: dict[str, NDArray]) -> list[NDArray]:
        """Compute the outputs, as one step of the tape."""
        values = {**params, **dict(zip(self.input_names, arrays))}
        given = {name: value._data for name, value in values.items()}
        ctx = next(iter(values.values())).ctx
        if not (autograd.is_training() or autograd.is_recording()):
            return [NDArray(array, ctx) for array in self.streamlined(given)]
        run = self.program.forward(given, autograd.is_training(), keep=autograd.is_recording())
        outputs = [NDArray(array, ctx) for array in run.outputs]
        if not autograd.is_recording():
            return outputs
        wanted = [name for name in self.program.arguments if tape.source(values[name]) is not None]

        def backward(out_grads: list[Any]) -> list[Any]:
            grads = self.program.backward(run, out_grads, wanted)
            return [grads.get(name) for name in values]

        tape.record(list(values.values()), outputs, backward)
        return outputs


class HybridBlock(Block):
    """A block that runs on arrays and on symbols alike, so that it can be turned into one graph.

    A subclass computes in `hybrid_forward(F, x, ..., **params)`, where F is `mx.nd` or `mx.sym`, and its parameters
    come by the names of their attributes.

    Examples
    --------
    >>> import tconv as mx
    >>> class Scale(mx.gluon.HybridBlock):
    ...     def __init__(self, **kwargs):
    ...         super().__init__(**kwargs)
    ...         self.factor = self.params.get("factor", shape=(1,), init=mx.init.Constant(3))
    ...
    ...     def hybrid_forward(self, F, x, factor):
    ...         return F.broadcast_mul(x, factor)
    >>> net = Scale(prefix="scale_")
    >>> net.initialize()
    >>> net.hybridize()
    >>> net(mx.nd.ones((2,))).asnumpy().tolist()
    [3.0, 3.0]
    >>> net(mx.sym.Variable("x")).list_arguments()
    ['x', 'scale_factor']
    """

    def __init__(self, prefix: str | None = None, params: ParameterDict | None = None) -> None:
        super().__init__(prefix=prefix, params=params)
        self._graph: _Graph | None = None
        self._graph_params: dict[str, Parameter] | None = None
        self._active = False

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if isinstance(value, HybridBlock):
            self._clear_graph()

    def register_child(self, block: Block, name: str | None = None) -> None:
        """Take in a child, as `Block.register_child`.

        Raises
        ------
        DTypeError
            If it is not a HybridBlock.
        """
        if not isinstance(block, HybridBlock):
            raise errors.ValueError(
                f"{type(self).__name__}: got a child of type {type(block).__name__}; need a HybridBlock "
                "(HybridSequential instead of Sequential)"
            )
        super().register_child(block, name)
        self._clear_graph()

    def _clear_graph(self) -> None:
        self._graph = None
        self._graph_params = None

    def hybridize(
        self,
        active: bool = True,
        backend: str | None = None,
        clear: bool = True,
        static_alloc: bool = False,
        static_shape: bool = False,
        inline_limit: int = 2,
        forward_bulk_size: int | None = None,
        backward_bulk_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Have this block, with all inside, run as one graph, traced at the next call.

        Parameters
        ----------
        active : bool
            False to run operator by operator again.
        clear : bool
            Whether to forget the graph of earlier calls.
        backend, static_alloc, static_shape, inline_limit, forward_bulk_size, backward_bulk_size, **kwargs
            Known for the sake of scripts; the graph runs the same with any.
        """
        self._active = active
        if clear:
            self._clear_graph()
        if active and (self._forward_hooks or self._forward_pre_hooks):
            warnings.warn(
                f"{self.name}: hybridized while it has hooks; inside of another hybridized block they will not run",
                stacklevel=2,
            )
        super().hybridize(active, static_alloc=static_alloc, static_shape=static_shape)

    def cast(self, dtype: Any) -> None:
        """Change the element type of all parameters."""
        self._clear_graph()
        super().cast(dtype)

    def _trace(self, *args: Any) -> _Graph:
        if self._graph is None:
            flat, in_form = flatten(args, "input")
            count = sum(arg is not None for arg in flat)
            if count == 0:
                raise errors.ValueError(f"{self.name}: input: got None only; need an array or a symbol")
            names = iter(["data"] if count == 1 else [f"data{number}" for number in range(count)])
            variables = [None if arg is None else symbol.var(next(names)) for arg in flat]
            params = {key: param.var() for key, param in self._reg_params.items()}
            with self.name_scope():
                result = self.hybrid_forward(symbol, *regroup(variables, in_form), **params)
            outputs, out_form = flatten(result, "output")
            inputs = [variable for variable in variables if variable is not None]
            self._graph = _Graph(inputs, symbol.Group(outputs), in_form, out_form)
        return self._graph

    def _ready_graph(self, *args: Any) -> tuple[_Graph, dict[str, Parameter]]:
        """Return the graph and its parameters, which are all initialized."""
        graph = self._trace(*args)
        if self._graph_params is not None:
            return graph, self._graph_params
        known = self.collect_params()
        used = set(graph.out.list_inputs())
        for name in graph.param_names:
            if name not in known:
                raise errors.AssertionError(
                    f"{self.name}: {name}: the graph needs it, but no parameter has this name"
                )
        for number, name in enumerate(graph.input_names):
            if name not in used:
                warnings.warn(f"{self.name}: input {number} is not used by any computation", stacklevel=5)
        unused = [name for name in known if name not in used]
        if unused:
            warnings.warn(f"{self.name}: {brief(unused)}: not used by any computation", stacklevel=5)
        params = {name: known[name] for name in graph.param_names}
        try:
            for param in params.values():
                param.list_data()
        except DeferredInitializationError:
            self._infer_shape_for_init(*args)
            for param in params.values():
                param._finish_deferred_init()
        self._graph_params = params
        return graph, params

    def _call_graph(self, ctx: Context, *args: Any) -> Any:
        graph, params = self._ready_graph(*args)
        flat, form = flatten(args, "input")
        if not forms_agree(form, graph.in_form):
            raise errors.ValueError(
                f"{self.name}: input: got arguments nested as {form}; need {graph.in_form} as in the first call"
            )
        arrays = [array for array in flat if array is not None]
        values = {name: param.data(ctx) for name, param in params.items()}
        return regroup(graph.run(arrays, values), graph.out_form)

    def _infer_shape_for_init(self, *args: Any) -> None:
        try:
            self.infer_shape(*args)
        except MXNetError as error:
            raise errors.ValueError(
                f"{self.name}: deferred initialization cannot infer the shapes: {error}"
            ) from error

    def _infer(self, what: str, attribute: str, *args: Any) -> None:
        graph = self._trace(*args)
        flat = [arg for arg in flatten(args, "input")[0] if arg is not None]
        used = set(graph.out.list_inputs())
        known = {name: getattr(arg, attribute) for name, arg in zip(graph.input_names, flat) if name in used}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found, _, states = getattr(graph.out, what)(**known)
        if found is None:
            reason = str(caught[0].message) if caught else f"{what} of {known} leaves parameters unknown"
            raise errors.ValueError(f"{self.name}: {reason}")
        names = (*graph.out.list_arguments(), *graph.out.list_auxiliary_states())
        values = dict(zip(names, (*found, *states)))
        for name, param in self.collect_params().items():
            if name in values:
                setattr(param, attribute, values[name])

    def infer_shape(self, *args: Any) -> None:
        """Set the shapes of all parameters from arguments.

        Raises
        ------
        ShapeError
            If they do not follow, or contradict what is known.
        """
        self._infer("infer_shape", "shape", *args)

    def infer_type(self, *args: Any) -> None:
        """Set the types of all parameters from arguments; raises as `infer_shape`."""
        self._infer("infer_type", "dtype", *args)

    def export(self, path: str, epoch: int = 0, remove_amp_cast: bool = True) -> None:
        """Write the graph to `path-symbol.json` and the parameters to `path-%04d.params`.

        The inputs are called `data`, or `data0`, `data1`, ... where there are several. `SymbolBlock.imports` and
        `mx.model.load_checkpoint` read the files.

        Parameters
        ----------
        path : str
            Beginning of the files' names.
        epoch : int
            Number in the name of the parameter file.
        remove_amp_cast : bool
            Known for the sake of scripts; there are no such casts.

        Raises
        ------
        MXNetError
            If the block has not been hybridized and called.
        """
        if self._graph is None:
            raise errors.RuntimeError(
                f"{self.name}: export: there is no graph yet; call hybridize() and then the block once"
            )
        out = self._graph.out
        out.save(f"{path}-symbol.json")
        states = set(out.list_auxiliary_states())
        params = self.collect_params()
        arrays = {
            f"{'aux' if name in states else 'arg'}:{name}": params[name]._reduce()
            for name in self._graph.param_names
        }
        ndarray.save(f"{path}-{epoch:04d}.params", arrays)

    def forward(self, x: Any, *args: Any) -> Any:
        """Compute on arrays, or make the symbol where the arguments are symbols.

        Raises
        ------
        ArgumentError
            If arrays and symbols are mixed, or there is neither.
        MXNetError
            If a parameter has not been initialized.
        """
        flat = flatten([x, *args], "input")[0] if self._active else list(_leaves([x, *args]))
        arrays = [arg for arg in flat if isinstance(arg, NDArray)]
        symbols = any(isinstance(arg, Symbol) for arg in flat)
        if bool(arrays) == symbols:
            raise errors.ValueError(
                f"{self.name}: input: got {'arrays and symbols' if symbols else 'neither arrays nor symbols'}; "
                "need one of them"
            )
        if symbols:
            variables = {key: param.var() for key, param in self._reg_params.items()}
            with self.name_scope():
                return self.hybrid_forward(symbol, x, *args, **variables)
        ctx = arrays[0].ctx
        try:
            with ctx:
                if self._active:
                    return self._call_graph(ctx, x, *args)
                return self.hybrid_forward(ndarray, x, *args, **self._params_on(ctx, x, *args))
        except _OPERATOR_ERRORS as error:
            raise MXNetError(f"{self.name}: {error}") from error

    def _params_on(self, ctx: Context, *args: Any) -> dict[str, NDArray]:
        try:
            return {key: param.data(ctx) for key, param in self._reg_params.items()}
        except DeferredInitializationError:
            self._infer_shape_for_init(*args)
            for param in self.params.values():
                param._finish_deferred_init()
            return {key: param.data(ctx) for key, param in self._reg_params.items()}

    def hybrid_forward(self, F: Any, x: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N803
        """Compute the outputs with the functions of F, which is `mx.nd` or `mx.sym`; a subclass defines it."""
        raise NotImplementedError(f"{type(self).__name__}: hybrid_forward: missing; a subclass has to define it")


def _leaves(values: Any) -> Iterator[Any]:
    if isinstance(values, (list, tuple)):
        for value in values:
            yield from _leaves(value)
    else:
        yield values


class SymbolBlock(HybridBlock):
    """A block made of a symbol, as for the inside of a trained network.

    Parameters
    ----------
    outputs : Symbol or list of Symbol
        What it computes.
    inputs : Symbol or list of Symbol
        Variables that are its arguments; all other variables become parameters.
    params : ParameterDict, optional
        Parameters to share.

    Raises
    ------
    ArgumentError
        If an input is not a variable.

    Examples
    --------
    >>> import tconv as mx
    >>> x = mx.sym.Variable("x")
    >>> net = mx.gluon.SymbolBlock(mx.sym.Deconvolution(x, kernel=(2,), num_filter=1, name="up"), x)
    >>> net.initialize(mx.init.One())
    >>> net(mx.nd.ones((1, 1, 3))).asnumpy().tolist()
    [[[1.0, 2.0, 2.0, 1.0]]]
    """

    @staticmethod
    def imports(
        symbol_file: str,
        input_names: str | Sequence[str],
        param_file: str | None = None,
        ctx: Context | Sequence[Context] | None = None,
        allow_missing: bool = False,
        ignore_extra: bool = False,
    ) -> SymbolBlock:
        """Return the block that `export` or `save_checkpoint` wrote.

        Parameters
        ----------
        symbol_file : str
            The `-symbol.json` file.
        input_names : str or list of str
            Names of its variables that are arguments.
        param_file : str, optional
            The `.params` file; without it the parameters are not initialized.
        ctx : Context or list of Context, optional
            Devices to hold a copy.
        allow_missing, ignore_extra : bool
            Whether the file may lack parameters, or have further ones.
        """
        names = [input_names] if isinstance(input_names, str) else input_names
        # With a file, the types are the file's.
        dtype = np.float32 if param_file is None else None
        block = SymbolBlock(symbol.load(symbol_file), [symbol.var(name, dtype=dtype) for name in names])
        if param_file is not None:
            block.collect_params().load(
                param_file, ctx, allow_missing, ignore_extra, cast_dtype=True, dtype_source="saved"
            )
        return block

    def __init__(self, outputs: Any, inputs: Any, params: ParameterDict | None = None) -> None:
        super().__init__()
        self._prefix = ""
        self._params = ParameterDict("", params)
        variables, in_form = flatten(
            [inputs] if isinstance(inputs, Symbol) and len(inputs.list_outputs()) == 1 else inputs, "inputs"
        )
        if isinstance(outputs, (list, tuple)) and len(outputs) == 1:
            outputs = outputs[0]
        flat, out_form = flatten(outputs, "outputs")
        for variable in variables:
            if len(variable.get_internals().list_outputs()) != 1:
                raise errors.AssertionError(
                    f"SymbolBlock: inputs: got {variable.name}, computed from others; need a variable"
                )
        out = symbol.Group(flat) if len(flat) > 1 else flat[0]
        graph = _Graph(variables, out, in_form, out_form)
        dtypes = _inferred_dtypes(graph)
        states = set(out.list_auxiliary_states())
        for name in graph.param_names:
            fixed = {"grad_req": "null"} if name in states else {}
            self.params.get(name, allow_deferred_init=True, dtype=dtypes.get(name, np.float32), **fixed)
        self._graph = graph
        shared = len(_common_prefix(list(self.params.keys())))
        self._reg_params = {name[shared:]: param for name, param in self.params.items()}

    def __repr__(self) -> str:
        graph = self._trace()
        return f"{type(self).__name__}(\n{graph.out} : {len(graph.inputs)} -> {len(graph.out.list_outputs())}\n)"

    def _trace(self, *args: Any) -> _Graph:
        assert self._graph is not None
        return self._graph

    def _clear_graph(self) -> None:
        self._graph_params = None

    def forward(self, x: Any, *args: Any) -> Any:
        """Compute on arrays, or put symbols in the place of the inputs."""
        if isinstance(x, NDArray):
            with x.ctx:
                return self._call_graph(x.ctx, x, *args)
        if not isinstance(x, Symbol):
            raise errors.AssertionError(f"SymbolBlock: input: got {type(x).__name__}; need an array or a symbol")
        graph = self._trace()
        flat, form = flatten([x, *args], "input")
        if not forms_agree(form, graph.in_form):
            raise errors.AssertionError(f"SymbolBlock: input: got arguments nested as {form}; need {graph.in_form}")
        composed = graph.out(**dict(zip(graph.input_names, flat)))
        return regroup(list(composed), graph.out_form)

    def cast(self, dtype: Any) -> None:
        """Change the element type of all parameters, those of BatchNorm staying float32 for float16."""
        super().cast(dtype)
        if np.dtype(dtype).name != "float16":
            return
        for name in list(self.params.keys()):
            for ending, mean in (("running_var", "running_mean"), ("moving_var", "moving_mean")):
                stem = name.removesuffix(ending)
                family = [stem + part for part in (mean, "gamma", "beta")]
                if stem != name and all(member in self.params for member in family):
                    for member in (name, *family):
                        self.params[member].cast("float32")

    def reset_ctx(self, ctx: Context | Sequence[Context] | None) -> None:
        """Move all parameters to other devices."""
        self.collect_params().reset_ctx(ctx)


def _inferred_dtypes(graph: _Graph) -> dict[str, Any]:
    """Return the types of parameters that follow from the types of the inputs, if these are known."""
    known = {}
    for variable in graph.inputs:
        dtype = variable.attr("__dtype__")
        if dtype is None:
            return {}
        known[str(variable.name)] = (variable.infer_type()[0] or [None])[0]
    try:
        found, _, states = graph.out.infer_type(**known)
    except MXNetError:
        return {}
    if found is None or states is None:
        return {}
    return dict(zip((*graph.out.list_arguments(), *graph.out.list_auxiliary_states()), (*found, *states)))


def _common_prefix(names: list[str]) -> str:
    first, last = min(names, default=""), max(names, default="")
    length = next((at for at, (a, b) in enumerate(zip(first, last)) if a != b), min(len(first), len(last)))
    return first[:length]
