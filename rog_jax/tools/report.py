"""Writes a report of evaluated runs: `python -m rog_jax.tools.report RUN` or `--compare RUN_A RUN_B`.

`eval.py` writes the report of a run by itself; this makes it again, or puts several runs side by side.

Example:
    python -m rog_jax.tools.report --compare runs/baseline runs/gap --out gap.html
"""

import argparse
import sys
from pathlib import Path

from rog_jax.evaluation.report import write_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", help="folder of a run that eval.py has evaluated")
    parser.add_argument("--compare", nargs="+", metavar="RUN", help="runs to put side by side")
    parser.add_argument("--out", help="html file; RUN/eval/report.html, or compare.html, if not given")
    arguments = parser.parse_args()
    runs = [*([arguments.run] if arguments.run else []), *(arguments.compare or [])]
    if not runs:
        parser.error("name a run, or two after --compare")
    default = Path(runs[0]) / "eval" / "report.html" if len(runs) == 1 else Path("compare.html")
    try:
        print(write_report(runs, arguments.out or default))
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"report: {error}")


if __name__ == "__main__":
    main()
