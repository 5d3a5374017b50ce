"""What a chunk of a signal costs by `tconv.Stream`, against its share of the whole signal's time.

    python benchmarks/streaming.py --threads 1 --json benchmarks/results/streaming.json

The layers are the upsampler of HiFi-GAN V1 (256 samples a frame), EnCodec's first decoder layer and BigVGAN's. The
whole signal, `--frames` long, is computed by `tconv.prepare` with its free choice of algorithms, Winograd too;
a chunk is fed to a stream that goes on. Every result lies in fresh memory. Run it on cores that nothing else uses.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

import tconv
from timing import pin, summary, time_in_turn

CHUNKS = (1, 2, 5, 10, 20, 50)
# Channels, filters, kernel, stride, pad.
MODELS = {
    "HiFi-GAN": [(512, 256, 16, 8, 4), (256, 128, 16, 8, 4), (128, 64, 4, 2, 1), (64, 32, 4, 2, 1)],
    "BigVGAN, first layer": [(512, 256, 8, 4, 2)],
    "EnCodec, first layer": [(512, 256, 16, 8, 0)],
}


def layers(model: str, frames: int, threads: int) -> list[tuple[str, int, dict[str, Any]]]:
    """Return name, frames a frame of the model, and arguments of every layer."""
    generator, found, each = np.random.default_rng(0), [], 1
    for number, (channels, filters, kernel, stride, pad) in enumerate(MODELS[model], 1):
        name = f"{model} {number}" if len(MODELS[model]) > 1 else model
        arguments = {
            "w": generator.standard_normal((channels, filters, kernel)).astype(np.float32),
            "bias": generator.standard_normal(filters).astype(np.float32),
            "stride": stride,
            "pad": pad if pad else ((0, kernel - stride),),
            "threads": threads,
        }
        found.append((name, each, arguments))
        each *= stride
    return found


def measure(arguments: dict[str, Any], each: int, frames: int, seconds: float) -> dict[str, Any]:
    """Time a layer; milliseconds of the whole signal, and of one chunk of each length."""
    channels = arguments["w"].shape[0]
    signal = np.random.default_rng(1).standard_normal((1, channels, frames * each)).astype(np.float32)
    prepared = tconv.prepare(**arguments)
    runs: dict[str, Any] = {"whole": lambda: prepared(signal)}
    streams = []
    for chunk in CHUNKS:
        stream, part = tconv.Stream(**arguments), signal[..., : chunk * each].copy()
        for _ in range(3):
            stream.feed(part)
        streams.append(stream)
        runs[str(chunk)] = lambda stream=stream, part=part: stream.feed(part)
    times = {}
    # One after the other: a chunk is no rival that is dropped for being slower than another.
    for name, run in runs.items():
        times[name] = summary(time_in_turn({name: run}, seconds)[name])["median"]
    return {
        "algorithm": prepared.explain(signal.shape).algorithm,
        "stream": "/".join(streams[0].algorithms),
        "milliseconds": times,
    }


def ratios(times: dict[str, float], frames: int) -> dict[str, float]:
    """Return the cost of chunks over their share of the whole."""
    return {str(chunk): times[str(chunk)] / (times["whole"] * chunk / frames) for chunk in CHUNKS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--frames", type=int, default=400, help="frames of the whole signal")
    parser.add_argument("--seconds", type=float, default=0.3, help="of each measurement")
    parser.add_argument("--match", default="", help="part of the names of the models to run")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    pin(given.threads)
    rows = []
    print("| layer | whole (ms) | " + " | ".join(f"{chunk} frames" for chunk in CHUNKS) + " |")
    print("| --- " * (len(CHUNKS) + 2) + "|")
    for model in MODELS:
        if given.match not in model:
            continue
        total: dict[str, float] = {}
        for name, each, arguments in layers(model, given.frames, given.threads):
            found = measure(arguments, each, given.frames, given.seconds)
            for key, value in found["milliseconds"].items():
                total[key] = total.get(key, 0.0) + value
            rows.append({"layer": name, **found, "ratios": ratios(found["milliseconds"], given.frames)})
        if len(MODELS[model]) > 1:
            rows.append({"layer": f"{model}, all", "milliseconds": total, "ratios": ratios(total, given.frames)})
        for row in rows[-len(MODELS[model]) - (len(MODELS[model]) > 1) :]:
            cells = [f"{row['milliseconds']['whole']:.2f}"]
            cells += [f"{row['milliseconds'][str(c)]:.3f} ({row['ratios'][str(c)]:.2f}x)" for c in CHUNKS]
            print(f"| {row['layer']} | " + " | ".join(cells) + " |", flush=True)
    if given.json:
        result = {"threads": given.threads, "frames": given.frames, "rows": rows}
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
