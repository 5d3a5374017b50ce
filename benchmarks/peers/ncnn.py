"""ncnn: a net of one deconvolution in float32; it has no batch, so images go one by one."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import ncnn
import numpy as np

from peers.layer import Layer, RefusalError, Way

NAME = "ncnn"

# The numbers under which its layers know the parameters of an axis, innermost axis first.
_NUMBERS = {
    "kernel": (1, 11, 21),
    "dilation": (2, 12, 22),
    "stride": (3, 13, 23),
    "pad_lo": (4, 14, 24),
    "pad_hi": (15, 16, 17),
    "adj": (18, 19, 20),
}


def _describe(layer: Layer) -> str:
    g = layer.geometry
    kind = "DeconvolutionDepthWise" if g.groups > 1 else "Deconvolution"
    words = [f"0={g.filters}", f"6={layer.w.size}"]
    if g.groups > 1:
        words.append(f"7={g.groups}")
    for field, numbers in _NUMBERS.items():
        words += [f"{number}={value}" for number, value in zip(numbers, reversed(layer.per_axis(field)))]
    name = kind + {1: "1D", 2: "", 3: "3D"}[layer.rank]
    return f"7767517\n2 2\nInput x 0 1 x\n{name} y 1 1 x y {' '.join(words)}\n"


class Peer:
    version = ncnn.__version__

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def forward(self, layer: Layer) -> dict[str, Way]:
        net = ncnn.Net()
        net.opt.num_threads = self._threads
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
        net.opt.use_bf16_packed = net.opt.use_bf16_storage = False
        weights = np.ascontiguousarray(np.swapaxes(layer.grouped(), 1, 2))
        with tempfile.TemporaryDirectory() as folder:
            described, stored = Path(folder, "layer.param"), Path(folder, "layer.bin")
            described.write_text(_describe(layer), encoding="ascii")
            stored.write_bytes(bytes(4) + weights.tobytes())
            if net.load_param(str(described)) != 0 or net.load_model(str(stored)) != 0:
                raise RefusalError("its layer did not load")
        images = [ncnn.Mat(image) for image in layer.x]

        def run() -> list[Any]:
            results = []
            for image in images:
                extractor = net.create_extractor()
                extractor.input("x", image)
                code, result = extractor.extract("y")
                if code != 0:
                    raise RefusalError(f"it answered {code}")
                results.append(result)
            return results

        return {"": Way(run, lambda results: (np.stack([np.array(result) for result in results]),))}
