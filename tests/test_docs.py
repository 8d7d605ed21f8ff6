"""Every command of README and docs is one that the program named takes."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from rog_jax.data.synthetic import SyntheticSettings, make_dataset

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
OWN = {
    "configs/mine.py": "configs/quickstart.py",
    "configs/focal.py": "configs/quickstart.py",
    "configs/clothes.py": "configs/ccp_r18.py",
}
"""Recipes that a reader writes, and what stands for them."""
PYTHON = re.compile(r"(?:^|[\s/\"])python3? ((?:-m rog_jax\.tools\.\S+|train\.py|eval\.py)(?: [^`]*)?)")


def quoted(text: str) -> list[str]:
    """Lines of code of a page, in blocks and within sentences; what goes on after a backslash is one line."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    sentences = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [*lines, *re.findall(r"`([^`]+)`", sentences)]


def commands(text: str) -> list[tuple[str, ...]]:
    """The programs that a page calls with their flags, as words after `python`; synopses and fragments are left out."""
    found = []
    for line in quoted(text):
        match = PYTHON.search(line)
        if match and " [" not in line and "..." not in line and "…" not in line.partition("#")[0]:
            whole = match[1] if match[1].count('"') % 2 == 0 else match[1].rstrip('"')  # quoted for another shell
            words = shlex.split(whole, comments=True)
            found.append(tuple(re.sub(r"configs/\w+\.py", lambda own: OWN.get(own[0], own[0]), word) for word in words))
    return [words for words in found if len(words) > (2 if words[0] == "-m" else 1)]  # a name alone is no command


COMMANDS = {words: page.name for page in PAGES for words in commands(page.read_text()) if words[-1] != "&"}


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


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: f"{COMMANDS[words]}: {' '.join(words)}"[:110])
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


@pytest.mark.slow
def test_the_walk_through_own_data_runs(tmp_path):
    """Every command of docs/own_data.md as it stands there, but for the number of steps, and its example in Python."""
    settings = SyntheticSettings(train_images=24, val_images=8, num_categories=6, height=64, width=96, val_instances=2)
    for split, path in make_dataset(tmp_path / "made", settings).items():
        path.rename(tmp_path / ("photos" if split == "images" else path.name))
    pictures = sorted((tmp_path / "photos").glob("*.jpg"))
    (tmp_path / "photos" / "new").mkdir()
    for path in (tmp_path / "photo.jpg", tmp_path / "photos" / "new" / "1.jpg"):
        path.write_bytes(pictures[0].read_bytes())
    for name in ("train.py", "eval.py"):
        (tmp_path / name).symlink_to(ROOT / name)

    text = (ROOT / "docs" / "own_data.md").read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("python ")]
    (example,) = [block for block in blocks if block.startswith("from rog_jax")]
    programs = [shlex.split(line)[1:] for line in lines]
    assert [words[0] if words[0] != "-m" else words[1].rpartition(".")[2] for words in programs] == [
        *("new_config", "browse", "train.py", "eval.py", "predict", "export", "exported/run.py")
    ]
    programs.insert(5, ["-c", example])
    for words in programs:
        few = ["--config.train.steps=3"] if words[0] == "train.py" else []
        run_alone([*words, *few], tmp_path)
    for made in ("rare.html", "runs/mine/eval/report.html", "predicted/predictions.json", "exported/about.json"):
        assert (tmp_path / made).is_file(), made


def run_alone(words: list[str], folder: Path) -> None:
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (words, done.stdout[-1500:], done.stderr[-3000:])
