"""Enlarge the photographs held out of training by `tconv run`, measure the results, and show one.

    python examples/super_resolution/demo.py --out out

Every photograph is halved, enlarged by the network and by bicubic interpolation, and compared with what it was. The
picture shows a part of one: the small photograph, bicubic interpolation, and the network.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import photographs
from PIL import Image, ImageDraw, ImageFont
from skimage.metrics import structural_similarity

import tconv as mx

HERE = Path(__file__).parent
MODEL = HERE / "super_resolution-symbol.json"
LEAST_GAIN = 0.7
"""In dB, over bicubic interpolation, on every photograph."""

SHOWN, CORNER, SIDE, ZOOM = "astronaut", (144, 336), 160, 2
"""The photograph in the picture, the upper left corner of the part, its size, and how much that is magnified."""

RUNS = 9


def enlarged(small: Image.Image, folder: Path, name: str) -> tuple[Image.Image, float]:
    """Enlarge a picture by `tconv run`; return the result, and the seconds in the network."""
    source, target = folder / f"{name}_small.png", folder / f"{name}_tconv.png"
    small.save(source)
    command = [sys.executable, "-m", "tconv", "run", MODEL, "-i", source, "-o", target]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds = re.search(r"([\d.]+) s of it in the network", told)
    assert seconds, told
    return Image.open(target).convert("RGB"), float(seconds[1])


def quality(image: Image.Image, truth: Image.Image) -> tuple[float, float]:
    """Return PSNR in dB and SSIM of the luma of a picture."""
    ours, wanted = photographs.luma(image), photographs.luma(truth)
    return photographs.psnr(ours, wanted), float(structural_similarity(ours, wanted, data_range=255))


def panel(image: Image.Image, lines: tuple[str, str], scale: int) -> Image.Image:
    """Return the shown part of a picture of `scale` times the small one's size, with two lines below."""
    left, top = (scale * place // 2 for place in CORNER)
    side = scale * SIDE // 2
    part = image.crop((left, top, left + side, top + side)).resize((SIDE * ZOOM,) * 2, Image.Resampling.NEAREST)
    made = Image.new("RGB", (SIDE * ZOOM, SIDE * ZOOM + 40), "white")
    made.paste(part)
    draw, font = ImageDraw.Draw(made), ImageFont.load_default(14)
    for line, offset in zip(lines, (11, 29)):
        draw.text((SIDE * ZOOM / 2, SIDE * ZOOM + offset), line, "black", font, anchor="mm")
    return made


def picture(panels: list[Image.Image]) -> Image.Image:
    """Return panels side by side."""
    gap, (width, height) = 6, panels[0].size
    made = Image.new("RGB", (len(panels) * (width + gap) - gap, height), "white")
    for place, one in enumerate(panels):
        made.paste(one, (place * (width + gap), 0))
    return made


def against_pytorch(small: Image.Image) -> str | None:
    """Time the network on a picture here and in PyTorch, in turns; None where PyTorch is not installed."""
    try:
        import torch
        from torch.nn import functional
    except ModuleNotFoundError:
        return None
    symbol, params, _ = mx.model.load_checkpoint(str(HERE / "super_resolution"), 0)
    data = photographs.luma(small)[None, None] / np.float32(255)
    executor = symbol.bind(mx.cpu(), {**params, "data": mx.nd.array(data)}, grad_req="null")
    p = {name: torch.from_numpy(array.asnumpy()) for name, array in params.items()}

    def through_torch() -> torch.Tensor:
        photo = functional.pad(torch.from_numpy(data), (8, 8, 8, 8), mode="replicate")
        x = photo
        for name in ("extract", "shrink", "map0", "map1", "map2", "map3", "expand"):
            x = functional.conv2d(x, p[f"{name}_weight"], p[f"{name}_bias"])
            x = functional.prelu(x, p[f"{name}_prelu_gamma"])
        margin = (photo.shape[2] - x.shape[2]) // 2
        x = torch.cat([x, photo[..., margin:-margin, margin:-margin]], dim=1)
        return functional.conv_transpose2d(x, p["enlarge_weight"], p["enlarge_bias"], stride=2, padding=7)

    sides = {"tconv": lambda: executor.forward()[0].asnumpy(), "PyTorch": lambda: through_torch().numpy()}
    times: dict[str, list[float]] = {name: [] for name in sides}
    results = {}
    with torch.inference_mode():
        for _ in range(RUNS):
            for name, run in sides.items():
                started = time.perf_counter()
                results[name] = run()
                times[name].append(1e3 * (time.perf_counter() - started))
    apart = np.abs(results["tconv"] - results["PyTorch"]).max()
    assert apart < 1e-4, f"tconv and PyTorch differ by {apart}"
    ours, theirs = (float(np.median(times[name])) for name in sides)
    told = f"tconv {ours:.1f} ms, PyTorch {torch.__version__} {theirs:.1f} ms, {torch.get_num_threads()} threads"
    return f"{told}: {theirs / ours:.2f} times as fast"


def main() -> None:
    """Enlarge, measure, show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the pictures")
    folder: Path = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)

    print("photograph      bicubic             tconv               gain      in the network")
    for name in photographs.HELD_OUT:
        truth = photographs.photograph(name)
        small = photographs.halved(truth)
        bicubic, (ours, seconds) = photographs.doubled(small), enlarged(small, folder, name)
        (before, before_ssim), (after, after_ssim) = quality(bicubic, truth), quality(ours, truth)
        print(
            f"{name:14}  {before:.2f} dB, {before_ssim:.4f}    {after:.2f} dB, {after_ssim:.4f}    "
            f"{after - before:+.2f} dB  {seconds:.3f} s"
        )
        assert after - before >= LEAST_GAIN, f"{name}: only {after - before:.2f} dB over bicubic interpolation"
        if name == SHOWN:
            panels = [
                panel(small, ("input", f"{small.width} x {small.height} pixels"), 1),
                panel(bicubic, ("bicubic", f"PSNR {before:.2f} dB, SSIM {before_ssim:.4f}"), 2),
                panel(ours, (f"tconv run, {seconds:.2f} s", f"PSNR {after:.2f} dB, SSIM {after_ssim:.4f}"), 2),
            ]
            line = against_pytorch(small)
    path = folder / "super_resolution.png"
    picture(panels).save(path)
    print(f"speed           {line or 'not compared, as PyTorch is not installed'}")
    print(f"picture         {path}: input, bicubic interpolation, tconv")


if __name__ == "__main__":
    main()
