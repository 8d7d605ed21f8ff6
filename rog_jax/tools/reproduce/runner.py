"""Makes the runs that are missing, one after the other, and loses nothing that is finished."""

import json
import logging
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any

from rog_jax.evaluation.summary import write_json
from rog_jax.tools.reproduce.places import Places, alone_in
from rog_jax.tools.reproduce.programs import call, check_trained, flags_of, timed
from rog_jax.tools.reproduce.records import KINDS, Record, RecordError, collect, describe, read_record, write_record
from rog_jax.tools.reproduce.runs import CAPS, VERSION, Run
from rog_jax.tools.reproduce.sets import QUICK_SETTINGS, data_settings, start_settings

logger = logging.getLogger(__name__)

RECIPES = {"ccp": "configs/ccp_r18.py"}
DEFAULT_RECIPE = "configs/mini_lvis.py"


def make_runs(
    wanted: Iterable[tuple[Run, int]],
    places: Places,
    minutes: float | None = None,
    finished: Callable[[], Any] = lambda: None,
) -> bool:
    """Makes every run whose record is not there.

    Args:
        wanted: runs and seeds, in the order in which they are made.
        places: where to.
        minutes: no run is begun after so many.
        finished: called after each run.

    Returns:
        Whether all of them are finished.

    Raises:
        RecordError: a record is there that is another run's, or an interrupted run that began with other settings.
        ProgramError: training or evaluation failed.
        RuntimeError: another program works in the same folder, or its sets and backbones are of another version.
    """
    started = time.monotonic()
    wanted = list(wanted)
    for run, seed in wanted:  # a record that is another run's is told of before hours are spent
        read_record(places, run, seed)
    with alone_in(places.work), _Terminated():
        _check_version(places.work)
        for run, seed in wanted:
            if read_record(places, run, seed) is not None:
                continue
            if minutes is not None and time.monotonic() - started > 60 * minutes:
                return False
            logger.info("%s, seed %d", run.name, seed)
            record = make_run(run, seed, places)
            logger.info("%s: %s", record.path, _in_words(record))
            finished()
    return True


def make_run(run: Run, seed: int, places: Places) -> Record:
    """Trains (or goes on from the newest checkpoint), evaluates, and writes the record; the run's folder is removed.

    Raises:
        As `make_runs`.
    """
    workdir = places.work / "runs" / f"{run.name}.seed{seed}"
    log = workdir / "log.txt"
    _check_begun(workdir, describe(places, run))
    common = [f"--config={recipe_of(run)}", f"--workdir={workdir}", *flags_of(settings_of(run, seed, places))]
    with timed(workdir / "spent.json", "training"):
        call(["train.py", *common], log, run.devices)
    check_trained(workdir)
    with timed(workdir / "spent.json", "evaluation"):
        call(["eval.py", *common], log)
        if run.data != "openimages":
            call(["eval.py", *common, *_sweep_flags(run, workdir)], log)
    spent = json.loads((workdir / "spent.json").read_text())
    record = write_record(places, run, seed, {"spent": spent} | collect(workdir, run.replicates))
    if not places.keep:
        shutil.rmtree(workdir)
    return record


def _check_version(work: Path) -> None:
    """Sets, backbones and interrupted runs of another version's recipe must not become runs of this one."""
    path = work / "version.json"
    if not path.is_file():
        write_json(path, {"version": VERSION})
    elif (theirs := json.loads(path.read_text())["version"]) != VERSION:
        raise RuntimeError(
            f"the sets and backbones in {work} are of version {theirs} of the benchmark, and this is {VERSION}: give "
            "another --work, or remove that folder"
        )


def _check_begun(workdir: Path, description: dict[str, Any]) -> None:
    """An interrupted run goes on with the settings that it began with, or not at all."""
    path = workdir / "run.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, description)
    elif json.loads(path.read_text()) != description:
        raise RecordError(f"the run in {workdir} began with other settings: remove that folder, and it is made anew")


def _sweep_flags(run: Run, workdir: Path) -> list[str]:
    """Figures over K from the results that are there; over NorCal's gamma from one more pass."""
    flags = ["--sweep", f"--sweep_caps={','.join(map(str, CAPS))}"]
    if run.gammas:
        return [*flags, f"--sweep_gammas={','.join(f'{gamma:g}' for gamma in run.gammas)}"]
    files = [workdir / "eval" / f"results_{kind}.json" for kind in KINDS]
    return [*flags, f"--results={','.join(str(path) for path in files if path.is_file())}"]


def recipe_of(run: Run) -> str:
    """The config file of a run, with its variant."""
    return f"{RECIPES.get(run.data, DEFAULT_RECIPE)}:{'rfs' if run.rfs else 'random'}"


def settings_of(run: Run, seed: int, places: Places) -> dict[str, Any]:
    """All that is set beside the recipe; makes the set and the backbone that the run needs."""
    settings = data_settings(run.data, places) | start_settings(run.data, run.depth, places)
    settings |= {"model.depth": run.depth, "train.seed": seed} | run.settings
    return settings | (QUICK_SETTINGS if places.quick else {})


def _in_words(record: Record) -> str:
    kinds = record.content["figures"]
    figures = kinds.get("segm", kinds.get("bbox", {}))
    return ", ".join(f"{name} {100 * value:.1f}" for name, value in figures.items() if isinstance(value, float))


class _Terminated:
    """SIGTERM, and SIGHUP of a terminal that closes, end the program as Ctrl-C does: the training at work, which hears
    neither, is told and waited for. What is ignored stays so, as nohup wants it.
    """

    def __enter__(self) -> None:
        heard = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
        self._previous = {number: signal.signal(number, self._stop) for number in heard}

    def __exit__(self, *_: object) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)

    @staticmethod
    def _stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt
