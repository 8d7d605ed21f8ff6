"""Set-up that every test shares: eight simulated devices, a compilation cache, shape checking, and the shared data."""

import gc
import logging
import os
from pathlib import Path

ROOT = Path(__file__).parents[1]
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Level 0 halves the time that compilation takes, which is most of the time that the tests take.
FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

import hypothesis  # noqa: E402
import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

# Where CI is set, hypothesis draws the same examples in every run. Everywhere else too: what passes here passes there.
hypothesis.settings.register_profile("same_everywhere", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same_everywhere")

jaxtyping.install_import_hook("rog_jax", "beartype.beartype")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden files and data beside the repository; a test that needs it is skipped where it is absent."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the folder {folder.name!r} beside the repository")
    return folder


@pytest.fixture(autouse=True)
def _puts_logging_back():
    """Programs that a test calls set up logging for their process, to a stream that is closed after the test."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="module", autouse=True)
def _lets_go_of_compiled_programs():
    """Each compiled program maps memory a few times; what passes `vm.max_map_count` (65,530) dies of it."""
    yield
    jax.clear_caches()
    gc.collect()
