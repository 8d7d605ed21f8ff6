"""Faults of a disk that truly happen: file systems that are full or read-only, permissions lost, files limited."""

import contextlib
import errno
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

NOBODY = 65534


@contextlib.contextmanager
def small_disk(size: str) -> Iterator[Path]:
    """A file system of its own, such as of "1m"; skips the test where this user may not mount one."""
    folder = Path(tempfile.mkdtemp())
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    try:
        if mounted.returncode:
            pytest.skip("may not mount a file system")
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], capture_output=True)
        folder.rmdir()


@contextlib.contextmanager
def full(disk: Path, left: int = 0) -> Iterator[None]:
    """No more than so many bytes fit on the disk."""
    ballast = disk / "ballast"
    try:
        ballast.write_bytes(bytes(shutil.disk_usage(disk).free - left))
    except OSError as error:  # others write meanwhile: it is full all the same
        if error.errno != errno.ENOSPC:
            raise
    try:
        yield
    finally:
        ballast.unlink()


@contextlib.contextmanager
def read_only(disk: Path) -> Iterator[None]:
    """The disk can be read and not be written to."""
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)


@contextlib.contextmanager
def files_limited(num_bytes: int) -> Iterator[None]:
    """No file of this process may become larger; pytest keeps what a test prints in a file too."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


@contextlib.contextmanager
def forbidden(folder: Path) -> Iterator[None]:
    """This user may read the folder and not write to it; root, who may everything, is nobody meanwhile."""
    mode, user = folder.stat().st_mode, os.geteuid()
    folder.chmod(0o555)
    try:
        if user == 0:
            os.seteuid(NOBODY)
        yield
    finally:
        if user == 0:
            os.seteuid(user)
        folder.chmod(mode)


@contextlib.contextmanager
def file_in_place_of(folder: Path) -> Iterator[None]:
    """The folder has been moved away, and a file has its name."""
    aside = folder.with_name(f"{folder.name}.aside")
    folder.rename(aside)
    folder.touch()
    try:
        yield
    finally:
        folder.unlink()
        aside.rename(folder)


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
