import pytest

from rog_jax.tools.reproduce.places import Places


@pytest.fixture
def places(tmp_path) -> Places:
    nowhere = tmp_path / "nowhere"
    return Places(tmp_path / "work", tmp_path / "out", nowhere, nowhere, nowhere, quick=True)
