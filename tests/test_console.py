"""The programs as they are called, and the wheel that pip makes."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rog_jax.console import with_installed_recipes

ROOT = Path(__file__).parents[1]


def run(*command, cwd=ROOT):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize(("program", "flag"), [("train.py", "--workdir"), ("eval.py", "--sweep_caps")])
def test_help_is_whole(program, flag):
    shown = run(sys.executable, program, "--help").stdout
    assert flag in shown
    assert f"python {program} --config" in shown
    assert "--config:" in shown


def test_wrong_flags_are_named():
    done = run(sys.executable, "train.py", "--workdirr=x")
    assert done.returncode != 0
    assert "Unknown command line flag 'workdirr'" in done.stderr


def test_recipes_that_pip_installed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recipe = str(ROOT / "configs" / "lvis_r50.py")
    given = [
        "--config",
        "configs/lvis_r50.py:2x,random",
        "--config=configs/lvis_r50.py",
        "--workdir",
        "configs/gone.py",
        "--config=elsewhere/configs/lvis_r50.py",
        f"--config={tmp_path}/configs/lvis_r50.py",
    ]
    found = ["--config", f"{recipe}:2x,random", f"--config={recipe}", *given[3:]]
    assert with_installed_recipes(given) == found
    said = f"configs/lvis_r50.py is not in this folder: the installed {recipe} is taken\n"
    assert capsys.readouterr().err == 2 * said
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "lvis_r50.py").touch()
    assert with_installed_recipes(given) == given


def test_wheel_holds_all_that_it_needs(tmp_path):
    """Built from a copy of the tree, since setuptools would leave its folders in it."""
    tree = tmp_path / "tree"
    modules = [path.relative_to(ROOT) for folder in ("rog_jax", "configs") for path in (ROOT / folder).rglob("*.py")]
    for path in modules:
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes((ROOT / path).read_bytes())
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        (tree / name).write_bytes((ROOT / name).read_bytes())
    built = run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path, tree)
    if "No module named pip" in built.stderr:
        pytest.skip("this environment has no pip")
    assert built.returncode == 0, built.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
        assert set(map(str, modules)) <= names
        about = next(name for name in names if name.endswith("entry_points.txt"))
        text = wheel.read(about).decode()
    assert all(f"{name} = rog_jax.console:" in text for name in ("rog-train", "rog-eval", "rog-predict"))
