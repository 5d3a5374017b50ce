"""Run one model when told to, with MXNet or with tconv in its place; `models.py` talks to two of these.

    python model_worker.py mxnet|tconv FOLDER '{"data": [1, 3, 512, 512]}' THREADS

It answers each line `run` with the seconds of one pass, and `save FILE` with the outputs in that file.
"""

import json
import os
import sys
import time
from pathlib import Path

library, folder, shapes, threads = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4]
os.environ.update(OMP_NUM_THREADS=threads, TCONV_THREADS=threads)
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads)])

import numpy as np  # noqa: E402

if library == "mxnet":
    import mxnet as mx
else:
    import tconv as mx


def parameters():
    """Return the parameters of the model, drawn where there is only a recipe."""
    if (folder / "model.params").exists():
        return mx.nd.load(str(folder / "model.params"))
    recipe = json.loads((folder / "recipe.json").read_text())
    rng = np.random.default_rng(recipe["seed"])
    found = {}
    for row in recipe["arrays"]:
        low, high = np.float32(row["low"]), np.float32(row["high"])
        found[row["name"]] = mx.nd.array(rng.random(tuple(row["shape"]), dtype=np.float32) * (high - low) + low)
    return found


def main():
    """Bind the model, and do as standard input says."""
    symbol = mx.sym.load(str(folder / "symbol.json"))
    executor = symbol.simple_bind(mx.cpu(), grad_req="null", **{name: tuple(s) for name, s in shapes.items()})
    sorts = {"arg": {}, "aux": {}}
    for key, array in parameters().items():
        sorts[key[:3]][key[4:]] = array
    executor.copy_params_from(sorts["arg"], sorts["aux"], allow_extra_params=True)
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        executor.arg_dict[name][:] = rng.random(tuple(shape), dtype=np.float32)
    print(mx.__version__, flush=True)
    for line in sys.stdin:
        before = time.perf_counter()
        outputs = executor.forward(is_train=False)
        for output in outputs:
            output.wait_to_read()
        seconds = time.perf_counter() - before
        word, _, file = line.strip().partition(" ")
        if word == "save":
            np.savez(file, *(output.asnumpy() for output in outputs))
        print(seconds, flush=True)


if __name__ == "__main__":
    main()
