"""Reruns the paper's tables and figures on small sets: makes what is missing, and goes on where it was stopped.

    python -m rog_jax.tools.reproduce headline
    python -m rog_jax.tools.reproduce all --minutes 90 &
    python -m rog_jax.tools.reproduce all --status
    python -m rog_jax.tools.reproduce table1 --quick

Each target becomes OUT/TARGET.md with its plots; each run a small json in OUT/runs, from which these are made. Sets,
backbones and the runs at work are in WORK. docs/results.md says what came of it.
"""

import argparse
import logging
import sys
from pathlib import Path

from rog_jax.tools.reproduce.cost import write_cost
from rog_jax.tools.reproduce.places import ROOT, Places
from rog_jax.tools.reproduce.plots import draw_target
from rog_jax.tools.reproduce.records import RecordError
from rog_jax.tools.reproduce.runner import make_runs
from rog_jax.tools.reproduce.status import status
from rog_jax.tools.reproduce.tables import page, read_rows
from rog_jax.tools.reproduce.targets import TARGETS, Target
from rog_jax.training import runtime

logger = logging.getLogger(__name__)

_DATA = ROOT.parent / "shared" / "data"


def _parser() -> argparse.ArgumentParser:
    description, _, examples = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m rog_jax.tools.reproduce",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "target",
        choices=[*TARGETS, "cost", "all"],
        help="cost: of GAP in a step; all: every other target, one after the other, by their worth",
    )
    parser.add_argument("--seeds", type=int, help="seeds of every run [as many as each row wants: 1 or 3]")
    parser.add_argument("--quick", action="store_true", help="a tiny version of all, which shows that it works")
    parser.add_argument("--status", action="store_true", help="say what is finished and what remains; make nothing")
    parser.add_argument("--pages", action="store_true", help="write tables and plots of what is finished; run nothing")
    parser.add_argument("--minutes", type=float, help="begin no run after so many minutes")
    parser.add_argument("--keep", action="store_true", help="keep folders of finished runs, with their checkpoints")
    parser.add_argument(
        "--out", type=Path, help="folder of records and pages [docs/results; WORK/quick/results if --quick]"
    )
    parser.add_argument(
        "--work", type=Path, help="folder of sets and runs [runs/reproduce]; those of --quick are in its quick/"
    )
    parser.add_argument("--sprites", type=Path, default=_DATA / "sprites", help="folder of styles (docs/data.md)")
    parser.add_argument("--backgrounds", type=Path, default=_DATA / "backgrounds", help="photographs behind sprites")
    parser.add_argument("--ccp", type=Path, default=_DATA / "ccp", help="photographs in LVIS format")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line; what goes wrong ends in one line that says what to do."""
    parser = _parser()
    flags = parser.parse_args(arguments)
    if flags.target == "cost" and (flags.status or flags.pages):
        parser.error("cost is one measurement, without --status and --pages")
    runtime.start()
    work = (flags.work or ROOT / "runs" / "reproduce").absolute() / ("quick" if flags.quick else "")
    out = (flags.out or (work / "results" if flags.quick else ROOT / "docs" / "results")).absolute()
    folders = [path.absolute() for path in (flags.sprites, flags.backgrounds, flags.ccp)]
    places = Places(work, out, *folders, quick=flags.quick, keep=flags.keep)
    targets = [target for name, target in TARGETS.items() if flags.target in (name, "all")]
    seeds = flags.seeds or (1 if flags.quick else None)
    try:
        if flags.target == "cost":
            print(write_cost(places))
            return
        if flags.status:
            print(status(targets, places, seeds))
            return
        if not flags.pages:
            wanted = [one for target in targets for one in target.wanted(seeds)]
            if not make_runs(wanted, places, flags.minutes, lambda: _write_all_pages(places)):
                print("The time is up; the same command goes on with what is left:")
                print(status(targets, places, seeds))
        for path in write_pages(targets, places):
            print(path)
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"reproduce: {error}")
    except KeyboardInterrupt:
        sys.exit("reproduce: stopped; the same command goes on from here")


def _write_all_pages(places: Places) -> None:
    """Runs are shared by targets; a page that cannot be made is no reason to end the queue."""
    for target in TARGETS.values():
        try:
            write_pages([target], places)
        except RecordError as error:
            logger.warning("no page of %s: %s", target.name, error)


def write_pages(targets: list[Target], places: Places) -> list[Path]:
    """Writes the page and the plots of every target that has two finished rows to compare; returns the pages.

    Raises:
        RecordError: a record is there that is another run's.
    """
    written = []
    for target in targets:
        rows = read_rows(target, places)
        if sum(bool(shown.records) for shown in rows.values()) < 2:
            continue
        plots = draw_target(target, rows, places.out)
        path = places.out / f"{target.name}.md"
        path.write_text(
            page(target, rows, [plot.relative_to(places.out).as_posix() for plot in plots]), encoding="utf-8"
        )
        written.append(path)
    return written


if __name__ == "__main__":
    main()
