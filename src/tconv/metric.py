"""Figures that tell how training goes (`mx.metric`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy

from tconv import registry
from tconv.errors import ArgumentError
from tconv.ndarray import NDArray

__all__ = [
    "MAE",
    "MSE",
    "RMSE",
    "Accuracy",
    "CompositeEvalMetric",
    "CrossEntropy",
    "CustomMetric",
    "EvalMetric",
    "Loss",
    "alias",
    "check_label_shapes",
    "create",
    "np",
    "register",
]

Array = numpy.ndarray[Any, Any]
Figure = tuple[Any, Any]


def check_label_shapes(labels: Any, preds: Any, wrap: bool = False, shape: bool = False) -> tuple[Any, Any]:
    """Return labels and predictions, made lists of if `wrap` is set.

    Raises
    ------
    ArgumentError
        If they are not as many, or with `shape` not of one shape.
    """
    found = (labels.shape, preds.shape) if shape else (len(labels), len(preds))
    if found[0] != found[1]:
        raise ArgumentError(f"metric: labels: got {found[0]}; need {found[1]} as of the predictions")
    if wrap:
        labels = [labels] if isinstance(labels, NDArray) else labels
        preds = [preds] if isinstance(preds, NDArray) else preds
    return labels, preds


class EvalMetric:
    """Base of the metrics: a mean since the last `reset` (or `reset_local`, which the global figure ignores).

    Parameters
    ----------
    name : str
        Its name.
    output_names, label_names : list of str, optional
        Which outputs and labels `update_dict` looks at; all by default.
    """

    def __init__(
        self,
        name: str,
        output_names: Sequence[str] | None = None,
        label_names: Sequence[str] | None = None,
        has_global_stats: bool = False,
        **kwargs: Any,
    ) -> None:
        self.name = str(name)
        self.output_names = output_names
        self.label_names = label_names
        self._has_global_stats = has_global_stats
        self._kwargs = kwargs
        self.reset()

    def __str__(self) -> str:
        return f"EvalMetric: {dict(self.get_name_value())}"

    def get_config(self) -> dict[str, Any]:
        """Return name and arguments, from which `create` makes the metric again."""
        return {
            **self._kwargs,
            "metric": type(self).__name__,
            "name": self.name,
            "output_names": self.output_names,
            "label_names": self.label_names,
        }

    def reset(self) -> None:
        """Forget everything."""
        self.global_num_inst: float = 0
        self.global_sum_metric: float = 0.0
        self.reset_local()

    def reset_local(self) -> None:
        """Forget everything but what the global figure needs."""
        self.num_inst: float = 0
        self.sum_metric: float = 0.0

    def _add(self, total: float, count: float) -> None:
        self.sum_metric += total
        self.global_sum_metric += total
        self.num_inst += count
        self.global_num_inst += count

    def update(self, labels: Any, preds: Any) -> None:
        """Take in a batch; a subclass defines it."""
        raise NotImplementedError(f"{type(self).__name__}: update: missing; a subclass has to define it")

    def update_dict(self, label: Mapping[str, NDArray], pred: Mapping[str, NDArray]) -> None:
        """Take in a batch of arrays by name."""
        outputs = pred if self.output_names is None else self.output_names
        labels = label if self.label_names is None else self.label_names
        self.update([label[name] for name in labels], [pred[name] for name in outputs])

    def get(self) -> Figure:
        """Return name and mean; NaN if there was nothing."""
        return self.name, self.sum_metric / self.num_inst if self.num_inst else float("nan")

    def get_global(self) -> Figure:
        """Return name and mean since the last `reset`."""
        if not self._has_global_stats:
            return self.get()
        return self.name, self.global_sum_metric / self.global_num_inst if self.global_num_inst else float("nan")

    def get_name_value(self) -> list[tuple[str, float]]:
        """Return pairs of names and means."""
        return _pairs(self.get())

    def get_global_name_value(self) -> list[tuple[str, float]]:
        """Return pairs of names and means since the last `reset`."""
        return _pairs(self.get_global())


def _pairs(figure: Figure) -> list[tuple[str, float]]:
    names, values = (part if isinstance(part, list) else [part] for part in figure)
    return list(zip(names, values))


register = registry.get_register_func(EvalMetric, "metric")
alias = registry.get_alias_func(EvalMetric, "metric")
_create = registry.get_create_func(EvalMetric, "metric")


def create(metric: Any, *args: Any, **kwargs: Any) -> EvalMetric:
    """Return the metric of that name, of a function `f(label, pred)` of NumPy arrays, or of a list of these.

    Raises
    ------
    ArgumentError
        If there is none of that name.

    Examples
    --------
    >>> import tconv as mx
    >>> metric = mx.metric.create(["mae", "mse"])
    >>> metric.update([mx.nd.array([1.0, 2.0])], [mx.nd.array([1.0, 4.0])])
    >>> metric.get()[0], [float(value) for value in metric.get()[1]]
    (['mae', 'mse'], [1.0, 2.0])
    """
    if isinstance(metric, list):
        return CompositeEvalMetric([create(child, *args, **kwargs) for child in metric])
    if callable(metric):
        return CustomMetric(metric, *args, **kwargs)
    made: EvalMetric = _create(metric, *args, **kwargs)
    return made


@register
@alias("composite")
class CompositeEvalMetric(EvalMetric):
    """Several metrics as one.

    Parameters
    ----------
    metrics : list, optional
        Metrics, or what `create` makes them of.
    name, output_names, label_names
        As of `EvalMetric`.
    """

    def __init__(self, metrics: Sequence[Any] | None = None, name: str = "composite", **kwargs: Any) -> None:
        self.metrics = [create(metric) for metric in metrics or ()]
        super().__init__(name, has_global_stats=True, **kwargs)

    def add(self, metric: Any) -> None:
        """Append a metric, or what `create` makes one of."""
        self.metrics.append(create(metric))

    def get_metric(self, index: int) -> EvalMetric:
        """Return one of the metrics."""
        return self.metrics[index]

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of all metrics."""
        return {**super().get_config(), "metrics": [metric.get_config() for metric in self.metrics]}

    def reset(self) -> None:
        """Have all forget everything."""
        for metric in self.metrics:
            metric.reset()

    def reset_local(self) -> None:
        """Have all forget everything but what the global figures need."""
        for metric in self.metrics:
            metric.reset_local()

    def update(self, labels: Any, preds: Any) -> None:
        """Show a batch to all."""
        for metric in self.metrics:
            metric.update(labels, preds)

    def update_dict(self, label: Mapping[str, NDArray], pred: Mapping[str, NDArray]) -> None:
        """Show a batch of arrays by name to all."""
        labels = {name: label[name] for name in label if self.label_names is None or name in self.label_names}
        preds = {name: pred[name] for name in pred if self.output_names is None or name in self.output_names}
        for metric in self.metrics:
            metric.update_dict(labels, preds)

    def get(self) -> Figure:
        """Return lists of names and means."""
        return _lists([pair for metric in self.metrics for pair in metric.get_name_value()])

    def get_global(self) -> Figure:
        """Return lists of names and means since the last `reset`."""
        return _lists([pair for metric in self.metrics for pair in metric.get_global_name_value()])


def _lists(pairs: Sequence[tuple[str, float]]) -> Figure:
    return [name for name, _ in pairs], [value for _, value in pairs]


class _OfArrays(EvalMetric):
    """A metric that looks at a label and a prediction at a time, as NumPy arrays."""

    def update(self, labels: Any, preds: Any) -> None:
        """Take in a batch.

        Raises
        ------
        ArgumentError
            If there are not as many labels as predictions.
        """
        for label, pred in zip(*check_label_shapes(labels, preds, wrap=True)):
            self._add(*self._figure(label.asnumpy(), pred.asnumpy()))

    def _figure(self, label: Array, pred: Array) -> tuple[float, float]:
        """Return the sum over examples, and their number."""
        raise NotImplementedError


@register
@alias("acc")
class Accuracy(_OfArrays):
    """Part of the examples whose class is right.

    Parameters
    ----------
    axis : int
        The axis of classes, where predictions are scores.
    name, output_names, label_names
        As of `EvalMetric`.
    """

    def __init__(self, axis: int = 1, name: str = "accuracy", **kwargs: Any) -> None:
        super().__init__(name, has_global_stats=True, **kwargs)
        self.axis = axis
        self._kwargs = {"axis": axis}

    def _figure(self, label: Array, pred: Array) -> tuple[float, float]:
        if pred.shape != label.shape:
            pred = pred.argmax(axis=self.axis)
        chosen, right = pred.astype("int32").ravel(), label.astype("int32").ravel()
        check_label_shapes(right, chosen)
        return int((chosen == right).sum()), len(chosen)


class _Difference(_OfArrays):
    """A mean over batches of a function of the difference."""

    def __init__(self, name: str = "", **kwargs: Any) -> None:
        super().__init__(name or type(self).__name__.lower(), has_global_stats=True, **kwargs)

    def _figure(self, label: Array, pred: Array) -> tuple[float, float]:
        # Flat labels stand beside flat predictions, not across.
        columns = (array.reshape(-1, 1) if array.ndim == 1 else array for array in (label, pred))
        return self._of(numpy.subtract(*columns)), 1

    def _of(self, difference: Array) -> float:
        raise NotImplementedError


@register
class MAE(_Difference):
    """Mean of the absolute differences of each batch."""

    def _of(self, difference: Array) -> float:
        return float(numpy.abs(difference).mean())


@register
class MSE(_Difference):
    """Mean of the squared differences of each batch."""

    def _of(self, difference: Array) -> float:
        return float(numpy.square(difference).mean())


@register
class RMSE(_Difference):
    """Root of the mean of the squared differences of each batch."""

    def _of(self, difference: Array) -> float:
        return float(numpy.sqrt(numpy.square(difference).mean()))


@register
@alias("ce")
class CrossEntropy(_OfArrays):
    """Mean of the negative logarithm of the probability given to the right class.

    Parameters
    ----------
    eps : float
        Added to the probabilities.
    name, output_names, label_names
        As of `EvalMetric`.
    """

    def __init__(self, eps: float = 1e-12, name: str = "cross-entropy", **kwargs: Any) -> None:
        super().__init__(name, has_global_stats=True, **kwargs)
        self.eps = eps
        self._kwargs = {"eps": eps}

    def _figure(self, label: Array, pred: Array) -> tuple[float, float]:
        classes = label.ravel().astype("int64")
        check_label_shapes(classes, pred)
        chosen = pred[numpy.arange(len(classes)), classes]
        return float(-numpy.log(chosen + self.eps).sum()), len(classes)


@register
class Loss(EvalMetric):
    """Mean of the outputs, which are losses; labels are not looked at."""

    def __init__(self, name: str = "loss", **kwargs: Any) -> None:
        super().__init__(name, has_global_stats=True, **kwargs)

    def update(self, labels: Any, preds: Any) -> None:
        """Take in a batch."""
        for pred in [preds] if isinstance(preds, NDArray) else preds:
            values = pred.asnumpy()
            self._add(float(values.sum()), values.size)


@register
class CustomMetric(_OfArrays):
    """Mean over batches of a function.

    Parameters
    ----------
    feval : callable
        `feval(label, pred)` of NumPy arrays: a number, or a sum and a number of examples.
    name : str, optional
        Its name; the function's by default.
    allow_extra_outputs : bool
        Whether there may be more predictions than labels.
    output_names, label_names
        As of `EvalMetric`.
    """

    def __init__(
        self,
        feval: Callable[[Array, Array], Any],
        name: str | None = None,
        allow_extra_outputs: bool = False,
        **kwargs: Any,
    ) -> None:
        named = feval.__name__ if name is None else name
        super().__init__(f"custom({named})" if "<" in named else named, has_global_stats=True, **kwargs)
        self._feval = feval
        self._allow_extra_outputs = allow_extra_outputs

    def update(self, labels: Any, preds: Any) -> None:
        """Take in a batch."""
        if self._allow_extra_outputs and len(preds) > len(labels):
            preds = preds[: len(labels)]
        super().update(labels, preds)

    def _figure(self, label: Array, pred: Array) -> tuple[float, float]:
        found = self._feval(label, pred)
        return found if isinstance(found, tuple) else (found, 1)


def np(
    numpy_feval: Callable[[Array, Array], Any], name: str | None = None, allow_extra_outputs: bool = False
) -> CustomMetric:
    """Return the metric of a function `f(label, pred)` of NumPy arrays."""
    return CustomMetric(numpy_feval, name, allow_extra_outputs)
