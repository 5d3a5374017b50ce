"""What training calls at the end of a batch or an epoch (`mx.callback`)."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from tconv.model import save_checkpoint
from tconv.ndarray import NDArray
from tconv.symbol import Symbol

__all__ = [
    "LogValidationMetricsCallback",
    "ProgressBar",
    "Speedometer",
    "do_checkpoint",
    "log_train_metric",
    "module_checkpoint",
]


def module_checkpoint(
    mod: Any, prefix: str, period: int = 1, save_optimizer_states: bool = False
) -> Callable[..., None]:
    """Return the callback that saves a module every `period` epochs.

    Parameters
    ----------
    mod : Module
        What is saved.
    prefix : str
        Beginning of the files' names.
    period : int
        Epochs from one file to the next.
    save_optimizer_states : bool
        Whether the optimizer's states are saved too.
    """
    period = max(int(period), 1)

    def save(epoch: int, sym: Any = None, arg: Any = None, aux: Any = None) -> None:
        if (epoch + 1) % period == 0:
            mod.save_checkpoint(prefix, epoch + 1, save_optimizer_states)

    return save


def do_checkpoint(prefix: str, period: int = 1) -> Callable[..., None]:
    """Return the callback that saves symbol and parameters every `period` epochs."""
    period = max(int(period), 1)

    def save(epoch: int, sym: Symbol, arg: Mapping[str, NDArray], aux: Mapping[str, NDArray]) -> None:
        if (epoch + 1) % period == 0:
            save_checkpoint(prefix, epoch + 1, sym, arg, aux)

    return save


def log_train_metric(period: int, auto_reset: bool = False) -> Callable[[Any], None]:
    """Return the callback that logs the metric every `period` batches."""

    def log(param: Any) -> None:
        if param.nbatch % period == 0 and param.eval_metric is not None:
            for name, value in param.eval_metric.get_name_value():
                logging.info("Iter[%d] Batch[%d] Train-%s=%f", param.epoch, param.nbatch, name, value)
            if auto_reset:
                param.eval_metric.reset_local()

    return log


class Speedometer:
    """Logs examples a second, and the metric, every `frequent` batches.

    Parameters
    ----------
    batch_size : int
        Examples of a batch.
    frequent : int
        Batches from one line to the next.
    auto_reset : bool
        Whether a line is about the batches since the last one only.
    """

    def __init__(self, batch_size: int, frequent: int = 50, auto_reset: bool = True) -> None:
        self.batch_size = batch_size
        self.frequent = frequent
        self.auto_reset = auto_reset
        self._since: float | None = None
        self.last_count = 0

    def __call__(self, param: Any) -> None:
        """Take note of a batch."""
        count = param.nbatch
        if self.last_count > count:
            self._since = None
        self.last_count = count
        now = time.perf_counter()
        if self._since is None:
            self._since = now
            return
        if count % self.frequent:
            return
        elapsed = now - self._since
        speed = self.frequent * self.batch_size / elapsed if elapsed else math.inf
        text, values = f"Epoch[{param.epoch}] Batch [{count}]\tSpeed: {speed:.2f} samples/sec", []
        if param.eval_metric is not None:
            values = param.eval_metric.get_name_value()
            text = f"Epoch[{param.epoch}] Batch [{count - self.frequent}-{count}]\tSpeed: {speed:.2f} samples/sec"
            if self.auto_reset:
                param.eval_metric.reset_local()
        logging.info("%s", "\t".join([text, *(f"{name}={value:f}" for name, value in values)]))
        self._since = time.perf_counter()


class ProgressBar:
    """Draws a bar of `length` characters that is full after `total` batches."""

    def __init__(self, total: int, length: int = 80) -> None:
        self.total = total
        self.bar_len = length

    def __call__(self, param: Any) -> None:
        """Draw the bar anew."""
        part = min(param.nbatch / self.total, 1.0)
        done = round(self.bar_len * part)
        sys.stdout.write(f"[{'=' * done}{'-' * (self.bar_len - done)}] {math.ceil(100 * part)}%\r")


class LogValidationMetricsCallback:
    """Logs the metrics at the end of an epoch."""

    def __call__(self, param: Any) -> None:
        """Log them."""
        if param.eval_metric is not None:
            for name, value in param.eval_metric.get_name_value():
                logging.info("Epoch[%d] Validation-%s=%f", param.epoch, name, value)
