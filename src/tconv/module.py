"""A network with its parameters, its optimizer and the loop around them (`mx.mod`, `mx.module`)."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tconv import context, metric, model, ndarray
from tconv.context import Context
from tconv.errors import ArgumentError, MXNetError
from tconv.initializer import InitDesc, Initializer, Uniform
from tconv.io import DataBatch, DataDesc
from tconv.ndarray import NDArray
from tconv.optimizer import Optimizer, Updater, get_updater
from tconv.optimizer import create as create_optimizer
from tconv.symbol import Symbol
from tconv.symbol.executor import Executor

__all__ = ["BaseModule", "Module"]

Params = Mapping[str, NDArray]
Metric = metric.EvalMetric
Callbacks = Any
_PARAMETER_ENDINGS = ("_weight", "_bias", "_gamma", "_beta")


def _called(callbacks: Callbacks, *args: Any) -> None:
    if callbacks is not None:
        for callback in callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]:
            callback(*args)


class BaseModule:
    """What any module can do by means of its `forward`, `backward` and `update`.

    Attributes
    ----------
    binded, params_initialized, optimizer_initialized : bool
        What has been done already.
    for_training, inputs_need_grad : bool
        What it was bound for.
    """

    def __init__(self, logger: Any = logging) -> None:
        self.logger = logger
        self.binded = False
        self.for_training = False
        self.inputs_need_grad = False
        self.params_initialized = False
        self.optimizer_initialized = False
        self._symbol: Symbol | None = None

    @property
    def symbol(self) -> Symbol | None:
        """The network."""
        return self._symbol

    if TYPE_CHECKING:
        # What a subclass defines.
        def __getattr__(self, name: str) -> Any: ...

    def forward_backward(self, data_batch: DataBatch) -> None:
        """Compute outputs and gradients for training."""
        self.forward(data_batch, is_train=True)
        self.backward()

    def prepare(self, data_batch: DataBatch, sparse_row_id_fn: Any = None) -> None:
        """Do nothing; a subclass may get ready for a batch here."""

    def save_params(self, fname: str) -> None:
        """Write the parameters to a file."""
        arg_params, aux_params = self.get_params()
        named = {f"arg:{name}": array for name, array in arg_params.items()}
        ndarray.save(fname, {**named, **{f"aux:{name}": array for name, array in aux_params.items()}})

    def load_params(self, fname: str) -> None:
        """Take the parameters from a file that `save_params` or `save_checkpoint` wrote.

        Raises
        ------
        FormatError
            If the file is damaged, or its names do not begin with `arg:` or `aux:`.
        """
        self.set_params(*model.read_params(fname))

    def _check_ready(self, what: str) -> None:
        if not (self.binded and self.params_initialized):
            raise ArgumentError(f"{what}: got a module that is not ready; need bind() and init_params() first")

    def score(
        self,
        eval_data: Any,
        eval_metric: Any,
        num_batch: int | None = None,
        batch_end_callback: Callbacks = None,
        score_end_callback: Callbacks = None,
        reset: bool = True,
        epoch: int = 0,
        sparse_row_id_fn: Any = None,
    ) -> list[tuple[str, float]]:
        """Return the metric over `eval_data`, as pairs of names and figures.

        Parameters
        ----------
        eval_data : DataIter
            Batches.
        eval_metric : EvalMetric or str
            The metric.
        num_batch : int, optional
            How many batches; all by default.
        batch_end_callback, score_end_callback : callable or list, optional
            Called with a `BatchEndParam`.
        reset : bool
            Whether `eval_data` starts over.
        epoch : int
            Number told to the callbacks.
        """
        self._check_ready("score")
        eval_metric = metric.create(eval_metric)
        eval_metric.reset()
        number = -1
        for number, batch, _ in self._passes(eval_data, num_batch, reset):
            self.update_metric(eval_metric, batch.label)
            _called(batch_end_callback, model.BatchEndParam(epoch, number, eval_metric, locals()))
        _called(score_end_callback, model.BatchEndParam(epoch, number + 1, eval_metric, locals()))
        pairs: list[tuple[str, float]] = eval_metric.get_name_value()
        return pairs

    def _passes(
        self, data: Any, num_batch: int | None, reset: bool
    ) -> Iterator[tuple[int, DataBatch, list[NDArray]]]:
        if reset:
            data.reset()
        for number, batch in enumerate(data):
            if number == num_batch:
                break
            self.prepare(batch)
            self.forward(batch, is_train=False)
            filled = batch.pad or 0
            yield number, batch, [out[: out.shape[0] - filled] for out in self.get_outputs()]

    def iter_predict(
        self, eval_data: Any, num_batch: int | None = None, reset: bool = True, sparse_row_id_fn: Any = None
    ) -> Iterator[tuple[list[NDArray], int, DataBatch]]:
        """Yield outputs, number and batch of every batch; the outputs are overwritten by the next."""
        self._check_ready("iter_predict")
        for number, batch, outputs in self._passes(eval_data, num_batch, reset):
            yield outputs, number, batch

    def predict(
        self,
        eval_data: Any,
        num_batch: int | None = None,
        merge_batches: bool = True,
        reset: bool = True,
        always_output_list: bool = False,
        sparse_row_id_fn: Any = None,
    ) -> Any:
        """Return the outputs for all of `eval_data`.

        Parameters
        ----------
        eval_data : DataIter or array
            Batches, or one batch as an array.
        num_batch : int, optional
            How many batches; all by default.
        merge_batches : bool
            Whether the outputs of all batches are joined.
        reset : bool
            Whether `eval_data` starts over.
        always_output_list : bool
            Whether a single output comes as a list too.

        Returns
        -------
        NDArray, list of NDArray, or list of lists
            The output; outputs, where there are several; without `merge_batches` those of every batch.

        Raises
        ------
        ValueError
            If batches with different numbers of outputs are to be joined.
        """
        self._check_ready("predict")
        if isinstance(eval_data, (np.ndarray, NDArray)):
            self.forward(DataBatch([ndarray.array(eval_data)]), is_train=False)
            return self.get_outputs()[0]
        found = [[out.copy() for out in outputs] for _, _, outputs in self._passes(eval_data, num_batch, reset)]
        if not found or not merge_batches:
            return found
        if len({len(outputs) for outputs in found}) != 1:
            raise ArgumentError("predict: merge_batches: got batches with different numbers of outputs")
        joined = [ndarray.concatenate(list(parts)) for parts in zip(*found)]
        return joined[0] if len(joined) == 1 and not always_output_list else joined

    def fit(
        self,
        train_data: Any,
        eval_data: Any = None,
        eval_metric: Any = "acc",
        epoch_end_callback: Callbacks = None,
        batch_end_callback: Callbacks = None,
        kvstore: Any = "local",
        optimizer: Any = "sgd",
        optimizer_params: Any = (("learning_rate", 0.01),),
        eval_end_callback: Callbacks = None,
        eval_batch_end_callback: Callbacks = None,
        initializer: Initializer | None = None,
        arg_params: Params | None = None,
        aux_params: Params | None = None,
        allow_missing: bool = False,
        force_rebind: bool = False,
        force_init: bool = False,
        begin_epoch: int = 0,
        num_epoch: int | None = None,
        validation_metric: Any = None,
        monitor: Any = None,
        sparse_row_id_fn: Any = None,
    ) -> None:
        """Train.

        Parameters
        ----------
        train_data, eval_data : DataIter
            Batches to learn from, and to be measured on after every epoch.
        eval_metric, validation_metric : EvalMetric or str
            Metrics on them; the second is the first by default.
        epoch_end_callback : callable or list, optional
            Called with epoch, symbol, arguments and auxiliary states.
        batch_end_callback, eval_batch_end_callback, eval_end_callback : callable or list, optional
            Called with a `BatchEndParam`.
        kvstore
            Known for the sake of scripts; there is one device.
        optimizer, optimizer_params
            As for `init_optimizer`.
        initializer, arg_params, aux_params, allow_missing, force_init
            As for `init_params`.
        force_rebind : bool
            Whether a bound module is bound anew.
        begin_epoch, num_epoch : int
            The first epoch, and the one before which training ends.
        monitor : Monitor, optional
            Installed before training.

        Raises
        ------
        ArgumentError
            If `num_epoch` is missing.
        """
        if num_epoch is None:
            raise ArgumentError("fit: num_epoch: missing; need the number of epochs")
        self.bind(
            data_shapes=train_data.provide_data,
            label_shapes=train_data.provide_label,
            for_training=True,
            force_rebind=force_rebind,
        )
        if monitor is not None:
            self.install_monitor(monitor)
        self.init_params(
            initializer=Uniform(0.01) if initializer is None else initializer,
            arg_params=arg_params,
            aux_params=aux_params,
            allow_missing=allow_missing,
            force_init=force_init,
        )
        self.init_optimizer(kvstore=kvstore, optimizer=optimizer, optimizer_params=optimizer_params)
        eval_metric = metric.create(eval_metric)
        validation_metric = validation_metric or eval_metric
        for epoch in range(begin_epoch, num_epoch):
            began = time.perf_counter()
            eval_metric.reset()
            for number, batch in enumerate(train_data):
                if monitor is not None:
                    monitor.tic()
                self.prepare(batch)
                self.forward_backward(batch)
                self.update()
                self.update_metric(eval_metric, batch.label)
                if monitor is not None:
                    monitor.toc_print()
                _called(batch_end_callback, model.BatchEndParam(epoch, number, eval_metric, locals()))
            for name, value in eval_metric.get_global_name_value():
                self.logger.info("Epoch[%d] Train-%s=%f", epoch, name, value)
            self.logger.info("Epoch[%d] Time cost=%.3f", epoch, time.perf_counter() - began)
            _called(epoch_end_callback, epoch, self.symbol, *self.get_params())
            if eval_data is not None:
                found = self.score(
                    eval_data,
                    validation_metric,
                    batch_end_callback=eval_batch_end_callback,
                    score_end_callback=eval_end_callback,
                    epoch=epoch,
                )
                for name, value in found:
                    self.logger.info("Epoch[%d] Validation-%s=%f", epoch, name, value)
            train_data.reset()


class Module(BaseModule):
    """A symbol with its parameters and an optimizer.

    Parameters
    ----------
    symbol : Symbol
        The network.
    data_names, label_names : sequence of str
        Variables that batches bring; all others but the states are parameters.
    logger : Logger or logging
        Where `fit` writes.
    context : Context or list of Context
        The device. Where several are given, the first does all the work: they are the same processor.
    work_load_list, group2ctxs, compression_params
        Known for the sake of scripts.
    fixed_param_names : sequence of str, optional
        Parameters that training does not change.
    state_names : sequence of str, optional
        Variables set by `set_states`.

    Raises
    ------
    ValueError
        If the symbol has no argument of a data, state or fixed parameter name.

    Examples
    --------
    >>> import numpy as np, tconv as mx
    >>> net = mx.sym.Deconvolution(mx.sym.var("data"), kernel=(2,), stride=(2,), num_filter=1, name="up")
    >>> net = mx.sym.LinearRegressionOutput(net, mx.sym.var("label"))
    >>> data = np.random.default_rng(0).normal(size=(32, 1, 4)).astype(np.float32)
    >>> batches = mx.io.NDArrayIter(data, data.repeat(2, axis=2), batch_size=8, label_name="label")
    >>> module = mx.mod.Module(net, label_names=["label"])
    >>> module.fit(batches, eval_metric="mse", optimizer_params={"learning_rate": 0.5}, num_epoch=20)
    >>> module.get_params()[0]["up_weight"].asnumpy().round(3)
    array([[[1., 1.]]], dtype=float32)
    """

    def __init__(
        self,
        symbol: Symbol,
        data_names: Sequence[str] | None = ("data",),
        label_names: Sequence[str] | None = ("softmax_label",),
        logger: Any = logging,
        context: Context | Sequence[Context] | None = None,
        work_load_list: Any = None,
        fixed_param_names: Sequence[str] | None = None,
        state_names: Sequence[str] | None = None,
        group2ctxs: Any = None,
        compression_params: Any = None,
    ) -> None:
        super().__init__(logger)
        self._symbol: Symbol = symbol
        self._ctx = _first_context(context)
        arguments = symbol.list_arguments()
        self._data_names = list(data_names or ())
        self._label_names = list(label_names or ())
        self._state_names = list(state_names or ())
        self._fixed = frozenset(fixed_param_names or ())
        for what, names in (
            ("data_names", self._data_names),
            ("state_names", self._state_names),
            ("fixed_param_names", sorted(self._fixed)),
        ):
            _check_names(what, names, arguments)
        unknown = [name for name in self._label_names if name not in arguments]
        if unknown:
            warnings.warn(_not_found("label_names", unknown, arguments), stacklevel=2)
        given = {*self._data_names, *self._label_names, *self._state_names}
        self._param_names = [name for name in arguments if name not in given]
        self._aux_names = symbol.list_auxiliary_states()
        self._arg_params: dict[str, NDArray] = {}
        self._aux_params: dict[str, NDArray] = {}
        self._changed_since_copied = False
        self._executor: Executor | None = None
        self._data_shapes: list[DataDesc] = []
        self._label_shapes: list[DataDesc] = []
        self._optimizer: Optimizer | None = None
        self._updater: Updater | None = None
        self._states_to_load: str | None = None

    @staticmethod
    def load(prefix: str, epoch: int, load_optimizer_states: bool = False, **kwargs: Any) -> Module:
        """Return the module that `save_checkpoint` wrote.

        Parameters
        ----------
        prefix : str
            Beginning of the files' names.
        epoch : int
            Number in the name of the parameter file.
        load_optimizer_states : bool
            Whether `init_optimizer` takes the states from `PREFIX-%04d.states`.
        **kwargs
            As of `Module`.
        """
        symbol, arg_params, aux_params = model.load_checkpoint(prefix, epoch)
        module = Module(symbol, **kwargs)
        module._arg_params, module._aux_params = arg_params, aux_params
        module.params_initialized = True
        if load_optimizer_states:
            module._states_to_load = f"{prefix}-{epoch:04d}.states"
        return module

    def save_checkpoint(
        self, prefix: str, epoch: int, save_optimizer_states: bool = False, remove_amp_cast: bool = True
    ) -> None:
        """Write `PREFIX-symbol.json`, `PREFIX-%04d.params`, and if wanted the optimizer's `PREFIX-%04d.states`."""
        model.save_checkpoint(prefix, epoch, self._symbol, *self.get_params(), remove_amp_cast)
        if save_optimizer_states:
            self.save_optimizer_states(f"{prefix}-{epoch:04d}.states")

    # What goes in and comes out.

    @property
    def data_names(self) -> list[str]:
        """Names of the inputs."""
        return self._data_names

    @property
    def label_names(self) -> list[str]:
        """Names of the labels."""
        return self._label_names

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs."""
        return self._symbol.list_outputs()

    @property
    def data_shapes(self) -> list[DataDesc]:
        """What the inputs are."""
        self._check_bound("data_shapes")
        return self._data_shapes

    @property
    def label_shapes(self) -> list[DataDesc]:
        """What the labels are."""
        self._check_bound("label_shapes")
        return self._label_shapes

    @property
    def output_shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and shapes of the outputs."""
        return [(name, out.shape) for name, out in zip(self.output_names, self._bound("output_shapes").outputs)]

    def _bound(self, what: str) -> Executor:
        if self._executor is None:
            raise ArgumentError(f"{what}: got a module that is not bound; need bind() first")
        return self._executor

    def _check_bound(self, what: str) -> None:
        self._bound(what)

    def bind(
        self,
        data_shapes: Sequence[Any],
        label_shapes: Sequence[Any] | None = None,
        for_training: bool = True,
        inputs_need_grad: bool = False,
        force_rebind: bool = False,
        shared_module: Module | None = None,
        grad_req: str | list[str] | dict[str, str] = "write",
    ) -> None:
        """Make the arrays.

        Parameters
        ----------
        data_shapes, label_shapes : list of DataDesc or of (name, shape)
            What batches bring; shapes of labels may be left out.
        for_training : bool
            Whether there are gradients.
        inputs_need_grad : bool
            Whether the inputs get gradients too.
        force_rebind : bool
            Whether a bound module is bound anew; otherwise nothing happens then.
        shared_module : Module, optional
            A bound module whose parameters are shared.
        grad_req : str, or list or dict of str
            What to do with the gradients of parameters: "write", "add" or "null".

        Raises
        ------
        ArgumentError
            If the names are not those of `data_names`.
        RuntimeError
            If shapes do not fit together.
        """
        if self.binded and not force_rebind:
            self.logger.warning("Already bound, ignoring bind()")
            return
        if inputs_need_grad and not for_training:
            raise ArgumentError("bind: inputs_need_grad: got True without for_training; need both")
        if self.binded:
            self._keep_params()
        data, labels = _descriptions(data_shapes), _descriptions(label_shapes or ())
        if sorted(desc.name for desc in data) != sorted(self._data_names):
            raise ArgumentError(
                f"bind: data_shapes: got {', '.join(desc.name for desc in data) or 'nothing'}; "
                f"need {', '.join(self._data_names)}, the data_names"
            )
        arguments = self._symbol.list_arguments()
        known = [desc for desc in (*data, *labels) if desc.name in arguments]
        shared = None if shared_module is None else shared_module._bound("bind: shared_module")
        shapes: dict[str, Any] = {desc.name: desc.shape for desc in known}
        self._executor = self._symbol.simple_bind(
            self._ctx,
            grad_req=self._requirements(arguments, grad_req, for_training, inputs_need_grad),
            type_dict={desc.name: desc.dtype for desc in known},
            shared_exec=shared,
            shared_arg_names=self._param_names if shared is not None else None,
            **shapes,
        )
        self._data_shapes, self._label_shapes = data, labels
        self.for_training, self.inputs_need_grad, self.binded = for_training, inputs_need_grad, True
        if shared_module is not None and shared_module.params_initialized:
            self.params_initialized = True
            self._changed_since_copied = True
        elif self.params_initialized:
            self._executor.copy_params_from(self._arg_params, self._aux_params)
        if shared_module is not None and shared_module.optimizer_initialized:
            self.borrow_optimizer(shared_module)

    def _requirements(
        self, arguments: list[str], grad_req: Any, for_training: bool, inputs_need_grad: bool
    ) -> dict[str, str]:
        if isinstance(grad_req, str):
            given = dict.fromkeys(arguments, grad_req)
        elif isinstance(grad_req, Mapping):
            given = dict(grad_req)
        else:
            given = dict(zip(arguments, grad_req))
        learnt = set(self._param_names) - self._fixed | (set(self._data_names) if inputs_need_grad else set())
        return {name: given.get(name, "write") if for_training and name in learnt else "null" for name in arguments}

    def reshape(self, data_shapes: Sequence[Any], label_shapes: Sequence[Any] | None = None) -> None:
        """Bind to other shapes, keeping the parameters."""
        executor = self._bound("reshape")
        data, labels = _descriptions(data_shapes), _descriptions(label_shapes or ())
        known = {desc.name: desc.shape for desc in (*data, *labels) if desc.name in executor.arg_dict}
        self._executor = executor.reshape(partial_shaping=True, allow_up_sizing=True, **known)
        self._data_shapes, self._label_shapes = data, labels

    # Parameters.

    def init_params(
        self,
        initializer: Initializer | None = Uniform(0.01),  # noqa: B008 - has no state; None means another thing
        arg_params: Params | None = None,
        aux_params: Params | None = None,
        allow_missing: bool = False,
        force_init: bool = False,
        allow_extra: bool = False,
    ) -> None:
        """Give the parameters their first values.

        Parameters
        ----------
        initializer : Initializer, optional
            Fills what the dicts do not have.
        arg_params, aux_params : dict of str to NDArray, optional
            Values to copy.
        allow_missing : bool
            Whether the dicts may lack parameters.
        force_init : bool
            Whether parameters that have values get new ones.
        allow_extra : bool
            Whether the dicts may have names that the symbol has not.

        Raises
        ------
        RuntimeError
            If a parameter is missing.
        ValueError
            If there are extra ones.
        """
        if self.params_initialized and not force_init:
            warnings.warn(
                "init_params: the parameters have values already; force_init=True gives them new ones", stacklevel=2
            )
            return
        executor = self._bound("init_params")
        attributes = self._symbol.attr_dict()
        for names, given, arrays in (
            (self._param_names, arg_params, executor.arg_dict),
            (self._aux_names, aux_params, executor.aux_dict),
        ):
            extra = sorted(set(given or ()) - set(names))
            if extra and not allow_extra:
                raise ArgumentError(f"init_params: got {', '.join(extra)}; no parameter has this name")
            for name in sorted(names):
                if given is not None and name in given:
                    _copied_to(name, given[name], arrays[name])
                elif given is not None and not allow_missing:
                    raise MXNetError(f"init_params: {name}: missing; allow_missing=True initializes it")
                elif initializer is not None:
                    initializer(InitDesc(name, attributes.get(name)), arrays[name])
        self.params_initialized = True
        self._changed_since_copied = True

    def set_params(
        self,
        arg_params: Params,
        aux_params: Params | None,
        allow_missing: bool = False,
        force_init: bool = True,
        allow_extra: bool = False,
    ) -> None:
        """Set parameters, as `init_params` without an initializer."""
        self.init_params(None, arg_params, aux_params or {}, allow_missing, force_init, allow_extra)

    def get_params(self) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
        """Return copies of the parameters: arguments, and auxiliary states."""
        if not self.params_initialized:
            raise ArgumentError("get_params: got a module without parameters; need init_params() first")
        self._keep_params()
        return self._arg_params, self._aux_params

    def _keep_params(self) -> None:
        if self._executor is None or not self._changed_since_copied:
            return
        arrays, states = self._executor.arg_dict, self._executor.aux_dict
        self._arg_params = {name: arrays[name].copy() for name in self._param_names}
        self._aux_params = {name: states[name].copy() for name in self._aux_names}
        self._changed_since_copied = False

    # The optimizer.

    def init_optimizer(
        self,
        kvstore: Any = "local",
        optimizer: str | Optimizer = "sgd",
        optimizer_params: Any = (("learning_rate", 0.01),),
        force_init: bool = False,
    ) -> None:
        """Make the optimizer.

        Parameters
        ----------
        kvstore
            Known for the sake of scripts; there is one device.
        optimizer : str or Optimizer
            Its name, or itself.
        optimizer_params : dict or pairs
            Its parameters; `rescale_grad` is one over the batch size by default.
        force_init : bool
            Whether a second one replaces the first.
        """
        self._check_ready("init_optimizer")
        if self.optimizer_initialized and not force_init:
            self.logger.warning("optimizer already initialized, ignoring...")
            return
        names: dict[int | str, str] = dict(enumerate(self._param_names))
        first = self._data_shapes[0]
        rescale = 1.0 / first.shape[max(DataDesc.get_batch_axis(first.layout), 0)]
        if isinstance(optimizer, str):
            settings = {"rescale_grad": rescale, **dict(optimizer_params)}
            optimizer = create_optimizer(optimizer, sym=self._symbol, param_idx2name=names, **settings)
        else:
            if optimizer.rescale_grad != rescale:
                warnings.warn(
                    f"init_optimizer: optimizer: got rescale_grad {optimizer.rescale_grad}; one over the batch "
                    f"size is {rescale}",
                    stacklevel=2,
                )
            if not optimizer.idx2name:
                optimizer.idx2name = names
        self._optimizer = optimizer
        self._updater = get_updater(optimizer)
        self.optimizer_initialized = True
        if self._states_to_load is not None:
            self.load_optimizer_states(self._states_to_load)
            self._states_to_load = None

    def borrow_optimizer(self, shared_module: Module) -> None:
        """Use the optimizer of another module, together with it."""
        self._optimizer, self._updater = shared_module._optimizer, shared_module._the_updater("borrow_optimizer")
        self.optimizer_initialized = True

    def _the_updater(self, what: str) -> Updater:
        if self._updater is None:
            raise ArgumentError(f"{what}: got a module without an optimizer; need init_optimizer() first")
        return self._updater

    def save_optimizer_states(self, fname: str) -> None:
        """Write what the optimizer remembers to a file."""
        Path(fname).write_bytes(self._the_updater("save_optimizer_states").get_states())

    def load_optimizer_states(self, fname: str) -> None:
        """Read what `save_optimizer_states` wrote."""
        self._the_updater("load_optimizer_states").set_states(Path(fname).read_bytes())

    # Computing.

    def forward(self, data_batch: Any, is_train: bool | None = None) -> None:
        """Compute the outputs, which `get_outputs` returns.

        Parameters
        ----------
        data_batch : DataBatch
            Inputs and labels; where their shapes are others than before, the module is reshaped.
        is_train : bool, optional
            Whether this is part of training; by default whether the module was bound for it.
        """
        self._check_ready("forward")
        data = self._sorted("data", data_batch.data, data_batch.provide_data, self._data_shapes)
        labels = self._sorted("label", data_batch.label or [], data_batch.provide_label, self._label_shapes)
        shapes = [_like(desc, array) for desc, array in zip(self._data_shapes, data)]
        label_shapes = [_like(desc, array) for desc, array in zip(self._label_shapes, labels)]
        if shapes != self._data_shapes or (labels and label_shapes != self._label_shapes):
            self.reshape(shapes, label_shapes)
        executor = self._bound("forward")
        arguments = executor.arg_dict
        for desc, array in zip((*self._data_shapes, *self._label_shapes), (*data, *labels)):
            if desc.name in arguments:
                arguments[desc.name][:] = array
        executor.forward(is_train=self.for_training if is_train is None else is_train)

    @staticmethod
    def _sorted(
        what: str, arrays: Sequence[Any], described: Sequence[Any] | None, known: Sequence[DataDesc]
    ) -> list[Any]:
        """Return arrays of a batch in the order the module was bound to."""
        if len(arrays) < len(known) and (what == "data" or arrays):
            raise ArgumentError(
                f"forward: data_batch: {what}: got {len(arrays)} arrays; need {len(known)}: "
                f"{', '.join(desc.name for desc in known)}"
            )
        by_name = {desc[0]: array for desc, array in zip(described or (), arrays)}
        if all(desc.name in by_name for desc in known):
            return [by_name[desc.name] for desc in known]
        return list(arrays)

    def backward(self, out_grads: Any = None) -> None:
        """Compute the gradients; `out_grads` are those of the outputs that are no losses."""
        self._check_ready("backward")
        self._bound("backward").backward(out_grads)

    def update(self) -> None:
        """Change the parameters by the gradients."""
        updater = self._the_updater("update")
        executor = self._bound("update")
        arrays, grads = executor.arg_dict, executor.grad_dict
        for index, name in enumerate(self._param_names):
            grad = grads[name]
            if grad is not None:
                updater(index, grad, arrays[name])
        self._changed_since_copied = True

    def get_outputs(self, merge_multi_context: bool = True) -> Any:
        """Return the outputs; the next `forward` overwrites them.

        Parameters
        ----------
        merge_multi_context : bool
            False for a list, of one array as there is one device, in place of each.
        """
        return _merged(self._bound("get_outputs").outputs, merge_multi_context)

    def get_input_grads(self, merge_multi_context: bool = True) -> Any:
        """Return the gradients of the inputs, of a module bound with `inputs_need_grad`."""
        grads = self._bound("get_input_grads").grad_dict
        if not self.inputs_need_grad:
            raise ArgumentError("get_input_grads: got a module without them; need bind(inputs_need_grad=True)")
        return _merged([grads[name] for name in self._data_names], merge_multi_context)

    def get_states(self, merge_multi_context: bool = True) -> Any:
        """Return the variables of `state_names`."""
        arrays = self._bound("get_states").arg_dict
        return _merged([arrays[name] for name in self._state_names], merge_multi_context)

    def set_states(self, states: Any = None, value: Any = None) -> None:
        """Set the variables of `state_names`, each to an array or all to a number."""
        arrays = self._bound("set_states").arg_dict
        for name, state in zip(self._state_names, [value] * len(self._state_names) if states is None else states):
            arrays[name][:] = state[0] if isinstance(state, (list, tuple)) else state

    def update_metric(self, eval_metric: Metric, labels: Any, pre_sliced: bool = False) -> None:
        """Have the metric take in the outputs of the last `forward`."""
        executor = self._bound("update_metric")
        names = [desc.name for desc in self._label_shapes] or self._label_names
        named = dict(zip(names, labels or ()))
        eval_metric.update_dict(named, dict(zip(self.output_names, executor.outputs)))

    def install_monitor(self, mon: Any) -> None:
        """Have a monitor look at every output of an operator."""
        mon.install(self._bound("install_monitor"))


def _first_context(given: Context | Sequence[Context] | None) -> Context:
    if given is None:
        return context.current_context()
    return given if isinstance(given, Context) else given[0]


def _descriptions(shapes: Iterable[Any]) -> list[DataDesc]:
    return [shape if isinstance(shape, DataDesc) else DataDesc(*shape) for shape in shapes]


def _like(desc: DataDesc, array: Any) -> DataDesc:
    return DataDesc(desc.name, array.shape, desc.dtype, desc.layout)


def _merged(arrays: Sequence[Any], together: bool) -> list[Any]:
    return list(arrays) if together else [[array] for array in arrays]


def _copied_to(name: str, array: NDArray, target: NDArray) -> None:
    if array.shape != target.shape:
        raise ArgumentError(f"init_params: {name}: got shape {array.shape}; need {target.shape}")
    if array is not target:
        target[:] = array


def _not_found(what: str, names: Sequence[str], arguments: Sequence[str]) -> str:
    likely = [name for name in arguments if not name.endswith(_PARAMETER_ENDINGS)]
    return f"Module: {what}: got {', '.join(names)}; the symbol has no such argument, but {', '.join(likely)}"


def _check_names(what: str, names: Sequence[str], arguments: Sequence[str]) -> None:
    unknown = [name for name in names if name not in arguments]
    if unknown:
        raise ArgumentError(_not_found(what, unknown, arguments))
