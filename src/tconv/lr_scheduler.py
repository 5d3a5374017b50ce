"""Learning rates that change with the number of updates (`mx.lr_scheduler`)."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from itertools import pairwise

from tconv.errors import ArgumentError

__all__ = ["CosineScheduler", "FactorScheduler", "LRScheduler", "MultiFactorScheduler", "PolyScheduler"]


class LRScheduler:
    """Base of the schedules: `schedule(num_update)` is the learning rate of that update.

    Parameters
    ----------
    base_lr : float
        Learning rate after the warm-up.
    warmup_steps : int
        Number of updates before the schedule proper.
    warmup_begin_lr : float
        Learning rate of the first of them.
    warmup_mode : {'linear', 'constant'}
        Whether the rate rises meanwhile or stays.

    Raises
    ------
    ArgumentError
        If a number is out of range.
    """

    def __init__(
        self,
        base_lr: float = 0.01,
        warmup_steps: int = 0,
        warmup_begin_lr: float = 0,
        warmup_mode: str = "linear",
    ) -> None:
        name = type(self).__name__
        if warmup_begin_lr > base_lr:
            raise ArgumentError(f"{name}: warmup_begin_lr: got {warmup_begin_lr}; need at most base_lr {base_lr}")
        if not isinstance(warmup_steps, int) or warmup_steps < 0:
            raise ArgumentError(f"{name}: warmup_steps: got {warmup_steps!r}; need an int of at least 0")
        if warmup_mode not in ("linear", "constant"):
            raise ArgumentError(f"{name}: warmup_mode: got {warmup_mode!r}; need 'linear' or 'constant'")
        self.base_lr = base_lr
        self.warmup_final_lr = base_lr
        self.warmup_steps = warmup_steps
        self.warmup_begin_lr = warmup_begin_lr
        self.warmup_mode = warmup_mode

    def get_warmup_lr(self, num_update: int) -> float:
        """Return the learning rate of an update of the warm-up."""
        if self.warmup_mode == "constant":
            return self.warmup_begin_lr
        rise = self.warmup_final_lr - self.warmup_begin_lr
        return self.warmup_begin_lr + rise * num_update / self.warmup_steps

    def __call__(self, num_update: int) -> float:
        """Return the learning rate of an update."""
        return self.get_warmup_lr(num_update) if num_update < self.warmup_steps else self._after(num_update)

    def _after(self, num_update: int) -> float:
        raise NotImplementedError(f"{type(self).__name__}: __call__: missing; a subclass has to define it")


def _checked_factor(name: str, factor: float) -> float:
    if factor > 1:
        raise ArgumentError(f"{name}: factor: got {factor}; need at most 1, so that the rate falls")
    return factor


class FactorScheduler(LRScheduler):
    """Times `factor` after every `step` updates, down to `stop_factor_lr`.

    Parameters
    ----------
    step : int
        Updates between two changes.
    factor : float
        At most 1.
    stop_factor_lr : float
        Least learning rate.
    base_lr, warmup_steps, warmup_begin_lr, warmup_mode
        As of `LRScheduler`.

    Examples
    --------
    >>> import tconv as mx
    >>> schedule = mx.lr_scheduler.FactorScheduler(step=2, factor=0.5, base_lr=1.0)
    >>> [schedule(update) for update in range(1, 6)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    def __init__(
        self,
        step: int,
        factor: float = 1,
        stop_factor_lr: float = 1e-8,
        base_lr: float = 0.01,
        warmup_steps: int = 0,
        warmup_begin_lr: float = 0,
        warmup_mode: str = "linear",
    ) -> None:
        super().__init__(base_lr, warmup_steps, warmup_begin_lr, warmup_mode)
        if step < 1:
            raise ArgumentError(f"FactorScheduler: step: got {step}; need at least 1")
        self.step = step
        self.factor = _checked_factor("FactorScheduler", factor)
        self.stop_factor_lr = stop_factor_lr
        self.count = 0

    def _after(self, num_update: int) -> float:
        while num_update > self.count + self.step:
            self.count += self.step
            self.base_lr = max(self.base_lr * self.factor, self.stop_factor_lr)
            logging.info("Update[%d]: Change learning rate to %0.5e", num_update, self.base_lr)
        return self.base_lr


class MultiFactorScheduler(LRScheduler):
    """Times `factor` after each of the given numbers of updates.

    Parameters
    ----------
    step : list of int
        Numbers of updates, rising.
    factor : float
        At most 1.
    base_lr, warmup_steps, warmup_begin_lr, warmup_mode
        As of `LRScheduler`.
    """

    def __init__(
        self,
        step: Sequence[int],
        factor: float = 1,
        base_lr: float = 0.01,
        warmup_steps: int = 0,
        warmup_begin_lr: float = 0,
        warmup_mode: str = "linear",
    ) -> None:
        super().__init__(base_lr, warmup_steps, warmup_begin_lr, warmup_mode)
        if not step or step[0] < 1 or any(later <= before for before, later in pairwise(step)):
            raise ArgumentError(f"MultiFactorScheduler: step: got {step}; need rising numbers of at least 1")
        self.step = list(step)
        self.factor = _checked_factor("MultiFactorScheduler", factor)
        self.cur_step_ind = 0
        self.count = 0

    def _after(self, num_update: int) -> float:
        while self.cur_step_ind < len(self.step) and num_update > self.step[self.cur_step_ind]:
            self.count = self.step[self.cur_step_ind]
            self.cur_step_ind += 1
            self.base_lr *= self.factor
            logging.info("Update[%d]: Change learning rate to %0.5e", num_update, self.base_lr)
        return self.base_lr


class _Falling(LRScheduler):
    """From `base_lr` to `final_lr` within `max_update` updates."""

    def __init__(
        self,
        max_update: int,
        base_lr: float,
        final_lr: float,
        warmup_steps: int,
        warmup_begin_lr: float,
        warmup_mode: str,
    ) -> None:
        super().__init__(base_lr, warmup_steps, warmup_begin_lr, warmup_mode)
        if not isinstance(max_update, int) or max_update < 1:
            raise ArgumentError(f"{type(self).__name__}: max_update: got {max_update!r}; need an int of at least 1")
        self.base_lr_orig = base_lr
        self.final_lr = final_lr
        self.max_update = max_update
        self.max_steps = max_update - warmup_steps

    def _left(self, part: float) -> float:
        """Return how much of the fall is left when `part` of the updates are done."""
        raise NotImplementedError

    def _after(self, num_update: int) -> float:
        if num_update <= self.max_update:
            left = self._left((num_update - self.warmup_steps) / self.max_steps)
            self.base_lr = self.final_lr + (self.base_lr_orig - self.final_lr) * left
        return self.base_lr


class PolyScheduler(_Falling):
    """From `base_lr` to `final_lr` along a power of what is left of the updates.

    Parameters
    ----------
    max_update : int
        Updates until the end.
    base_lr : float
        Learning rate at the beginning.
    pwr : float
        The power.
    final_lr : float
        Learning rate at the end.
    warmup_steps, warmup_begin_lr, warmup_mode
        As of `LRScheduler`.
    """

    def __init__(
        self,
        max_update: int,
        base_lr: float = 0.01,
        pwr: float = 2,
        final_lr: float = 0,
        warmup_steps: int = 0,
        warmup_begin_lr: float = 0,
        warmup_mode: str = "linear",
    ) -> None:
        super().__init__(max_update, base_lr, final_lr, warmup_steps, warmup_begin_lr, warmup_mode)
        self.power = pwr

    def _left(self, part: float) -> float:
        return math.pow(1 - part, self.power)


class CosineScheduler(_Falling):
    """From `base_lr` to `final_lr` along half a wave of the cosine.

    Parameters
    ----------
    max_update : int
        Updates until the end.
    base_lr, final_lr : float
        Learning rates at the beginning and the end.
    warmup_steps, warmup_begin_lr, warmup_mode
        As of `LRScheduler`.
    """

    def __init__(
        self,
        max_update: int,
        base_lr: float = 0.01,
        final_lr: float = 0,
        warmup_steps: int = 0,
        warmup_begin_lr: float = 0,
        warmup_mode: str = "linear",
    ) -> None:
        super().__init__(max_update, base_lr, final_lr, warmup_steps, warmup_begin_lr, warmup_mode)

    def _left(self, part: float) -> float:
        return (1 + math.cos(math.pi * part)) / 2
