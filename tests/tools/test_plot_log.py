import json

import numpy as np
import pytest
from PIL import Image

from rog_jax.tools.plot_log import plot_losses, read_log


def write(folder, lines):
    (folder / "train_log.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")


def test_later_lines_of_a_step_win_and_steps_rise(tmp_path):
    write(tmp_path, [{"step": 2, "loss": 3.0}, {"step": 4, "loss": 2.0}, {"step": 2, "loss": 2.5}])
    assert read_log(tmp_path) == [{"step": 2, "loss": 2.5}, {"step": 4, "loss": 2.0}]


def test_picture_has_curves(tmp_path):
    lines = [{"step": step, "loss": 4.0 / step, "cls": 2.0 / step} for step in range(1, 9)]
    plot_losses(lines, tmp_path / "a.png")
    plot_losses(lines[:1], tmp_path / "b.png")
    full, empty = (np.asarray(Image.open(tmp_path / name).convert("RGB"), int) for name in ("a.png", "b.png"))
    coloured = [(np.ptp(picture, axis=2) > 60).sum() for picture in (full, empty)]
    assert coloured[0] > 2 * coloured[1]


def test_missing_or_broken_log_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"train_log\.jsonl cannot be read"):
        read_log(tmp_path)
    (tmp_path / "train_log.jsonl").write_text("{")
    with pytest.raises(ValueError, match="no json"):
        read_log(tmp_path)
