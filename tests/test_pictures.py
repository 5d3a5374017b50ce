"""Photographs through networks: files, views of pixels, and tiles that give what the whole gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tconv as mx
from tconv.errors import FormatError, MXNetError, ParameterError, ShapeError
from tconv.pictures.files import View, is_image, pillow, read_image, write_image
from tconv.pictures.network import PictureNetwork, bound
from tconv.pictures.reach import Unbounded
from tconv.pictures.tiles import cut, fitting_size, run_tiles, tile_size, tiles

pytest.importorskip("PIL", reason="pictures need Pillow")


def upscaler() -> mx.sym.Symbol:
    x = mx.sym.Pad(mx.sym.var("data"), mode="edge", pad_width=(0, 0, 0, 0, 2, 2, 1, 3))
    x = mx.sym.Convolution(x, kernel=(5, 3), num_filter=4, dilate=(1, 2), name="a")
    x = mx.sym.LeakyReLU(x, act_type="leaky")
    return mx.sym.Deconvolution(x, kernel=(4, 6), stride=(2, 2), pad=(1, 2), num_filter=3, name="up")


def down_and_up() -> mx.sym.Symbol:
    data = mx.sym.var("data")
    x = mx.sym.Convolution(data, kernel=(3, 3), stride=(2, 2), pad=(1, 1), num_filter=4, name="down")
    x = mx.sym.Pooling(x, kernel=(2, 2), stride=(2, 2), pool_type="max")
    x = mx.sym.UpSampling(x, scale=2, sample_type="nearest", num_args=1)
    x = mx.sym.Deconvolution(x, kernel=(4, 4), stride=(2, 2), pad=(1, 1), num_filter=3, name="up")
    return mx.sym.Concat(data, mx.sym.Crop(x, data, num_args=2), name="joined")


def valid_only() -> mx.sym.Symbol:
    x = mx.sym.Convolution(mx.sym.var("data"), kernel=(5, 5), num_filter=2, name="a")
    x = mx.sym.slice(x, begin=(None, None, 1, 2), end=(None, None, -1, None))
    return mx.sym.Convolution(x, kernel=(3, 3), num_filter=1, name="b")


def network_of(symbol: mx.sym.Symbol, channels: int = 3) -> PictureNetwork:
    rng = np.random.default_rng(1)
    shapes, _, _ = symbol.infer_shape(data=(1, channels, 64, 64))
    params = {
        name: mx.nd.array(rng.standard_normal(shape) / 4)
        for name, shape in zip(symbol.list_arguments(), shapes)
        if name != "data"
    }
    return PictureNetwork(symbol, params, "data", channels)


@pytest.mark.parametrize("make", [upscaler, down_and_up, valid_only])
@pytest.mark.parametrize("size", [4, 13, 32])
def test_tiles_give_what_the_whole_gives(make: Callable[[], mx.sym.Symbol], size: int) -> None:
    network = network_of(make())
    data = np.random.default_rng(2).random((1, 3, 64, 60), np.float32)
    whole = network(data).copy()
    made = np.full(whole.shape[1:], np.nan, np.float32).transpose(1, 2, 0)
    pieces = tiles(network, 64, 60, size)
    assert len(pieces) > 1
    run_tiles(
        pieces,
        data[0].transpose(1, 2, 0),
        made,
        lambda part: network(np.ascontiguousarray(part.transpose(2, 0, 1)[None]))[0].transpose(1, 2, 0),
    )
    np.testing.assert_allclose(made.transpose(2, 0, 1), whole[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", [upscaler, down_and_up, valid_only])
def test_margin_is_as_far_as_a_pixel_is_felt(make: Callable[[], mx.sym.Symbol]) -> None:
    network = network_of(make())
    rng = np.random.default_rng(3)
    data = rng.random((1, 3, 64, 64), np.float32)
    before = network(data).copy()
    for place, sees in enumerate(network.reaches(64, 64)):
        felt = 0
        for at in range(28, 36):
            touched = data.copy()
            touched[(0, slice(None), *((at, slice(None)) if place == 0 else (slice(None), at)))] += 5
            changed = np.abs(network(touched) - before).max(axis=(0, 1, 3 - place)) > 1e-6
            places = np.flatnonzero(changed) / float(sees.scale)
            felt = max(felt, int(np.ceil(at - places.min())), int(np.ceil(places.max() - at)))
        assert felt <= sees.margin <= felt + 2 * sees.step


@pytest.mark.parametrize(
    "make",
    [
        lambda x: mx.sym.Pooling(x, global_pool=True, kernel=(1, 1), pool_type="avg"),
        lambda x: mx.sym.InstanceNorm(x, name="norm"),
        lambda x: mx.sym.slice(x, begin=(0, 0, -9, 0), end=(1, 3, 64, 64)),
        lambda x: mx.sym.reverse(x, axis=2),
        lambda x: mx.sym.broadcast_add(x, mx.sym.mean(x, axis=(2, 3), keepdims=True)),
    ],
)
def test_what_sees_everything_is_not_cut(make: Callable[[mx.sym.Symbol], mx.sym.Symbol]) -> None:
    network = network_of(make(mx.sym.var("data")))
    with pytest.raises(Unbounded):
        network.reaches(64, 64)
    with pytest.raises(ParameterError, match="tile: the picture cannot be cut without a trace"):
        tiles(network, 64, 64, 16)
    assert len(tiles(network, 64, 64, None)) == 1


def test_overlap_by_hand_cuts_all_the_same() -> None:
    network = network_of(mx.sym.InstanceNorm(mx.sym.var("data"), name="norm"))
    pieces = tiles(network, 64, 64, 16, overlap=4)
    assert len(pieces) == 16
    assert pieces[5].read == (slice(12, 36), slice(12, 36))


def test_sizes_grow_to_what_a_network_takes() -> None:
    data = mx.sym.var("data")
    down = mx.sym.Pooling(data, kernel=(4, 4), stride=(4, 4), pool_type="max")
    network = network_of(mx.sym.Concat(data, mx.sym.UpSampling(down, scale=4, sample_type="nearest", num_args=1)))
    assert fitting_size(network, 61, 64) == (64, 64)
    assert fitting_size(network, 64, 60) == (64, 60)
    with pytest.raises(MXNetError):
        fitting_size(network_of(mx.sym.FullyConnected(data, num_hidden=2, name="fc")), 8, 8)


def test_tile_size_keeps_to_the_memory() -> None:
    network = network_of(upscaler())
    whole = network.peak_bytes(3000, 2000)
    assert tile_size(network, 3000, 2000, whole) is None
    size = tile_size(network, 3000, 2000, whole // 10)
    assert size is not None
    assert network.peak_bytes(size, size) <= whole // 10


def test_cut_covers_everything_once() -> None:
    network = network_of(upscaler())
    sees, _ = network.reaches(64, 64)
    for length in range(1, 40):
        for size in (1, 3, 10, 50):
            parts = list(cut(length, 2 * length, size, sees))
            written = np.concatenate([np.arange(part.start, part.stop) for _, part, _ in parts])
            assert (written == np.arange(2 * length)).all()
            assert all(0 <= read.start < read.stop <= length for read, _, _ in parts)


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_view_and_back(channels: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    view = View(channels, 2.0, (1.0, 2.0, 3.0))
    seen = view.to_network(pixels)
    assert seen.shape == (1, 3, 5, 7)
    assert seen[0, 0, 0, 0] == (pixels[0, 0, 0 if channels == "rgb" else 2] - 1.0) / 2
    assert (view.to_pixels(seen, pixels) == pixels).all()


def test_view_of_luma_and_back_is_the_same() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    assert (View("luma").to_pixels(View("luma").to_network(pixels), pixels) == pixels).all()


def test_view_of_luma_keeps_colours() -> None:
    pixels = np.full((4, 4, 3), (200, 40, 90), np.uint8)
    view = View("luma")
    seen = view.to_network(pixels)
    assert seen.shape == (1, 1, 4, 4)
    large = view.to_pixels(np.repeat(np.repeat(seen, 2, axis=2), 2, axis=3), pixels)
    assert large.shape == (8, 8, 3)
    assert np.abs(large.astype(int) - pixels[0, 0]).max() <= 2


def test_view_clips_and_refuses() -> None:
    pixels = np.zeros((1, 2, 3), np.uint8)
    assert View().to_pixels(np.float32([[[[-1, 2]]]]), pixels).ravel().tolist() == [0, 255]
    assert View().to_pixels(np.float32([[[[np.nan, 0.5]]]]), pixels).ravel().tolist() == [0, 128]
    with pytest.raises(ShapeError, match="a picture needs"):
        View().to_pixels(np.zeros((1, 5, 2, 2), np.float32), pixels)
    with pytest.raises(ParameterError, match="mean: got 2 numbers"):
        View("rgb", 255, (1.0, 2.0))
    with pytest.raises(ParameterError, match="scale: got 0"):
        View(scale=0)


def test_files(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    write_image(tmp_path / "a.png", pixels)
    assert (read_image(tmp_path / "a.png") == pixels).all()
    write_image(tmp_path / "gray.png", pixels[..., :1])
    assert read_image(tmp_path / "gray.png").shape == (5, 7, 3)
    assert is_image("x.JPEG")
    assert not is_image("x.npz")
    turned = pillow().fromarray(pixels)
    turned.getexif()[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=turned.getexif())
    assert (read_image(tmp_path / "turned.png") == np.rot90(pixels, -1)).all()
    (tmp_path / "bad.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    for path in (tmp_path / "bad.png", tmp_path / "absent.png"):
        with pytest.raises(FormatError, match="image"):
            read_image(path)
    with pytest.raises(FormatError, match="unknown file extension"):
        write_image(tmp_path / "a.xyz", pixels)


def test_bound_fills_labels_and_names_what_is_missing() -> None:
    out = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=2, name="fc"), name="softmax")
    arrays = {"data": mx.nd.ones((3, 4)), "fc_weight": mx.nd.ones((2, 4))}
    with pytest.raises(ParameterError, match=r"^fc_bias: missing"):
        bound(out, arrays)
    (found,) = bound(out, {**arrays, "fc_bias": mx.nd.zeros((2,))}).forward()
    assert found.asnumpy().tolist() == [[0.5, 0.5]] * 3
