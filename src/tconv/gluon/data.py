"""Data sets and their batches (`mx.gluon.data`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from tconv import ndarray
from tconv.gluon import errors
from tconv.ndarray import NDArray

__all__ = [
    "ArrayDataset",
    "BatchSampler",
    "DataLoader",
    "Dataset",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "SimpleDataset",
]


class Dataset:
    """Base of the data sets: a subclass defines `__getitem__` and `__len__`."""

    def __getitem__(self, idx: int) -> Any:
        raise NotImplementedError(f"{type(self).__name__}: __getitem__: missing; a subclass has to define it")

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__}: __len__: missing; a subclass has to define it")

    def transform(self, fn: Callable[..., Any], lazy: bool = True) -> Dataset:
        """Return the data set of `fn(*example)`, computed whenever asked for, or at once."""
        changed = _Transformed(self, fn)
        return changed if lazy else SimpleDataset([changed[at] for at in range(len(changed))])

    def transform_first(self, fn: Callable[..., Any], lazy: bool = True) -> Dataset:
        """Return the data set with `fn` applied to the first part of every example."""

        def first(x: Any, *rest: Any) -> Any:
            return (fn(x), *rest) if rest else fn(x)

        return self.transform(first, lazy)

    def take(self, count: int | None) -> Dataset:
        """Return the data set of the first examples."""
        return _Chosen(self, range(len(self) if count is None else min(count, len(self))))

    def filter(self, fn: Callable[[Any], bool]) -> Dataset:
        """Return the data set of the examples for which `fn` is true."""
        return _Chosen(self, [at for at in range(len(self)) if fn(self[at])])


class _Transformed(Dataset):
    def __init__(self, data: Dataset, fn: Callable[..., Any]) -> None:
        self._data = data
        self._fn = fn

    def __getitem__(self, idx: int) -> Any:
        example = self._data[idx]
        return self._fn(*example) if isinstance(example, tuple) else self._fn(example)

    def __len__(self) -> int:
        return len(self._data)


class _Chosen(Dataset):
    def __init__(self, data: Dataset, places: Sequence[int]) -> None:
        self._data = data
        self._places = places

    def __getitem__(self, idx: int) -> Any:
        return self._data[self._places[idx]]

    def __len__(self) -> int:
        return len(self._places)


class SimpleDataset(Dataset):
    """A list, or anything with places and a length, as a data set."""

    def __init__(self, data: Sequence[Any]) -> None:
        self._data = data

    def __getitem__(self, idx: int) -> Any:
        return self._data[idx]

    def __len__(self) -> int:
        return len(self._data)


class ArrayDataset(Dataset):
    """Arrays, lists or data sets of one length, side by side.

    Raises
    ------
    ArgumentError
        If there is none, or the lengths differ.

    Examples
    --------
    >>> import tconv as mx
    >>> pairs = mx.gluon.data.ArrayDataset([1, 2, 3], [10, 20, 30])
    >>> [batch.asnumpy().tolist() for batch in next(iter(mx.gluon.data.DataLoader(pairs, batch_size=2)))]
    [[1, 2], [10, 20]]
    """

    def __init__(self, *args: Any) -> None:
        lengths = [len(data) for data in args]
        if len(set(lengths)) != 1:
            raise errors.AssertionError(f"ArrayDataset: got the lengths {lengths}; need one length")
        # One-dimensional arrays give numbers, as in MXNet.
        self._data = [data.asnumpy() if isinstance(data, NDArray) and data.ndim == 1 else data for data in args]

    def __getitem__(self, idx: int) -> Any:
        if len(self._data) == 1:
            return self._data[0][idx]
        return tuple(data[idx] for data in self._data)

    def __len__(self) -> int:
        return len(self._data[0])


class Sampler:
    """Base of the samplers: a subclass defines `__iter__`, over places, and `__len__`."""

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError(f"{type(self).__name__}: __iter__: missing; a subclass has to define it")

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__}: __len__: missing; a subclass has to define it")


class SequentialSampler(Sampler):
    """The places from `start` on, `length` of them, in order."""

    def __init__(self, length: int, start: int = 0) -> None:
        self._places = range(start, start + length)

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class RandomSampler(Sampler):
    """The places below `length`, in an order drawn by `numpy.random` each time."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __iter__(self) -> Iterator[int]:
        order = np.arange(self._length)
        np.random.shuffle(order)  # noqa: NPY002 - scripts seed NumPy's own generator
        return iter(order.tolist())

    def __len__(self) -> int:
        return self._length


class BatchSampler(Sampler):
    """The places of another sampler in lists of `batch_size`.

    Parameters
    ----------
    sampler : Sampler
        The places.
    batch_size : int
        Length of a list.
    last_batch : str
        What becomes of a shorter last list: `keep`, `discard`, or `rollover` to the next time.

    Raises
    ------
    ArgumentError
        If `last_batch` is another word.
    """

    def __init__(self, sampler: Sampler, batch_size: int, last_batch: str = "keep") -> None:
        if last_batch not in ("keep", "discard", "rollover"):
            raise errors.ValueError(
                f"BatchSampler: last_batch: got {last_batch!r}; need 'keep', 'discard' or 'rollover'"
            )
        self._sampler = sampler
        self._batch_size = batch_size
        self._last_batch = last_batch
        self._kept: list[Any] = []

    def __iter__(self) -> Iterator[list[Any]]:
        batch, self._kept = self._kept, []
        for place in self._sampler:
            batch.append(place)
            if len(batch) == self._batch_size:
                yield batch
                batch = []
        if batch and self._last_batch == "keep":
            yield batch
        elif self._last_batch == "rollover":
            self._kept = batch

    def __len__(self) -> int:
        count = len(self._sampler) + len(self._kept)
        return -(-count // self._batch_size) if self._last_batch == "keep" else count // self._batch_size


def default_batchify_fn(data: Sequence[Any]) -> Any:
    """Stack examples to a batch, the parts of pairs each."""
    if isinstance(data[0], NDArray):
        return ndarray.stack(*data, axis=0)
    if isinstance(data[0], tuple):
        return [default_batchify_fn(part) for part in zip(*data)]
    stacked = np.asarray(data)
    return ndarray.array(stacked, dtype=stacked.dtype)


class DataLoader:
    """Goes through a data set batch by batch, each time it is iterated over.

    Parameters
    ----------
    dataset : Dataset or sequence
        The examples.
    batch_size : int, optional
        Examples of a batch; missing only with a `batch_sampler`.
    shuffle : bool
        Whether to go through in another order each time.
    sampler : Sampler, optional
        The order, in place of `shuffle`.
    last_batch : str
        As of `BatchSampler`; `keep` by default.
    batch_sampler : Sampler, optional
        Lists of places, in place of all these.
    batchify_fn : callable, optional
        Makes a batch of a list of examples; by default they are stacked.
    num_workers, pin_memory, pin_device_id, prefetch, thread_pool, timeout, try_nopython
        Known for the sake of scripts; batches are made when they are asked for.

    Raises
    ------
    ArgumentError
        If arguments are missing or exclude each other.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = None,
        shuffle: bool = False,
        sampler: Any = None,
        last_batch: str | None = None,
        batch_sampler: Iterable[Any] | None = None,
        batchify_fn: Callable[[Sequence[Any]], Any] | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        pin_device_id: int = 0,
        prefetch: int | None = None,
        thread_pool: bool = False,
        timeout: int = 120,
        try_nopython: bool | None = None,
    ) -> None:
        self._dataset = dataset
        if batch_sampler is None:
            if batch_size is None:
                raise errors.ValueError("DataLoader: batch_size: missing; need it or a batch_sampler")
            if sampler is not None and shuffle:
                raise errors.ValueError("DataLoader: shuffle: got True with a sampler; need one of them")
            sampler = sampler or (RandomSampler if shuffle else SequentialSampler)(len(dataset))
            batch_sampler = BatchSampler(sampler, batch_size, last_batch or "keep")
        elif batch_size is not None or shuffle or sampler is not None or last_batch is not None:
            raise errors.ValueError(
                "DataLoader: batch_sampler: got batch_size, shuffle, sampler or last_batch too; need it alone"
            )
        self._batch_sampler: Any = batch_sampler
        self._batchify_fn = batchify_fn or default_batchify_fn

    def __iter__(self) -> Iterator[Any]:
        for places in self._batch_sampler:
            yield self._batchify_fn([self._dataset[place] for place in places])

    def __len__(self) -> int:
        return len(self._batch_sampler)
