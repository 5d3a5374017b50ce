"""Train the network, and write it as MXNet writes a checkpoint.

    python examples/super_resolution/train.py --out out/super_resolution

It goes on where it was interrupted, with the same result, bit for bit. Photographs held out are looked at for the
log alone; the last epoch is the result.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import network
import numpy as np
import photographs

import tconv as mx

SEED = 1
BATCH, SIZE = 8, 32
BATCHES = 250
"""Batches an epoch."""
RATE, LAST_RATE = 2e-3, 2e-5
PREFIX = "super_resolution"


class Trainer:
    """The network in training, with all that an interruption must not lose."""

    def __init__(self, epochs: int) -> None:
        self.epoch = 0
        self._patches = photographs.Patches(BATCH, SIZE, network.REACH)
        self._label = mx.sym.Variable("label")
        enlarged = network.network(bordered=False)
        loss = mx.sym.MAERegressionOutput(enlarged, self._label, name="loss")
        side = SIZE + 2 * network.REACH
        shapes = {"data": (BATCH, 1, side, side), "label": (BATCH, 1, 2 * SIZE, 2 * SIZE)}
        inputs = {"data": "null", "label": "null"}
        self._names = [name for name in loss.list_arguments() if name not in inputs]
        requests = {name: inputs.get(name, "write") for name in loss.list_arguments()}
        self._executor = loss.simple_bind(mx.cpu(), grad_req=requests, **shapes)
        first = network.initialized(enlarged, np.random.default_rng(SEED), data=shapes["data"])
        self._executor.copy_params_from({name: mx.nd.array(first[name]) for name in self._names})
        schedule = mx.lr_scheduler.CosineScheduler(
            epochs * BATCHES, base_lr=RATE, final_lr=LAST_RATE, warmup_steps=BATCHES
        )
        adam = mx.optimizer.create(
            "adam", learning_rate=RATE, lr_scheduler=schedule, rescale_grad=1 / BATCH, sym=loss
        )
        self._updater = mx.optimizer.get_updater(adam)

    @property
    def params(self) -> dict[str, mx.nd.NDArray]:
        """The parameters."""
        return {name: self._executor.arg_dict[name] for name in self._names}

    def train_epoch(self) -> float:
        """Train one epoch, whose patches follow from its number; return the mean loss in grey levels of 255."""
        self.epoch += 1
        rng = np.random.default_rng((SEED, self.epoch))
        losses = []
        for _ in range(BATCHES):
            small, large = self._patches.batch(rng)
            (enlarged,) = self._executor.forward(is_train=True, data=small, label=large)
            self._executor.backward()
            for name in self._names:
                self._updater(name, self._executor.grad_dict[name], self._executor.arg_dict[name])
            losses.append(np.abs(enlarged.asnumpy() - large).mean())
        return 255 * float(np.mean(losses))

    def save(self, folder: Path) -> None:
        """Write the checkpoint, and what it takes to go on from it."""
        mx.model.save_checkpoint(str(folder / PREFIX), 0, network.network(), self.params, {})
        state = folder / f"{PREFIX}.state"
        state.with_suffix(".new").write_bytes(self._updater.get_states(dump_optimizer=True))
        state.with_suffix(".new").replace(state)

    def resume(self, folder: Path) -> bool:
        """Take up a checkpoint, if there is one."""
        state = folder / f"{PREFIX}.state"
        if not state.exists():
            return False
        self._executor.copy_params_from(mx.model.load_params(str(folder / PREFIX), 0)[0])
        self._updater.set_states(state.read_bytes())
        self.epoch = self._updater.optimizer.num_update // BATCHES
        return True


def evaluate(params: dict[str, mx.nd.NDArray]) -> dict[str, tuple[float, float]]:
    """Return PSNR of luma on every photograph held out, in dB: of bicubic interpolation, and of the network."""
    symbol, found = network.network(), {}
    for name in photographs.HELD_OUT:
        image = photographs.photograph(name)
        small, truth = photographs.halved(image), photographs.luma(image)
        data = mx.nd.array(photographs.luma(small)[None, None] / 255)
        (enlarged,) = symbol.eval(data=data, **params)
        ours = np.rint(255 * enlarged.asnumpy()[0, 0].clip(0, 1))
        bicubic = photographs.luma(photographs.doubled(small))
        found[name] = photographs.psnr(bicubic, truth), photographs.psnr(ours, truth)
    return found


def main() -> None:
    """Train, log, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/super_resolution"), help="folder for the checkpoint")
    parser.add_argument("--epochs", type=int, default=40, help="epochs of 250 batches in all")
    arguments = parser.parse_args()
    folder: Path = arguments.out
    folder.mkdir(parents=True, exist_ok=True)

    trainer = Trainer(arguments.epochs)
    if trainer.resume(folder):
        print(f"resumed after epoch {trainer.epoch}", flush=True)
    else:
        count = sum(array.size for array in trainer.params.values())
        print(f"{count} parameters, seed {SEED}, {len(photographs.TRAINING)} photographs", flush=True)
    while trainer.epoch < arguments.epochs:
        started = time.process_time()
        loss = trainer.train_epoch()
        seconds = time.process_time() - started
        trainer.save(folder)
        found = evaluate(trainer.params)
        gains = " ".join(f"{name} {ours - bicubic:+.2f}" for name, (bicubic, ours) in found.items())
        told = f"epoch {trainer.epoch:3} loss {loss:.3f} {seconds:.0f} s of processor time"
        print(f"{told}; dB over bicubic: {gains}", flush=True)
    for name, (bicubic, ours) in evaluate(trainer.params).items():
        print(f"{name:8} bicubic {bicubic:.2f} dB, network {ours:.2f} dB, gain {ours - bicubic:.2f} dB")


if __name__ == "__main__":
    main()
