"""The commands that README and docs tell a reader to run."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAM = re.compile(
    r"(?:^|[\s/\"])python3? ((?:-m rog_jax\.tools\.\S+|train\.py|eval\.py|exported/run\.py)(?: [^`]*)?)"
)

TOOLS = "|".join(path.stem for path in (ROOT / "rog_jax" / "tools").glob("*.py"))
SHORT = re.compile(rf"(?:rog_jax\.tools\.)?((?:{TOOLS}) .+)")
"""A tool with its flags alone, as tables and sentences name it."""


def blocks(text: str) -> list[str]:
    """A page's blocks of code."""
    return re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def quoted(text: str) -> list[str]:
    """Lines of code of a page, in blocks and within sentences; what goes on after a backslash is one line."""
    lines = [line for block in blocks(text) for line in block.replace("\\\n", " ").splitlines()]
    sentences = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [*lines, *re.findall(r"`([^`]+)`", sentences)]


def commands(text: str) -> list[tuple[str, ...]]:
    """The programs that a page calls with their flags, as words after `python`; synopses and fragments are left out."""
    found = []
    for line in quoted(text):
        line = SHORT.sub(r"python -m rog_jax.tools.\1", line) if SHORT.fullmatch(line) else line
        match = PROGRAM.search(line)
        if match and " [" not in line and "..." not in line and "…" not in line.partition("#")[0]:
            whole = match[1] if match[1].count('"') % 2 == 0 else match[1].rstrip('"')  # quoted for another shell
            found.append(tuple(shlex.split(whole, comments=True)))
    return [words for words in found if len(words) > (2 if words[0] == "-m" else 1)]  # a name alone is no command


def every_command() -> dict[tuple[str, ...], str]:
    """Each command once, with the name of the first page that has it, in the order of the pages."""
    found: dict[tuple[str, ...], str] = {}
    for page in PAGES:
        for words in commands(page.read_text()):
            found.setdefault(tuple(word for word in words if word != "&"), page.name)
    return found


def label(words: tuple[str, ...], page: str) -> str:
    """What a test calls a command."""
    return f"{page}: {' '.join(words)}"[:110]
