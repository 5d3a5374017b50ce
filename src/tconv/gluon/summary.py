"""The table that `Block.summary` prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tconv.gluon import errors
from tconv.ndarray import NDArray

if TYPE_CHECKING:
    from tconv.gluon.block import Block
    from tconv.gluon.parameter import Parameter

_LINE = "{:>20}  {:>42} {:>15}"
_WIDTH = 80


@dataclass
class _Row:
    layer: str
    shape: str
    parameters: int = 0
    trainable: int = 0
    shared: int = 0


def summary_text(block: Block, inputs: Sequence[Any], containers: tuple[type, ...]) -> str:
    """Run `block` on `inputs` and return a table of its layers, their output shapes and numbers of parameters.

    Parameters
    ----------
    block : Block
        An initialized block that is not hybridized.
    inputs : sequence
        Its arguments.
    containers : tuple of type
        Blocks that only hold others, left out of the table.

    Raises
    ------
    ArgumentError
        If the block, or one inside, is hybridized.
    """
    rows = [_Row("Input", _shapes(inputs))]
    seen: set[Parameter] = set()
    handles = []

    def enter(layer: Block, _: Any, outputs: Any) -> None:
        row = _Row(f"{type(layer).__name__}-{len(rows)}", _shapes(outputs))
        for param in layer.params.values():
            size = param.data().size
            row.parameters += size
            row.trainable += size if param.grad_req != "null" else 0
            row.shared += size if param in seen else 0
            seen.add(param)
        rows.append(row)

    def watch(layer: Block) -> None:
        if getattr(layer, "_active", False):
            raise errors.AssertionError(
                f"{layer.name}: summary: the block is hybridized; call it before, or hybridize(False)"
            )
        if not isinstance(layer, containers):
            handles.append(layer.register_forward_hook(enter))

    try:
        block.apply(watch)
        block(*inputs)
    finally:
        for handle in handles:
            handle.detach()
    total, trainable, shared = (
        sum(getattr(row, key) for row in rows) for key in ("parameters", "trainable", "shared")
    )
    return "\n".join(
        [
            "-" * _WIDTH,
            _LINE.format("Layer (type)", "Output Shape", "Param #"),
            "=" * _WIDTH,
            *(_LINE.format(row.layer, row.shape, row.parameters) for row in rows),
            "=" * _WIDTH,
            "Parameters in forward computation graph, duplicate included",
            f"   Total params: {total}",
            f"   Trainable params: {trainable}",
            f"   Non-trainable params: {total - trainable}",
            f"Shared params in forward computation graph: {shared}",
            f"Unique parameters in model: {total - shared}",
            "-" * _WIDTH,
        ]
    )


def _shapes(values: Any) -> str:
    if isinstance(values, NDArray):
        return str(values.shape)
    if isinstance(values, (list, tuple)):
        return ", ".join(
            f"[{_shapes(value)}]" if isinstance(value, (list, tuple)) else _shapes(value) for value in values
        )
    return str(values)
