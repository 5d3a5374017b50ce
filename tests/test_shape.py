"""`tconv shape`, and the drawing of taps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("click", reason="the command line needs click")

from click.testing import CliRunner, Result

from tconv.cli._group import tconv as group
from tconv.errors import ParameterError
from tconv.pictures.taps import MOST_INPUTS, as_svg, as_text, draw
from tconv.sizes import Step


@pytest.fixture
def run() -> Callable[..., Result]:
    def run(*args: object) -> Result:
        return CliRunner().invoke(group, ["shape", *map(str, args)], prog_name="tconv")

    return run


def test_solves(run: Callable[..., Result]) -> None:
    result = run("--in", 7, "--kernel", 4, "--stride", 2, "--want", 14)
    assert result.exit_code == 0
    assert "pad 1, adj 0    recommended: it cuts both ends alike" in result.output
    assert "output    x  0  1  2" in result.output
    result = run("--in", "7,5", "--kernel", "4,3", "--stride", 2, "--want", "14,10", "--two-ends", "--no-draw")
    assert "7 -> 14 on axis 0" in result.output
    assert "7 x 5 -> 14 x 10" in result.output


def test_tells_what_is_impossible(run: Callable[..., Result]) -> None:
    result = run("--in", 7, "--kernel", 3, "--want", 8)
    assert result.exit_code == 1
    assert "impossible: stride 1 leaves no room" in result.output
    assert "nearest: 7, 9" in result.output


def test_translates(run: Callable[..., Result]) -> None:
    layer = "ConvTranspose2d(64,32,3,stride=2,padding=1,output_padding=1)"
    result = run("--from", "torch", layer, "--to", "keras")
    assert result.exit_code == 0
    assert "keras.layers.Conv2DTranspose(filters=32, kernel_size=3" in result.output
    assert "Keras cannot say these pads; cut (1, 0), (1, 0) off the ends of its result" in result.output
    result = run("--from", "torch", layer, "--to", "all", "--in", "H,W")
    assert "H x W -> 2*H x 2*W" in result.output
    assert result.output.count("  weight ") == 9


def test_sizes_and_symbols(run: Callable[..., Result]) -> None:
    result = run("--in", "T", "--kernel", 16, "--stride", 8, "--pad", 4, "--no-draw")
    assert "T -> 8*T" in result.output
    assert "an output meets 2 inputs (kernel 16 mod stride 8 is 0, even), within 2 neighbours" in result.output
    assert "7 -> 14" in run("--kernel", 4, "--stride", 2, "--pad", 1, "--out", 14).output
    assert "no input -> 15" in run("--kernel", 4, "--stride", 2, "--pad", 1, "--out", 15).output
    assert (
        "outputs 80 to 87 need inputs 9 to 11"
        in run("--kernel", 16, "--stride", 8, "--pad", 4, "--outputs", "80:87").output
    )
    assert "5 -> 11" in run("--in", 5, "--kernel", 3, "--stride", 2, "--pad", "1:0", "--adj", 1).output


@pytest.mark.parametrize(
    ("args", "code", "sentence"),
    [
        ([], 2, "need --kernel, or --from and LAYER"),
        (["f()"], 2, "LAYER needs --from"),
        (["--kernel", "4", "--want", "8"], 2, "--want needs --in with numbers"),
        (["--kernel", "a"], 1, "shape: kernel: got 'a'; need numbers"),
        (["--kernel", "4", "--pad", "1:2:3"], 1, "shape: pad: got '1:2:3'; need numbers"),
        (["--kernel", "4,4,4", "--in", "3,3"], 1, "shape: in: got 2 entries; need 1 or 3"),
        (["--kernel", "4", "--in", "8T"], 1, "got '8T'; need a number or the name"),
        (["--kernel", "2", "--pad", "9", "--in", "3"], 1, "gives no output for it"),
        (["--kernel", "2", "--picture", "taps.gif"], 1, "need a name that ends in .svg or .png"),
        (["--from", "torch", "Linear(3, 4)"], 1, "layer: got 'Linear'"),
    ],
)
def test_refuses(run: Callable[..., Result], args: list[str], code: int, sentence: str) -> None:
    result = run(*args)
    assert result.exit_code == code
    assert sentence in result.output


def test_text_shows_every_tap() -> None:
    text = as_text(Step(3, stride=2, pad=(1, -1)), 3)
    assert text == (
        "output    x  0  1  2  3  4  5  6\n"
        "input 0   0  1  2\n"
        "input 1         0  1  2\n"
        "input 2               0  1  2\n"
        "inputs    1  1  2  1  2  1  1  0"
    )
    assert as_text(Step(2, 2), 100).endswith(f"... and so on, to input {100 - 1}")
    assert f"input {MOST_INPUTS}" not in as_text(Step(2, 2), 100)


def test_pictures(tmp_path: Path) -> None:
    step = Step(4, stride=2, pad=1)
    root = ElementTree.fromstring(as_svg(step, 3))
    assert len([node for node in root.iter() if node.tag.endswith("line")]) == 12
    draw(tmp_path / "taps.svg", step, 3)
    assert (tmp_path / "taps.svg").read_text(encoding="utf-8") == as_svg(step, 3)
    image = pytest.importorskip("PIL.Image", reason="PNG needs Pillow")
    draw(tmp_path / "taps.png", step, 3)
    with image.open(tmp_path / "taps.png") as opened:
        assert opened.width == 2 * int(root.attrib["width"])
        assert len(opened.getcolors(1 << 20)) > 10
    with pytest.raises(ParameterError, match=r"taps: got 'taps.gif'"):
        draw(tmp_path / "taps.gif", step, 3)


@pytest.mark.parametrize(("name", "step"), [("even", Step(4, 2, pad=1)), ("uneven", Step(3, 2, pad=1, adj=1))])
def test_drawings_of_the_page(name: str, step: Step) -> None:
    page = Path(__file__).parent.parent / "docs" / f"taps_{name}.svg"
    assert page.read_text(encoding="utf-8") == as_svg(step, 4)
