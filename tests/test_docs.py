"""Every command of README and docs is one that the program named takes."""

import json
import os
import re
import subprocess
import sys
import tomllib

import pytest

from tests.pages import PAGES, ROOT, every_command, label, quoted

OWN = {
    "configs/mine.py": "configs/quickstart.py",
    "configs/focal.py": "configs/quickstart.py",
    "configs/clothes.py": "configs/ccp_r18.py",
}
"""Recipes that a reader writes, and what stands for them."""
COMMANDS = {
    tuple(re.sub(r"configs/\w+\.py", lambda own: OWN.get(own[0], own[0]), word) for word in words): page
    for words, page in every_command().items()
    if words[0] != "exported/run.py"  # made by another command, and run by tests/test_docs_run.py
}

WRONG = {
    ("train.py", "--config=configs/gone.py", "--workdir=x"): "configs/gone.py",
    ("train.py", "--config=configs/quickstart.py", "--workdir=x", "--config.optim.lrr=1"): "'lrr'",
    ("-m", "rog_jax.tools.plot_log", "run", "--out=x.png", "--outt=x"): "unrecognized: ['--outt=x']",
    ("-m", "rog_jax.tools.export", "--platforms"): "SystemExit: 2",
}


@pytest.fixture(scope="module")
def complaints() -> dict[tuple[str, ...], str | None]:
    """What each program says of its flags, of one process that reads them all."""
    every = (*COMMANDS, *WRONG)
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "tests/documented.py"],
        input=json.dumps(every),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(every, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: label(words, COMMANDS[words]))
def test_a_documented_command_is_taken(words, complaints):
    if "No module named 'torch'" in (complaints[words] or ""):
        pytest.skip("needs torch")
    assert complaints[words] is None


def test_the_pages_are_read():
    assert len(COMMANDS) > 60
    assert {words[0] for words in COMMANDS} == {"-m", "train.py", "eval.py"}


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_a_wrong_flag_would_be_seen(words, complaints):
    assert WRONG[words] in complaints[words]


def test_make_and_pip_know_what_the_pages_ask_of_them():
    text = "\n".join(line for page in PAGES for line in quoted(page.read_text()))
    targets = re.findall(r"^(?:\.venv/bin/)?make (?:PYTHON=\S+ )?([a-z-]+)", text, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert len(targets) > 3
    assert [name for name in targets if f"\n{name}:" not in makefile] == []
    extras = re.findall(r"pip install -e '\.\[([\w-]+)\]'", text)
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert len(extras) > 3
    assert set(extras) <= known.keys()
