"""For mkdocs: the README is the site's first page."""

import re
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: dict) -> Files:
    """Adds the README as a page of the docs' folder: links start there, and those to other files become text."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"\[([^\]]*)\]\((?!https?:|docs/)[^)]*\)", r"\1", text).replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=text))
    return files
