"""The gallery holds its pictures itself, those asked for, with what a browser filters by."""

import base64
import json
import re
from html import unescape

import cv2
import numpy as np
import pytest

from configs import common
from rog_jax.data import Annotations, DataError, load_lvis
from rog_jax.data.transforms import ExampleSettings, make_example
from rog_jax.tools import browse
from tests.reference.data import data_config, make_records, paste_crop, unpack_mask, write_data_set


@pytest.fixture
def annotations(tmp_path) -> Annotations:
    records = make_records(12)
    for category in records["categories"]:
        category["frequency"] = {3: "r", 5: "c", 9: "f"}[category["id"]]
        category["name"] = {3: "<red> & round", 5: "green", 9: "blue"}[category["id"]]
    return load_lvis(*write_data_set(tmp_path, records))


def pictures(text: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    return [cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR) for data in found]


def test_gallery_is_one_file_with_samples_before_and_after(annotations, tmp_path):
    out = tmp_path / "out" / "gallery.html"
    count = browse.write_gallery(
        annotations, data_config(), out, count=5, augmented=2, width=200, sheet=tmp_path / "sheet.png"
    )
    text = out.read_text()
    assert count == 5
    assert len(re.findall("<section", text)) == 5
    assert len(pictures(text)) == 15
    assert all(picture.shape[1] == 200 for picture in pictures(text))
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert "&lt;red&gt; &amp; round" in text
    assert "<red>" not in text
    labels = [json.loads(unescape(found)) for found in re.findall(r'data-labels="([^"]*)"', text)]
    names = [re.search(r"image (\d+)", found)[1] for found in re.findall(r"<h2>(.*?)</h2>", text)]
    assert labels == [[(int(name) - 10) % 3] for name in names]
    groups = [json.loads(unescape(found)) for found in re.findall(r'data-groups="([^"]*)"', text)]
    assert groups == [["rcf"[label[0]]] for label in labels]
    assert cv2.imread(str(tmp_path / "sheet.png")).shape[1] == 3 * 204


def test_samples_are_chosen_by_category_and_group(annotations, tmp_path):
    for asked in ({"categories": ["green"]}, {"frequencies": ["c"]}):
        count = browse.write_gallery(annotations, data_config(), tmp_path / "g.html", count=50, augmented=0, **asked)
        assert count == 4
        assert set(re.findall(r'data-labels="([^"]*)"', (tmp_path / "g.html").read_text())) == {"[1]"}
    for asked, words in (({"categories": ["car"]}, "category 'car'"), ({"frequencies": ["x"]}, "group 'x'")):
        with pytest.raises(DataError, match=words):
            browse.write_gallery(annotations, data_config(), tmp_path / "g.html", **asked)
    with pytest.raises(DataError, match="no readable image"):
        browse.write_gallery(annotations, data_config(), tmp_path / "g.html", categories=["green"], frequencies=["r"])


def test_masks_are_drawn_where_the_example_has_them(annotations):
    settings = ExampleSettings.training(data_config(), True, 3)
    example = make_example(annotations, 0, (96, 96), settings, np.random.default_rng(0))
    pixels, objects = browse.shown_in(example)
    assert pixels.shape[:2] == tuple(example.image_size.astype(int))
    expected = paste_crop(unpack_mask(example.masks[0]), example.boxes[0], pixels.shape[:2])
    np.testing.assert_array_equal(objects.masks[0] > 0, expected)


def test_command_line(annotations, tmp_path, capsys):
    out = tmp_path / "g.html"
    where = ["--json", annotations.source, "--images", annotations.image_folder, "--out", str(out)]
    browse.main([*where, "--count", "2", "--augmented", "1", "--set", "data.short_sides=48,56"])
    assert "2 samples" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no category 'x'"):
        browse.main([*where, "--category", "x"])
    with pytest.raises(SystemExit, match=r"browse: --set data.nothing=1: there is no setting data.nothing"):
        browse.main([*where, "--set", "data.nothing=1"])
    with pytest.raises(SystemExit, match=r"--set data.flip=often: 'often' is no value for data.flip, which is 0.5"):
        browse.main([*where, "--set", "data.flip=often"])
    with pytest.raises(SystemExit, match=r"browse: .*nowhere"):
        browse.main([*where, "--out", "/proc/nowhere/g.html"])


def test_settings_keep_their_types():
    config = common.get_config()
    for assignment in (
        "data.crop=0.5",
        "data.copy_paste.even=true",
        "config.data.max_objects=7",
        "data.scale_jitter=0.1,2.0",
    ):
        browse._set(config, assignment)
    assert (config.data.crop, config.data.copy_paste.even, config.data.max_objects) == (0.5, True, 7)
    assert config.data.scale_jitter == (0.1, 2.0)
