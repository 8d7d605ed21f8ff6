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
from rog_jax.tools.reproduce.programs import ProgramError
from rog_jax.tools.reproduce.runner import make_runs
from rog_jax.tools.reproduce.status import status
from rog_jax.tools.reproduce.tables import page, read_rows
from rog_jax.tools.reproduce.targets import TARGETS, Target
from rog_jax.training import runtime

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
    parser.add_argument("--seeds", type=int, help="of every run [3 for the headline and the sprites, 1 for the others]")
    parser.add_argument("--quick", action="store_true", help="a tiny version of all, which shows that it works")
    parser.add_argument("--status", action="store_true", help="say what is finished and what remains; make nothing")
    parser.add_argument("--pages", action="store_true", help="write tables and plots of what is finished; run nothing")
    parser.add_argument("--minutes", type=float, help="begin no run after so many minutes")
    parser.add_argument("--keep", action="store_true", help="keep folders of finished runs, with their checkpoints")
    parser.add_argument("--out", type=Path, help="folder of records and pages [docs/results; WORK/results if --quick]")
    parser.add_argument("--work", type=Path, help="folder of sets and runs [runs/reproduce, runs/quick if --quick]")
    parser.add_argument("--sprites", type=Path, default=_DATA / "sprites", help="folder of styles (docs/data.md)")
    parser.add_argument("--backgrounds", type=Path, default=_DATA / "backgrounds", help="photographs behind sprites")
    parser.add_argument("--ccp", type=Path, default=_DATA / "ccp", help="photographs in LVIS format")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line; what goes wrong ends in one line that says what to do."""
    flags = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True)
    work = (flags.work or ROOT / "runs" / ("quick" if flags.quick else "reproduce")).absolute()
    out = (flags.out or (work / "results" if flags.quick else ROOT / "docs" / "results")).absolute()
    folders = [path.absolute() for path in (flags.sprites, flags.backgrounds, flags.ccp)]
    places = Places(work, out, *folders, quick=flags.quick, keep=flags.keep)
    targets = [target for name, target in TARGETS.items() if flags.target in (name, "all")]
    try:
        if flags.target == "cost":
            runtime.start()
            print(write_cost(places))
            return
        if flags.status:
            print(status(targets, out, flags.seeds))
            return
        if not flags.pages:
            wanted = [one for target in targets for one in target.wanted(flags.seeds or (1 if flags.quick else None))]
            make_runs(wanted, places, flags.minutes, lambda: write_pages(list(TARGETS.values()), out, flags.seeds))
        for path in write_pages(targets, out, flags.seeds):
            print(path)
    except (OSError, ValueError, ProgramError, RuntimeError) as error:
        sys.exit(f"reproduce: {error}")
    except KeyboardInterrupt:
        sys.exit("reproduce: stopped; the same command goes on from here")


def write_pages(targets: list[Target], out: Path, seeds: int | None = None) -> list[Path]:
    """Writes the page and the plots of every target that has two finished rows to compare; returns the pages."""
    written = []
    for target in targets:
        rows = read_rows(target, out, seeds)
        if sum(bool(shown.records) for shown in rows.values()) < 2:
            continue
        plots = draw_target(target, rows, out)
        path = out / f"{target.name}.md"
        path.write_text(page(target, rows, [plot.relative_to(out).as_posix() for plot in plots]), encoding="utf-8")
        written.append(path)
    return written


if __name__ == "__main__":
    main()
