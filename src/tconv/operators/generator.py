"""The random numbers of operators: one seed for the process, one generator a thread."""

from __future__ import annotations

import threading

import numpy as np

_lock = threading.Lock()
_local = threading.local()
_root = np.random.SeedSequence()
_epoch = 0


def seed(value: int | None = None) -> None:
    """Start the random numbers of all threads afresh.

    Parameters
    ----------
    value : int, optional
        The seed; without one, the numbers are unpredictable. A negative one counts by its 64 bits.
    """
    global _root, _epoch
    with _lock:
        _root = np.random.SeedSequence(None if value is None else value % 2**64)
        _epoch += 1


def generator() -> np.random.Generator:
    """Return the generator of this thread; after `seed`, threads get theirs in the order in which they ask.

    Examples
    --------
    >>> from tconv.operators.generator import generator, seed
    >>> seed(3)
    >>> first = generator().random(2)
    >>> seed(3)
    >>> bool((first == generator().random(2)).all())
    True
    """
    with _lock:
        if getattr(_local, "epoch", None) != _epoch:
            _local.epoch = _epoch
            _local.generator = np.random.default_rng(_root.spawn(1)[0])
    current: np.random.Generator = _local.generator
    return current
