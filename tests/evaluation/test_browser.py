"""A report in a real browser: it is there within two seconds and shows every picture. Skipped without Chromium."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from rog_jax.evaluation.pictures import picture_name
from rog_jax.evaluation.report import write_report
from tests.evaluation.test_report import run_of

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# What the browser saw, as the page's title: milliseconds to the end of loading, pictures, and how many are whole.
PROBE = """<script>addEventListener("load", () => setTimeout(() => {
  const times = performance.timing, pictures = [...document.images];
  document.title = JSON.stringify({milliseconds: times.loadEventEnd - times.navigationStart, pictures: pictures.length,
    whole: pictures.filter(picture => picture.complete && picture.naturalWidth > 100).length});
}));</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_it_opens_at_once_and_whole(tmp_path):
    (tmp_path / "run").mkdir()
    run = run_of(tmp_path / "run", 80)
    rng = np.random.default_rng(0)
    for image_id in range(6, 11):  # noise: no photograph is larger as a jpeg
        noise = Image.fromarray(rng.integers(0, 256, (600, 1200, 3), dtype=np.uint8))
        noise.save(run / "eval" / "pictures" / picture_name(image_id))
    text = write_report([run], tmp_path / "report.html").read_text()
    page = tmp_path / "probed.html"
    page.write_text(text.replace("</body>", PROBE))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    seen = json.loads(re.search(r"<title>(.*?)</title>", shown)[1])
    assert seen["pictures"] == seen["whole"] == text.count("<img ") > 6
    assert seen["milliseconds"] < 2000
