"""The command line: its subcommands, errors and exit codes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import shared_models
import tconv as mx
from tconv import knobs
from tconv.pictures.files import pillow, read_image, write_image

pytest.importorskip("click", reason="the command line needs click")
pytest.importorskip("PIL", reason="images need Pillow")

from click.testing import CliRunner, Result

from tconv.cli._group import tconv as group

COMMANDS = group.list_commands(None)


@pytest.fixture
def run() -> Callable[..., Result]:
    """Run `tconv` in this process."""

    def run(*args: object) -> Result:
        return CliRunner().invoke(group, [str(arg) for arg in args], prog_name="tconv")

    return run


def test_help_lists_every_command_and_imports_none(run: Callable[..., Result]) -> None:
    code = """
import sys
sys.argv = ["tconv", "--help"]
try:
    import tconv.__main__
except SystemExit:
    print(*(name for name in sys.modules if name.startswith("tconv.cli.")))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    *text, modules = done.stdout.splitlines()
    assert modules.split() == ["tconv.cli._group"]
    for name in COMMANDS:
        assert any(line.split()[:1] == [name] and len(line.split()) > 2 for line in text)


@pytest.mark.parametrize("name", COMMANDS)
def test_command_has_help_with_examples(run: Callable[..., Result], name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert re.search(rf"^ +(\w+=\w+ )?tconv {name}\b", result.output.partition("Examples:\n")[2], re.M)


def test_version_and_unknown_command(run: Callable[..., Result]) -> None:
    assert run("--version").output.startswith("tconv, version ")
    assert run("no-such-thing").exit_code == 2


def test_absent_click_is_one_sentence() -> None:
    code = "import sys\nsys.modules['click'] = None\nfrom tconv.cli import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "tconv: the command line needs click; install it by: pip install 'tconv[cli]'\n"


def test_knobs_tells_every_knob(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TCONV_PLANS", "7")
    result = run("knobs")
    assert result.exit_code == 0
    assert all(knob.variable in result.output and knob.doc in result.output for knob in knobs.KNOBS.values())
    assert "7 (set)" in result.output


def test_error_is_one_line(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TCONV_PLANS", "many")
    result = run("knobs")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: TCONV_PLANS: got 'many'")
    assert result.stderr.count("\n") == 1


@pytest.fixture
def enlarger(tmp_path: Path) -> Path:
    """Write a model that repeats every pixel twofold, and return its JSON file."""
    up = mx.sym.UpSampling(mx.sym.var("data"), scale=2, sample_type="nearest", num_args=1, name="up")
    weighted = mx.sym.Convolution(up, kernel=(1, 1), num_filter=1, no_bias=True, name="keep")
    prefix = str(tmp_path / "model")
    mx.model.save_checkpoint(prefix, 3, weighted, {"keep_weight": mx.nd.ones((1, 1, 1, 1))}, {})
    return tmp_path / "model-symbol.json"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 14, 3), np.uint8)
    write_image(tmp_path / "photo.png", pixels)
    return tmp_path / "photo.png"


def test_run_enlarges_a_photograph(run: Callable[..., Result], enlarger: Path, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "large.png"
    result = run("run", enlarger, "-i", photo, "-o", out)
    assert result.exit_code == 0, result.output
    assert re.search(r"14 x 10 -> 28 x 20 pixels \(luma\): [\d.]+ s, [\d.]+ s of it in the network", result.output)
    assert read_image(out).shape == (20, 28, 3)
    tiled = tmp_path / "tiled.png"
    assert (
        run("run", enlarger, "-i", f"data={photo}", "-o", tiled, "--tile", 6, "--channels", "gray").exit_code == 0
    )
    whole = np.asarray(pillow().open(photo).convert("L")).astype(int)
    assert np.abs(whole.repeat(2, 0).repeat(2, 1) - read_image(tiled)[..., 0]).max() <= 1


def test_run_on_arrays(run: Callable[..., Result], enlarger: Path, tmp_path: Path) -> None:
    data = np.random.default_rng(0).random((2, 1, 3, 4), np.float32)
    np.save(tmp_path / "data.npy", data)
    np.savez(tmp_path / "data.npz", data=data, other=data)
    for name in ("data.npy", "data.npz"):
        for out in ("out.npy", "out.npz"):
            result = run("run", enlarger, "-i", f"data={tmp_path / name}", "-o", tmp_path / out)
            assert result.exit_code == 0, result.output
            assert "keep_output: (2, 1, 6, 8), float32" in result.output
        assert (np.load(tmp_path / "out.npy") == data.repeat(2, 2).repeat(2, 3)).all()
        assert np.load(tmp_path / "out.npz").files == ["keep_output"]


def test_run_takes_another_head(run: Callable[..., Result], tmp_path: Path) -> None:
    x = mx.sym.var("x")
    both = mx.sym.Group([mx.sym.relu(x, name="a"), mx.sym.square(x, name="b")])
    mx.model.save_checkpoint(str(tmp_path / "two"), 0, both, {}, {})
    np.save(tmp_path / "x.npy", np.float32([3, -3]))
    args = ("run", tmp_path / "two-symbol.json", "-i", tmp_path / "x.npy", "-o", tmp_path / "out.npy")
    assert run(*args).exit_code == 0
    assert np.load(tmp_path / "out.npy").tolist() == [3, 0]
    assert run(*args, "--head", "b").exit_code == 0
    assert np.load(tmp_path / "out.npy").tolist() == [9, 9]
    result = run(*args, "--head", "c")
    assert (result.exit_code, result.stderr) == (1, "Error: run: head: got c; the outputs are a_output, b_output\n")


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"-i": "other=photo.png"}, 2, "got other; the model has the inputs data"),
        ({"-i": "absent.png"}, 2, "absent.png: no such file"),
        ({"-i": "bad.png"}, 1, "image"),
        ({"-i": "bad.npy"}, 1, "arrays"),
        ({"-o": "out.xyz"}, 1, "need an image, .npy or .npz"),
        ({"--mean": "a,b"}, 2, "got 'a,b'; need numbers"),
        ({"--mean": "1,2"}, 1, "mean: got 2 numbers"),
        ({"--tile": "0"}, 2, "0 is not in the range"),
        ({"--params": "bad.npy"}, 1, "params file"),
        ({"--channels": "rgb"}, 1, "keep"),
    ],
)
def test_run_tells_what_is_wrong(
    run: Callable[..., Result],
    enlarger: Path,
    photo: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(enlarger.parent)
    Path("bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    Path("bad.npy").write_bytes(b"\x93NUMPY")
    options = {"-i": "photo.png", "-o": "out.png", **change}
    result = run("run", enlarger.name, *(word for pair in options.items() for word in pair))
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert code == 2 or result.stderr.count("\n") == 1


def test_run_names_missing_parameters(run: Callable[..., Result], enlarger: Path, photo: Path) -> None:
    (enlarger.parent / "model-0003.params").unlink()
    assert "name the file by --params" in run("run", enlarger, "-i", photo).stderr
    mx.nd.save(str(enlarger.parent / "model-0004.params"), {"arg:other": mx.nd.ones((1,))})
    result = run("run", enlarger, "-i", f"data={photo}")
    assert result.exit_code == 1
    assert "keep_weight: missing" in result.stderr


def test_interrupt_leaves_with_130(
    run: Callable[..., Result], enlarger: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tconv.cli.run.run_tiles", interrupted)
    result = run("run", enlarger, "-i", photo, "-o", enlarger.parent / "never.png")
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")
    assert not (enlarger.parent / "never.png").exists()


@shared_models.every_model
def test_run_gives_what_mxnet_gave(run: Callable[..., Result], name: str, tmp_path: Path) -> None:
    model = shared_models.load(name)
    params = model.folder / "model.params"
    if not params.exists():
        params = tmp_path / "model.params"
        mx.nd.save(str(params), {key: mx.nd.array(value) for key, value in model.params.items()})
    args = ["run", model.folder / "symbol.json", "-p", params, "-o", tmp_path / "out.npz"]
    result = run(*args, *(f"-i{key}={model.folder / 'io.npz'}" for key in model.inputs))
    assert result.exit_code == 0, result.output
    # Half a gigabyte, which pytest would keep.
    (tmp_path / "model.params").unlink(missing_ok=True)
    with np.load(tmp_path / "out.npz") as found:
        for key, want, tolerance in zip(model.symbol.list_outputs(), model.outputs, model.tolerances, strict=True):
            np.testing.assert_allclose(found[key], want, rtol=0, atol=tolerance)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Write a small network with a branch, and return its JSON file."""
    x = mx.sym.var("data")
    down = mx.sym.Convolution(x, kernel=(3, 3), stride=(2, 2), pad=(1, 1), num_filter=4, name="down")
    side = mx.sym.relu(mx.sym.BatchNorm(down, name="norm"), name="side")
    up = mx.sym.Deconvolution(down + side, kernel=(4, 4), stride=(2, 2), pad=(1, 1), num_filter=2, name="up")
    rng = np.random.default_rng(0)
    shapes, _, states = up.infer_shape(data=(1, 3, 8, 8))
    params = {
        name: mx.nd.array(rng.random(shape)) for name, shape in zip(up.list_arguments(), shapes) if name != "data"
    }
    aux = {name: mx.nd.ones(shape) for name, shape in zip(up.list_auxiliary_states(), states)}
    mx.model.save_checkpoint(str(tmp_path / "small"), 0, up, params, aux)
    return tmp_path / "small-symbol.json"


def test_info_tells_layers(run: Callable[..., Result], small: Path) -> None:
    result = run("info", small, "--shape", "data=1,3,8,12")
    assert result.exit_code == 0, result.output
    assert "input   data (1, 3, 8, 12)" in result.output
    assert "output  up_output (1, 2, 8, 12)" in result.output
    assert "parameters: 256 in 7 arrays, float32" in result.output
    rows = {line.split()[0]: line.split() for line in result.output.splitlines() if line}
    assert rows["down"][-2:] == ["112", f"{4 * 4 * 6 * 27:,}"]
    assert rows["up"][-2:] == ["128", f"{4 * 4 * 6 * 32:,}"]
    assert rows["norm"][-2:] == ["16", "0"]
    assert rows["all"] == ["all", "256", f"{4 * 4 * 6 * 59:,}"]


def test_info_without_shapes_or_params(run: Callable[..., Result], small: Path) -> None:
    result = run("info", small)
    assert result.exit_code == 0, result.output
    assert "input   data of unknown shape" in result.output
    assert "?" in result.output
    (small.parent / "small-0000.params").unlink()
    result = run("info", small, "--shape", "data=1,3,8,8")
    assert result.exit_code == 0, result.output
    assert "256" in result.output
    assert run("info", small, "--shape", "data=1,3,8,8", "--time").exit_code == 1


@pytest.mark.parametrize("shape", ["data", "data=", "=1,2", "data=1,-3", "data=1,x", "data=1;2"])
def test_info_refuses_shapes(run: Callable[..., Result], small: Path, shape: str) -> None:
    assert run("info", small, "--shape", shape).exit_code == 2


def test_info_tells_time(run: Callable[..., Result], small: Path) -> None:
    result = run("info", small, "--shape", "data=1,3,8,12", "--time")
    assert result.exit_code == 0, result.output
    shares = [float(line.split()[-1][:-1]) for line in result.output.splitlines() if line.endswith("%")]
    assert len(shares) == 6
    assert sum(shares[:-1]) == pytest.approx(100, abs=0.5)


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_info_draws_the_graph(run: Callable[..., Result], small: Path, kind: str) -> None:
    picture = small.parent / f"graph.{kind}"
    result = run("info", small, "--shape", "data=1,3,8,12", "--plot", picture)
    assert result.exit_code == 0, result.output
    if kind == "png":
        assert read_image(picture).shape[2] == 3
        return
    root = ElementTree.parse(picture).getroot()
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert texts[:2] == ["data", "(1, 3, 8, 12)"]
    assert {"down", "norm", "side", "up"} <= set(texts)
    assert len([element for element in root.iter() if element.tag.endswith("rect")]) == 7
    assert run("info", small, "--plot", "graph.gif").exit_code == 1


def test_convert_and_compare(run: Callable[..., Result], small: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    result = run("convert", small, "--shape", "data=batch,3,height,width")
    assert result.exit_code == 0, result.output
    path = small.parent / "small.onnx"
    assert result.output.startswith(f"{path}: operator set 17")
    assert "input data: (batch, 3, height, width), float32" in result.output
    result = run("compare", small, path, "--shape", "data=2,3,16,12")
    assert result.exit_code == 0, result.output
    assert {"down_output", "norm_output", "side_output", "up_output"} <= {
        line.split()[0] for line in result.output.splitlines()
    }
    assert run("convert", small).exit_code == 1
    path.write_bytes(path.read_bytes()[:100])
    result = run("compare", small, path, "--shape", "data=2,3,16,12")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ONNX file")
    assert result.stderr.count("\n") == 1


def test_compare_finds_the_layer_that_differs(run: Callable[..., Result], small: Path) -> None:
    params = mx.nd.load(str(small.parent / "small-0000.params"))
    params["arg:up_weight"] += 0.5
    other = str(small.parent / "other.params")
    mx.nd.save(other, params)
    np.save(small.parent / "data.npy", np.ones((1, 3, 8, 8), np.float32))
    args = ("compare", small, small, "-i", small.parent / "data.npy")
    assert run(*args).exit_code == 0
    result = run(*args, "--params-b", other)
    assert result.exit_code == 1
    rows = {line.split()[0]: line.split() for line in result.stdout.splitlines()}
    assert float(rows["side_output"][1]) == 0
    assert float(rows["up_output"][1]) > 0.1
    assert "the outputs differ by" in result.stderr
    assert run(*args, "--params-b", other, "--tolerance", 1).exit_code == 0
    assert run("compare", small, small).exit_code == 1


@pytest.mark.parametrize("more", [[], ["--prepared"], ["--gradient", "weight"], ["--layout", "NWC"]])
def test_explain_tells_the_algorithm_and_every_refusal(run: Callable[..., Result], more: list[str]) -> None:
    shape = "1,6,4" if "--layout" in more else "1,4,6"
    result = run("explain", shape, "--filters", "2", "--kernel", "4", "--stride", "2", *more)
    assert result.exit_code == 0, result.output
    for algorithm in ("winograd", "direct"):
        assert re.search(rf"^{algorithm}: expected|^not {algorithm}: .", result.output, re.MULTILINE)
    assert "of the direct method" in result.output


def test_explain_measures(run: Callable[..., Result]) -> None:
    result = run(
        "explain", "1,4,6", "--filters", "2", "--kernel", "4", "--stride", "2", "--threads", "1", "--measure"
    )
    assert result.exit_code == 0, result.output
    assert "of the measured peak" in result.output
    # None of them takes a tenth of a millisecond.
    found = re.findall(r"expected ([\d.]+) µs, measured ([\d.]+) (?:µs|ms)", result.output)
    assert found
    assert all(float(text) > 0 for pair in found for text in pair)


@pytest.mark.parametrize(
    ("words", "shape"),
    [
        (["--pad", "1"], "(1, 2, 12)"),
        (["--target-shape", "11"], "(1, 2, 11)"),
        (["--adj", "3", "--adj-rule", "any"], "(1, 2, 17)"),
        (["--target-shape", "20", "--adj-rule", "any", "--prepared"], "(1, 2, 20)"),
        (["--pad", "1", "--pad-mode", "circular"], "(1, 2, 12)"),
    ],
)
def test_explain_takes_what_the_operator_takes(run: Callable[..., Result], words: list[str], shape: str) -> None:
    result = run("explain", "1,4,6", "--filters", "2", "--kernel", "4", "--stride", "2", *words)
    assert result.exit_code == 0, result.output
    assert f"(1, 4, 6) <-> {shape}" in result.output


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["1,4"], "explain: shape: got 1,4; need batch, channels and 1 to 3 sizes"),
        (["1,x,4"], "explain: shape: got '1,x,4'; need numbers"),
        (["1,4,6", "--groups", "3"], "explain: filters: got 2; need a multiple of 3 groups"),
        (["1,4,6", "--prepared", "--gradient", "data"], "explain: gradient: got one with --prepared"),
        (["1,4,6", "--pad", "40"], "explain: pad: got"),
        (["1,4,6", "--adj", "1"], "explain: adj: got (1,) with stride (1,)"),
        (["1,4,6", "--pad", "30", "--pad-mode", "reflect"], "explain: pad: got"),
        (["1,4,6", "--threads", "99999"], "explain: threads: got 99999; need 1 to 4096"),
        ([f"1,4,{2**63}"], f"explain: shape: got an array of (1, 4, {2**63}); need one that memory can address"),
    ],
)
def test_explain_tells_what_is_wrong(run: Callable[..., Result], words: list[str], sentence: str) -> None:
    result = run("explain", *words, "--filters", "2", "--kernel", "4")
    assert result.exit_code == 1
    assert sentence in result.output


@pytest.mark.parametrize(
    ("module", "args", "message"),
    [
        ("PIL", ("run", "small-symbol.json", "-i", "photo.png"), "images: Pillow is missing; install it by"),
        (
            "onnx",
            ("convert", "small-symbol.json", "-s", "data=1,3,8,8"),
            "onnx: the package is missing; install it by",
        ),
    ],
)
def test_absent_packages_are_one_sentence(
    run: Callable[..., Result],
    small: Path,
    photo: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    args: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(small.parent)
    monkeypatch.setitem(sys.modules, module, None)
    result = run(*args)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
