"""Objects from folders or zips of RGBA pictures, and backgrounds from a folder of photographs.

A style is a zip of PNGs or a folder of PNGs (sub-folders are searched too). A picture's category is its file name
without `.png`, so the same name in two styles is the same category drawn by two hands. A `categories.json` beside the
styles, a list of {"codepoint": stem, "name": text}, gives readable names; without it the stems serve.
"""

import json
import zipfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from jaxtyping import UInt8


def styles_in(folder: str | Path) -> tuple[str, ...]:
    """Names of the styles in a folder, sorted: its zips without `.zip`, and its sub-folders with PNGs."""
    entries = sorted(_existing(folder, "sprites").iterdir())
    return tuple(e.stem if e.suffix == ".zip" else e.name for e in entries if _is_style(e))


def common_categories(folder: str | Path, styles: Sequence[str]) -> tuple[str, ...]:
    """The categories (file stems) that every one of `styles` has, sorted.

    Raises:
        FileNotFoundError: the folder or a style is not there.
        ValueError: the styles have no category in common.
    """
    shared = set.intersection(*(set(_pictures(_style_path(folder, style))) for style in styles))
    if not shared:
        raise ValueError(f"{folder}: the styles {', '.join(styles)} have no file name in common; choose others.")
    return tuple(sorted(shared))


class SpriteObjects:
    """Pastes pictures of one or more styles, each drawn with equal chance; see `scenes.ObjectSource`.

    Args:
        folder: holds the styles.
        styles: names of those to use.
        categories: file stems, in the order of the categories.
    """

    def __init__(self, folder: str | Path, styles: Sequence[str], categories: Sequence[str]):
        self._paths = [_style_path(folder, style) for style in styles]
        self._members = [_pictures(path) for path in self._paths]
        self._stems = tuple(categories)
        names = _names(Path(folder) / "categories.json")
        self.names = _distinct([names.get(stem, stem) for stem in self._stems], self._stems)
        self.definitions = tuple(f"a picture of: {name}" for name in self.names)

    def render(self, category: int, size: int, rotation: float, rng: np.random.Generator) -> UInt8[np.ndarray, "h w 4"]:
        """One object of `category`, its longer side `size` pixels before it is turned by `rotation` degrees; RGBA."""
        style = int(rng.integers(len(self._paths)))
        sprite = _load(self._paths[style], self._members[style][self._stems[category]])
        turned = _turn(sprite, size, rotation, np.exp(rng.uniform(-0.1, 0.1)))
        colour = turned[..., :3] * rng.uniform(0.85, 1.1, 3).astype(np.float32)
        # Colours are premultiplied until here, so that transparent pixels do not tint the edges.
        colour = colour * np.float32(255) / np.maximum(turned[..., 3:], 1)
        return np.dstack([np.minimum(colour, 255), turned[..., 3]]).astype(np.uint8)


def _turn(sprite: np.ndarray, size: int, rotation: float, aspect: float) -> np.ndarray:
    """Scales a premultiplied picture to `size` pixels and turns it about its centre."""
    height, width = sprite.shape[:2]
    scale = size / max(height, width)
    if scale < 1:  # shrinking by warping alone would alias
        smaller = (max(1, round(width * scale)), max(1, round(height * scale)))
        sprite = cv2.resize(sprite, smaller, interpolation=cv2.INTER_AREA)
        height, width, scale = smaller[1], smaller[0], 1.0
    angle = np.deg2rad(rotation)
    turn = scale * np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    turn = turn * (min(1.0, aspect), min(1.0, 1 / aspect))
    side = int(np.ceil(np.hypot(height, width) * scale)) + 2
    shift = (side - 1) / 2 - turn @ ((width - 1) / 2, (height - 1) / 2)
    return cv2.warpAffine(sprite, np.column_stack([turn, shift]), (side, side), flags=cv2.INTER_LINEAR)


@lru_cache(maxsize=4096)
def _load(style: Path, member: str) -> np.ndarray:
    """One picture, premultiplied: float32 [h, w, 4] in 0..255, without its transparent margin."""
    data = _read_zip(style).read(member) if style.suffix == ".zip" else (style / member).read_bytes()
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None or picture.ndim != 3 or picture.shape[2] != 4 or not (picture[..., 3] >= 128).any():
        raise ValueError(
            f"{style}: {member} is no PNG of 8-bit RGBA with something opaque in it; remove or convert it."
        )
    rows, columns = (picture[..., 3].any(axis=axis).nonzero()[0] for axis in (1, 0))
    picture = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32)
    alpha = picture[..., 3:]
    return np.dstack([picture[..., 2::-1] * (alpha / 255), alpha])


@lru_cache(maxsize=64)
def _read_zip(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


@lru_cache(maxsize=64)
def _pictures(style: Path) -> dict[str, str]:
    """File name of each category's picture inside a style."""
    if style.suffix == ".zip":
        members = [name for name in _read_zip(style).namelist() if name.lower().endswith(".png")]
    else:
        members = [str(path.relative_to(style)) for path in sorted(style.rglob("*.png"))]
    return {PurePosixPath(member).stem: member for member in members}


def _style_path(folder: str | Path, style: str) -> Path:
    for path in (Path(folder) / f"{style}.zip", Path(folder) / style):
        if path.exists() and _is_style(path):
            return path
    raise FileNotFoundError(
        f"{folder}: no style {style!r} (a zip or a folder of PNGs); there are {', '.join(styles_in(folder))}."
    )


def _is_style(path: Path) -> bool:
    return path.suffix == ".zip" or (path.is_dir() and next(path.rglob("*.png"), None) is not None)


def _existing(folder: str | Path, what: str) -> Path:
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"There is no folder {folder}; check the path of the {what}.")
    return Path(folder)


def _names(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        return {entry["codepoint"]: entry["name"] for entry in json.loads(path.read_text())}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f'{path}: not a list of {{"codepoint": stem, "name": text}}; correct or remove it.') from error


def _distinct(names: Sequence[str], stems: Sequence[str]) -> tuple[str, ...]:
    """Names as they are, with the stem added where two are alike."""
    return tuple(f"{n} ({s})" if names.count(n) > 1 else n for n, s in zip(names, stems, strict=True))


class PhotoBackgrounds:
    """Random crops of the JPEG and PNG files in a folder; see `scenes.BackgroundSource`."""

    def __init__(self, folder: str | Path):
        files = sorted(_existing(folder, "backgrounds").rglob("*"))
        self._files = [f for f in files if f.suffix.lower() in (".jpg", ".jpeg", ".png")]
        if not self._files:
            raise FileNotFoundError(f"{folder}: holds no .jpg, .jpeg or .png to crop backgrounds from.")

    def render(self, height: int, width: int, rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
        """A crop of `height` x `width`, of half to all of a photograph's fitting part, at times mirrored; RGB."""
        photo = _photo(self._files[int(rng.integers(len(self._files)))])
        share = min(photo.shape[0] / height, photo.shape[1] / width) * rng.uniform(0.5, 1.0)
        rows, columns = max(1, int(height * share)), max(1, int(width * share))
        top, left = rng.integers(photo.shape[0] - rows + 1), rng.integers(photo.shape[1] - columns + 1)
        crop = photo[top : top + rows, left : left + columns]
        crop = crop[:, ::-1] if rng.random() < 0.5 else crop
        method = cv2.INTER_AREA if rows > height else cv2.INTER_LINEAR
        return cv2.resize(np.ascontiguousarray(crop), (width, height), interpolation=method)


@lru_cache(maxsize=256)
def _photo(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError(f"{path}: cannot be read as a picture; remove it from the backgrounds.")
    return picture[..., ::-1]
