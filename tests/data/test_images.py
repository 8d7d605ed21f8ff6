"""Every kind of picture file becomes the same RGB, or is unreadable for a stated reason."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rog_jax.data import Annotations, load_lvis
from rog_jax.data.images import UnreadableImage, read_annotated, read_image
from tests.reference.data import make_records, write_json

HEIGHT, WIDTH = 30, 40


def smooth_picture() -> np.ndarray:
    """An RGB picture whose corners differ, smooth enough for JPEG."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x * 6, y * 8, (x + y) * 3], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(
    ("name", "mode", "tolerance"),
    [("a.png", "RGB", 0), ("a.bmp", "RGB", 0), ("a.jpg", "RGB", 12), ("a.jpg", "CMYK", 14), ("a.webp", "RGB", 30)],
)
def test_colour_files(tmp_path, name, mode, tolerance):
    Image.fromarray(smooth_picture()).convert(mode).save(tmp_path / name)
    got = read_image(tmp_path / name, (HEIGHT, WIDTH))
    assert got.dtype == np.uint8
    assert np.abs(got.astype(int) - smooth_picture()).max() <= tolerance


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_grey_files_get_three_equal_channels(tmp_path, name):
    grey = smooth_picture()[..., 0]
    Image.fromarray(grey).save(tmp_path / name)
    got = read_image(tmp_path / name, (HEIGHT, WIDTH))
    assert np.abs(got.astype(int) - grey[..., None]).max() <= 2


def test_transparency_is_left_out_and_palettes_are_looked_up(tmp_path):
    alpha = np.full((HEIGHT, WIDTH, 1), 7, np.uint8)
    Image.fromarray(np.concatenate([smooth_picture(), alpha], axis=-1)).save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png", (HEIGHT, WIDTH)), smooth_picture())
    palette = Image.fromarray(smooth_picture()).quantize(16)
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png", (HEIGHT, WIDTH)), palette.convert("RGB"))


def test_sixteen_bits_keep_the_upper_eight(tmp_path):
    grey = smooth_picture()[..., 1].astype(np.uint16)
    Image.fromarray(grey * 257).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png", (HEIGHT, WIDTH))[..., 2], grey)


def save_turned(path: Path, picture: np.ndarray, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(path, exif=exif)


@pytest.mark.parametrize(
    ("orientation", "size", "turns"),
    [
        (6, (WIDTH, HEIGHT), 3),  # annotated as viewers show it
        (6, (HEIGHT, WIDTH), 0),  # annotated as stored
        (3, (HEIGHT, WIDTH), 2),  # both sizes fit: as viewers show it
    ],
)
def test_exif_turn_follows_the_annotated_size(tmp_path, orientation, size, turns):
    save_turned(tmp_path / "a.png", smooth_picture(), orientation)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", size), np.rot90(smooth_picture(), turns))


def test_square_picture_with_exif_is_turned(tmp_path):
    square = smooth_picture()[:, :HEIGHT]
    save_turned(tmp_path / "a.png", square, 8)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", (HEIGHT, HEIGHT)), np.rot90(square))


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated_files_are_unreadable(tmp_path, name, share):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UnreadableImage, match="cut short"):
        read_image(tmp_path / name, (HEIGHT, WIDTH))


def test_jpeg_with_bytes_after_its_end_is_readable(tmp_path):
    Image.fromarray(smooth_picture()).save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data + b"appended")
    assert read_image(tmp_path / "a.jpg", (HEIGHT, WIDTH)).shape == (HEIGHT, WIDTH, 3)


def test_other_unreadable_files(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no picture")
    Image.fromarray(smooth_picture()).save(tmp_path / "other.png")
    for name, words in (
        ("missing.jpg", os.strerror(2)),
        ("empty.jpg", "is empty"),
        ("text.jpg", "no picture"),
        ("other.png", "it has 30 x 40 pixels .* its annotations say 31 x 40"),
    ):
        with pytest.raises(UnreadableImage, match=words):
            read_image(tmp_path / name, (HEIGHT + 1, WIDTH))


def annotated(folder: Path, name: str, size: tuple[int, int]) -> Annotations:
    """Annotations of a single picture."""
    records = make_records(1)
    records["images"][0] |= {"file_name": name, "height": size[0], "width": size[1]}
    return load_lvis(write_json(folder, records), folder)


@pytest.mark.parametrize(
    ("size", "at_least", "expected"),
    [
        ((240, 320), (121, 160), (240, 320)),
        ((240, 320), (120, 160), (120, 160)),
        ((241, 321), (120, 160), (121, 161)),
        ((240, 320), (60, 80), (60, 80)),
        ((240, 320), (1, 1), (30, 40)),
        ((240, 320), None, (240, 320)),
    ],
)
def test_jpegs_are_decoded_as_small_as_suffices(tmp_path, size, at_least, expected):
    y, x = np.mgrid[: size[0], : size[1]]
    picture = np.stack([x * 0.7, y, (x + y) * 0.4], axis=-1).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.jpg", quality=95)
    got = read_annotated(annotated(tmp_path, "a.jpg", size), 0, at_least)
    assert got.shape == (*expected, 3)
    block = round(size[0] / expected[0])
    averages = picture[: expected[0] // 2 * block, : expected[1] // 2 * block].reshape(
        expected[0] // 2, block, expected[1] // 2, block, 3
    )
    difference = got[: expected[0] // 2, : expected[1] // 2] - averages.mean(axis=(1, 3))
    assert np.abs(difference).max() < 6


def test_reduced_decoding_keeps_turns_and_errors(tmp_path):
    picture = np.kron(smooth_picture(), np.ones((4, 4, 1), np.uint8))
    save_turned(tmp_path / "a.jpg", picture, 6)
    for size, turns in (((160, 120), 3), ((120, 160), 0)):
        got = read_annotated(annotated(tmp_path, "a.jpg", size), 0, (10, 10))
        expected = np.rot90(picture, turns)[4::8, 4::8]
        assert got.shape == expected.shape
        assert np.abs(got.astype(int) - expected).mean() < 20
    with pytest.raises(UnreadableImage, match=r"it has .* its annotations say 121 x 160"):
        read_annotated(annotated(tmp_path, "a.jpg", (121, 160)), 0, (10, 10))
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(UnreadableImage, match="cut short"):
        read_annotated(annotated(tmp_path, "a.jpg", (120, 160)), 0, (10, 10))
    Image.fromarray(picture).save(tmp_path / "a.png")
    assert read_annotated(annotated(tmp_path, "a.png", (120, 160)), 0, (10, 10)).shape == (120, 160, 3)
