"""The pages in docs/results are those of the records beside them."""

import pytest

from rog_jax.tools.reproduce.__main__ import write_pages
from rog_jax.tools.reproduce.places import ROOT
from rog_jax.tools.reproduce.targets import TARGETS

OUT = ROOT / "docs" / "results"


@pytest.mark.parametrize("name", TARGETS)
def test_a_page_is_that_of_its_records(name, places):
    places.out.mkdir(parents=True)
    (places.out / "runs").symlink_to(OUT / "runs")
    (page,) = write_pages([TARGETS[name]], places._replace(quick=False))
    ours = (OUT / page.name).read_text(encoding="utf-8")
    assert ours == page.read_text(encoding="utf-8"), f"python -m rog_jax.tools.reproduce {name} --pages writes it anew"
    for plot in places.out.glob("plots/**/*.png"):
        assert (OUT / plot.relative_to(places.out)).is_file()


def test_every_run_is_there_and_no_other():
    wanted = {f"{run.name}.seed{seed}" for target in TARGETS.values() for run, seed in target.wanted()}
    assert wanted == {path.stem for path in (OUT / "runs").iterdir()}
