from pathlib import Path

import cv2
import numpy as np
import pytest

from rog_jax.data.annotations import Annotations
from rog_jax.data.lvis import load_lvis


@pytest.fixture(scope="session")
def case() -> Path:
    """A folder with a ground truth of two images and results whose figures can be worked out by hand."""
    return Path(__file__).parents[1] / "data" / "evaluation"


@pytest.fixture(scope="session")
def annotations(case, tmp_path_factory) -> Annotations:
    """The same ground truth, with images."""
    folder = tmp_path_factory.mktemp("images")
    for name, grey in (("11.jpg", 90), ("12.jpg", 160)):
        cv2.imwrite(str(folder / name), np.full((100, 100, 3), grey, np.uint8))
    return load_lvis(case / "truth.json", folder)
