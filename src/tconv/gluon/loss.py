"""Losses, one number an example (`mx.gluon.loss`)."""

from __future__ import annotations

from typing import Any

from tconv.gluon.block import HybridBlock

__all__ = [
    "HuberLoss",
    "L1Loss",
    "L2Loss",
    "Loss",
    "SigmoidBCELoss",
    "SigmoidBinaryCrossEntropyLoss",
    "SoftmaxCELoss",
    "SoftmaxCrossEntropyLoss",
]


class Loss(HybridBlock):
    """Base of the losses.

    Parameters
    ----------
    weight : float or None
        Factor of the loss.
    batch_axis : int
        The axis of examples.
    """

    def __init__(self, weight: float | None, batch_axis: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._weight = weight
        self._batch_axis = batch_axis

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batch_axis={self._batch_axis}, w={self._weight})"

    def _per_example(self, ops: Any, loss: Any, sample_weight: Any, weight: float | None) -> Any:
        """Return the weighted mean over all axes but that of examples."""
        if sample_weight is not None:
            loss = ops.broadcast_mul(loss, sample_weight)
        if weight is not None:
            loss = loss * weight
        return ops.mean(loss, axis=self._batch_axis, exclude=True)


class L2Loss(Loss):
    """Half the square of the difference.

    Parameters
    ----------
    weight : float
        Factor of the loss.
    batch_axis : int
        The axis of examples.

    Examples
    --------
    >>> import tconv as mx
    >>> mx.gluon.loss.L2Loss()(mx.nd.array([[1, 3]]), mx.nd.array([[1, 1]])).asnumpy().tolist()
    [1.0]
    """

    def __init__(self, weight: float = 1.0, batch_axis: int = 0, **kwargs: Any) -> None:
        super().__init__(weight, batch_axis, **kwargs)

    def hybrid_forward(self, ops: Any, pred: Any, label: Any, sample_weight: Any = None) -> Any:
        """Compute the loss of each example."""
        loss = ops.square(ops.reshape_like(label, pred) - pred)
        return self._per_example(ops, loss, sample_weight, (self._weight or 0) / 2)


class L1Loss(Loss):
    """The absolute difference.

    Parameters
    ----------
    weight : float, optional
        Factor of the loss.
    batch_axis : int
        The axis of examples.
    """

    def __init__(self, weight: float | None = None, batch_axis: int = 0, **kwargs: Any) -> None:
        super().__init__(weight, batch_axis, **kwargs)

    def hybrid_forward(self, ops: Any, pred: Any, label: Any, sample_weight: Any = None) -> Any:
        """Compute the loss of each example."""
        loss = ops.abs(ops.reshape_like(label, pred) - pred)
        return self._per_example(ops, loss, sample_weight, self._weight)


class HuberLoss(Loss):
    """Half the square of the difference over `rho` up to `rho`, the absolute difference less `rho / 2` beyond.

    Parameters
    ----------
    rho : float
        Where the two meet.
    weight : float, optional
        Factor of the loss.
    batch_axis : int
        The axis of examples.
    """

    def __init__(self, rho: float = 1, weight: float | None = None, batch_axis: int = 0, **kwargs: Any) -> None:
        super().__init__(weight, batch_axis, **kwargs)
        self._rho = rho

    def hybrid_forward(self, ops: Any, pred: Any, label: Any, sample_weight: Any = None) -> Any:
        """Compute the loss of each example."""
        loss = ops.abs(ops.reshape_like(label, pred) - pred)
        loss = ops.where(loss > self._rho, loss - 0.5 * self._rho, (0.5 / self._rho) * ops.square(loss))
        return self._per_example(ops, loss, sample_weight, self._weight)


class SigmoidBinaryCrossEntropyLoss(Loss):
    """Cross-entropy of labels from 0 to 1 with the sigmoid of the prediction.

    Parameters
    ----------
    from_sigmoid : bool
        Whether predictions have gone through the sigmoid already.
    weight : float, optional
        Factor of the loss.
    batch_axis : int
        The axis of examples.
    """

    def __init__(
        self, from_sigmoid: bool = False, weight: float | None = None, batch_axis: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(weight, batch_axis, **kwargs)
        self._from_sigmoid = from_sigmoid

    def hybrid_forward(
        self, ops: Any, pred: Any, label: Any, sample_weight: Any = None, pos_weight: Any = None
    ) -> Any:
        """Compute the loss of each example; `pos_weight` weighs the part of label 1."""
        label = ops.reshape_like(label, pred)
        if self._from_sigmoid:
            positive = ops.log(pred + 1e-12) * label
            if pos_weight is not None:
                positive = ops.broadcast_mul(positive, pos_weight)
            loss = -(positive + ops.log(1.0 - pred + 1e-12) * (1.0 - label))
        else:
            # log(1 + exp(-|x|)) does not overflow.
            tail = ops.Activation(-ops.abs(pred), act_type="softrelu")
            if pos_weight is None:
                loss = ops.relu(pred) - pred * label + tail
            else:
                factor = 1 + ops.broadcast_mul(pos_weight - 1, label)
                loss = pred - pred * label + factor * (tail + ops.relu(-pred))
        return self._per_example(ops, loss, sample_weight, self._weight)


SigmoidBCELoss = SigmoidBinaryCrossEntropyLoss


class SoftmaxCrossEntropyLoss(Loss):
    """Cross-entropy of classes with the softmax of the prediction.

    Parameters
    ----------
    axis : int
        The axis of classes.
    sparse_label : bool
        Whether labels are numbers of classes rather than their probabilities.
    from_logits : bool
        Whether predictions are logarithms of probabilities already.
    weight : float, optional
        Factor of the loss.
    batch_axis : int
        The axis of examples.
    """

    def __init__(
        self,
        axis: int = -1,
        sparse_label: bool = True,
        from_logits: bool = False,
        weight: float | None = None,
        batch_axis: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(weight, batch_axis, **kwargs)
        self._axis = axis
        self._sparse_label = sparse_label
        self._from_logits = from_logits

    def hybrid_forward(self, ops: Any, pred: Any, label: Any, sample_weight: Any = None) -> Any:
        """Compute the loss of each example."""
        if not self._from_logits:
            pred = ops.log_softmax(pred, self._axis)
        if self._sparse_label:
            loss = -ops.pick(pred, label, axis=self._axis, keepdims=True)
        else:
            loss = -ops.sum(pred * ops.reshape_like(label, pred), axis=self._axis, keepdims=True)
        return self._per_example(ops, loss, sample_weight, self._weight)


SoftmaxCELoss = SoftmaxCrossEntropyLoss
