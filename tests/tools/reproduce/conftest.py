import json

import pytest

from rog_jax.tools.reproduce import runner
from rog_jax.tools.reproduce.places import Places
from rog_jax.tools.reproduce.programs import ProgramError
from tests.tools.reproduce.made_up import content


@pytest.fixture
def places(tmp_path) -> Places:
    nowhere = tmp_path / "nowhere"
    return Places(tmp_path / "work", tmp_path / "out", nowhere, nowhere, nowhere, quick=True)


@pytest.fixture
def programs(monkeypatch, places):
    """Stands in for train.py and eval.py: notes how they were called, and fails, or is stopped, where it is told to."""
    calls, fails = [], []

    def called(arguments, log, devices=1):
        calls.append((arguments, devices))
        if any(text in " ".join(arguments) for text in fails):
            raise ProgramError("failed")
        if arguments[0] == "train.py":
            log.parent.mkdir(parents=True, exist_ok=True)
            (log.parent / "config.json").write_text('{"steps": 4}')
            step = 2 if "stopped" in fails else 4
            (log.parent / "train_log.jsonl").write_text(json.dumps({"step": step, "loss": 1.0}))

    monkeypatch.setattr(runner, "call", called)
    monkeypatch.setattr(runner, "data_settings", lambda data, places: {"data.root": "DATA"})
    monkeypatch.setattr(runner, "start_settings", lambda data, depth, places: {"init_from": f"R{depth}"})
    monkeypatch.setattr(runner, "collect", lambda workdir, replicates: content())
    return calls, fails
