"""Batches of arrays for training (`mx.io`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tconv import ndarray
from tconv.errors import ArgumentError, DTypeError, ShapeError
from tconv.geometry import Shape
from tconv.ndarray import NDArray

__all__ = ["DataBatch", "DataDesc", "DataIter", "NDArrayIter", "ResizeIter"]

Array = np.ndarray[Any, Any]


class _NameAndShape(NamedTuple):
    name: str
    shape: Shape


class DataDesc(_NameAndShape):
    """Name, shape, type and axes of an input; a pair of name and shape with two attributes.

    Parameters
    ----------
    name : str
        Name of the variable.
    shape : tuple of int
        Shape of a batch.
    dtype : dtype
        Element type.
    layout : str
        One letter an axis; N is that of the batch.

    Examples
    --------
    >>> import tconv as mx
    >>> name, shape = mx.io.DataDesc("data", (8, 3, 32, 32))
    >>> name, shape
    ('data', (8, 3, 32, 32))
    """

    dtype: Any
    layout: str

    def __new__(cls, name: str, shape: Sequence[int], dtype: Any = np.float32, layout: str = "NCHW") -> DataDesc:
        """Make the pair."""
        desc = super().__new__(cls, name, tuple(shape))
        desc.dtype = dtype
        desc.layout = layout
        return desc

    def __repr__(self) -> str:
        return f"DataDesc[{self.name},{self.shape},{self.dtype},{self.layout}]"

    @staticmethod
    def get_batch_axis(layout: str | None) -> int:
        """Return which axis counts the examples of a batch; 0 where the layout is not known."""
        return 0 if layout is None else layout.find("N")

    @staticmethod
    def get_list(shapes: Sequence[tuple[str, Shape]], types: Sequence[tuple[str, Any]] | None) -> list[DataDesc]:
        """Return descriptions from pairs of name and shape, and pairs of name and type."""
        known = dict(types or ())
        return [DataDesc(name, shape, known.get(name, np.float32)) for name, shape in shapes]


class DataBatch:
    """Arrays of one batch.

    Parameters
    ----------
    data, label : list of NDArray
        Inputs and labels.
    pad : int, optional
        How many examples at the end only fill the batch up.
    index : ndarray, optional
        Numbers of the examples.
    bucket_key, provide_data, provide_label
        Kept as attributes.

    Raises
    ------
    DTypeError
        If `data` or `label` is no list.
    """

    def __init__(
        self,
        data: Sequence[NDArray],
        label: Sequence[NDArray] | None = None,
        pad: int | None = None,
        index: Any = None,
        bucket_key: Any = None,
        provide_data: Sequence[DataDesc] | None = None,
        provide_label: Sequence[DataDesc] | None = None,
    ) -> None:
        for name, arrays in (("data", data), ("label", label)):
            if not isinstance(arrays, (list, tuple, type(None))):
                raise DTypeError(f"DataBatch: {name}: got {type(arrays).__name__}; need a list of NDArrays")
        self.data = data
        self.label = label
        self.pad = pad
        self.index = index
        self.bucket_key = bucket_key
        self.provide_data = provide_data
        self.provide_label = provide_label

    def __str__(self) -> str:
        shapes = [[array.shape for array in arrays or ()] for arrays in (self.data, self.label)]
        return f"{type(self).__name__}: data shapes: {shapes[0]} label shapes: {shapes[1]}"


class DataIter:
    """Base of what goes through data batch by batch.

    A subclass defines `reset` and either `next`, or `iter_next` with `getdata`, `getlabel`, `getpad` and
    `getindex`; and says in `provide_data` and `provide_label` what comes.

    Parameters
    ----------
    batch_size : int
        Examples of a batch.
    """

    def __init__(self, batch_size: int = 0) -> None:
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[DataBatch]:
        return self

    def __next__(self) -> DataBatch:
        return self.next()

    def reset(self) -> None:
        """Start over."""

    def next(self) -> DataBatch:
        """Return the next batch; raises StopIteration after the last."""
        if not self.iter_next():
            raise StopIteration
        return DataBatch(self.getdata(), self.getlabel(), self.getpad(), self.getindex())

    def iter_next(self) -> bool:
        """Go to the next batch, and tell whether there is one."""
        raise NotImplementedError(f"{type(self).__name__}: iter_next: missing; a subclass has to define it")

    def getdata(self) -> list[NDArray]:
        """Return the inputs of the batch."""
        raise NotImplementedError(f"{type(self).__name__}: getdata: missing; a subclass has to define it")

    def getlabel(self) -> list[NDArray]:
        """Return the labels of the batch."""
        raise NotImplementedError(f"{type(self).__name__}: getlabel: missing; a subclass has to define it")

    def getpad(self) -> int:
        """Return how many examples only fill the batch up."""
        raise NotImplementedError(f"{type(self).__name__}: getpad: missing; a subclass has to define it")

    def getindex(self) -> Any:
        """Return the numbers of the examples, or None."""
        return None


class NDArrayIter(DataIter):
    """Goes through arrays in memory.

    Parameters
    ----------
    data, label : array, list of arrays, or dict of str to array
        Inputs and labels, all of one length; lists are called by the name and a number.
    batch_size : int
        Examples of a batch.
    shuffle : bool
        Whether to go through in another order each time, drawn by `numpy.random`.
    last_batch_handle : str
        What becomes of examples that fill no batch: `pad` fills it up from the start, `discard` drops them,
        `roll_over` keeps them for the next time.
    data_name, label_name : str
        Names of single arrays.

    Raises
    ------
    ShapeError
        If the arrays have different lengths, or fewer examples than a batch.
    DTypeError
        If something is no array.
    ArgumentError
        If `last_batch_handle` is another word.

    Examples
    --------
    >>> import tconv as mx
    >>> batches = mx.io.NDArrayIter(mx.nd.arange(5), batch_size=2)
    >>> [(batch.data[0].asnumpy().tolist(), batch.pad) for batch in batches]
    [([0.0, 1.0], 0), ([2.0, 3.0], 0), ([4.0, 0.0], 1)]
    """

    def __init__(
        self,
        data: Any,
        label: Any = None,
        batch_size: int = 1,
        shuffle: bool = False,
        last_batch_handle: str = "pad",
        data_name: str = "data",
        label_name: str = "softmax_label",
    ) -> None:
        super().__init__(batch_size)
        if last_batch_handle not in ("pad", "discard", "roll_over"):
            raise ArgumentError(
                f"NDArrayIter: last_batch_handle: got {last_batch_handle!r}; need pad, discard or roll_over"
            )
        self.data = _named(data, data_name, allow_empty=False)
        self.label = _named(label, label_name, allow_empty=True)
        self.shuffle = shuffle
        self.last_batch_handle = last_batch_handle
        lengths = {name: len(array) for name, array in (*self.data, *self.label)}
        self.num_data = next(iter(lengths.values()))
        if set(lengths.values()) != {self.num_data}:
            raise ShapeError(f"NDArrayIter: data: got the lengths {lengths}; need one length")
        if not 0 < batch_size <= self.num_data:
            raise ShapeError(f"NDArrayIter: batch_size: got {batch_size}; need 1 to {self.num_data}, the examples")
        self.idx = np.arange(self.num_data)
        self._kept = self.idx[:0]
        self._order = self.idx
        self.cursor = 0
        self.hard_reset()

    @property
    def num_source(self) -> int:
        """Number of input arrays."""
        return len(self.data)

    @property
    def provide_data(self) -> list[DataDesc]:
        """What the inputs are."""
        return self._described(self.data)

    @property
    def provide_label(self) -> list[DataDesc]:
        """What the labels are."""
        return self._described(self.label)

    def _described(self, arrays: Sequence[tuple[str, Array]]) -> list[DataDesc]:
        return [DataDesc(name, (self.batch_size, *array.shape[1:]), array.dtype.type) for name, array in arrays]

    def hard_reset(self) -> None:
        """Start over, forgetting what was kept for the next time."""
        self._kept = self.idx[:0]
        self._begin()

    def reset(self) -> None:
        """Start over."""
        rest = len(self._order) % self.batch_size
        if self.last_batch_handle == "roll_over" and rest and self.cursor >= len(self._order) - rest:
            self._kept = self._order[-rest:]
        self._begin()

    def _begin(self) -> None:
        if self.shuffle:
            np.random.shuffle(self.idx)  # noqa: NPY002 - scripts seed NumPy's own generator
        self._order = np.concatenate([self._kept, self.idx])
        self._kept = self.idx[:0]
        if self.last_batch_handle == "discard":
            self._order = self._order[: len(self._order) // self.batch_size * self.batch_size]
        self.cursor = -self.batch_size

    def iter_next(self) -> bool:
        """Go to the next batch, and tell whether there is one."""
        self.cursor += self.batch_size
        last = len(self._order) - (self.batch_size if self.last_batch_handle == "roll_over" else 1)
        return self.cursor <= last

    def _places(self) -> Array:
        places = self._order[self.cursor : self.cursor + self.batch_size]
        return np.concatenate([places, self._order[: self.batch_size - len(places)]])

    def _taken(self, arrays: Sequence[tuple[str, Array]]) -> list[NDArray]:
        places = self._places()
        return [ndarray.array(array[places], dtype=array.dtype) for _, array in arrays]

    def getdata(self) -> list[NDArray]:
        """Return the inputs of the batch."""
        return self._taken(self.data)

    def getlabel(self) -> list[NDArray]:
        """Return the labels of the batch."""
        return self._taken(self.label)

    def getpad(self) -> int:
        """Return how many examples only fill the batch up."""
        return max(self.cursor + self.batch_size - len(self._order), 0)

    def getindex(self) -> Array:
        """Return the numbers of the examples."""
        return self._places()


def _named(arrays: Any, name: str, allow_empty: bool) -> list[tuple[str, Array]]:
    """Return arrays with names, as NumPy arrays over the same memory."""
    if arrays is None:
        arrays = []
    if isinstance(arrays, (np.ndarray, NDArray)):
        arrays = [arrays]
    if isinstance(arrays, (list, tuple)):
        alone = len(arrays) == 1
        arrays = {name if alone else f"_{place}_{name}": array for place, array in enumerate(arrays)}
    if not isinstance(arrays, Mapping):
        raise DTypeError(
            f"NDArrayIter: {name}: got {type(arrays).__name__}; need an array, or a list or dict of them"
        )
    if not arrays and not allow_empty:
        raise ArgumentError(f"NDArrayIter: {name}: got no array; need one at least")
    found = []
    for key, array in arrays.items():
        if not isinstance(array, (np.ndarray, NDArray)):
            raise DTypeError(f"NDArrayIter: {key}: got {type(array).__name__}; need an NDArray or a NumPy array")
        found.append((key, np.asarray(array) if isinstance(array, NDArray) else ndarray.array(array)._data))
    return found


class ResizeIter(DataIter):
    """Makes a time through the data another number of batches.

    Parameters
    ----------
    data_iter : DataIter
        Where batches come from; it starts over whenever it ends.
    size : int
        Number of batches.
    reset_internal : bool
        Whether a reset also resets `data_iter`.
    """

    def __init__(self, data_iter: Any, size: int, reset_internal: bool = True) -> None:
        super().__init__(data_iter.batch_size)
        self.data_iter = data_iter
        self.size = size
        self.reset_internal = reset_internal
        self.cur = 0
        self.provide_data = data_iter.provide_data
        self.provide_label = data_iter.provide_label

    def reset(self) -> None:
        """Start over."""
        self.cur = 0
        if self.reset_internal:
            self.data_iter.reset()

    def next(self) -> DataBatch:
        """Return the next batch; raises StopIteration after the last."""
        if self.cur == self.size:
            raise StopIteration
        self.cur += 1
        try:
            batch: DataBatch = self.data_iter.next()
        except StopIteration:
            self.data_iter.reset()
            batch = self.data_iter.next()
        return batch
