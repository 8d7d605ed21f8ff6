"""What importing the product does not do."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAM = """
import rog_jax.training.loop, rog_jax.evaluation.run, rog_jax.tools.make_dataset, sys
print([name for name in ("tensorflow", "torch", "lvis") if name in sys.modules])
print([line for line in open("/proc/self/maps") if "libGL" in line or "libQt" in line])
"""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc/self/maps")
def test_neither_libgl_nor_tensorflow_nor_torch_is_loaded():
    """Training machines have no display libraries, and TensorFlow would take the accelerator's memory."""
    out = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out.split("\n")[:2] == ["[]", "[]"]
