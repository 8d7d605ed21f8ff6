"""Programs as far as their flags: `python tests/documented.py < COMMANDS.json`, to be run in the root of the tree.

Reads a list of commands, each a list of words from the program on, and writes for each what is wrong with it, or null.
"""

import argparse
import contextlib
import io
import json
import runpy
import sys
import traceback

from absl import app, flags

LAUNCHERS = {"train.py": "rog_jax.commands.train", "eval.py": "rog_jax.commands.evaluate"}


class Understood(BaseException):
    """The flags have been read: the program would begin now."""


def complaint(words: list[str]) -> str | None:
    """What a program says of its flags; None where it takes them.

    Args:
        words: `-m MODULE FLAG...` or `SCRIPT.py FLAG...`.
    """
    module, arguments = (words[1], words[2:]) if words[0] == "-m" else (LAUNCHERS[words[0]], words[1:])
    known, sys.argv = set(flags.FLAGS), [module, *arguments]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            runpy.run_module(module, run_name="__main__")
    except Understood:
        return None
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) and error.code == 0:
            return None  # --help
        return said.getvalue() + traceback.format_exc()
    finally:
        for name in set(flags.FLAGS) - known:
            delattr(flags.FLAGS, name)
    return f"{module} ended without reading its flags"


def understood_by_argparse(parser: argparse.ArgumentParser, arguments: list[str] | None = None, namespace=None):
    """Instead of `parse_args`, after which a program begins."""
    parser.exit_on_error = True
    _, rest = parser.parse_known_args(arguments, namespace)
    raise SystemExit(f"unrecognized: {rest}") if rest else Understood


def understood_by_absl(main, argv: list[str] | None = None, **_):
    """Instead of `app.run`, which calls `main`."""
    rest = flags.FLAGS(argv or sys.argv)
    if "config" in flags.FLAGS:
        flags.FLAGS.config.keys()  # a file that is not there is an error when it is looked at
    raise SystemExit(f"not understood: {rest[1:]}") if rest[1:] else Understood


if __name__ == "__main__":
    argparse.ArgumentParser.parse_args = understood_by_argparse
    app.run = understood_by_absl
    print(json.dumps([complaint(words) for words in json.load(sys.stdin)]))
