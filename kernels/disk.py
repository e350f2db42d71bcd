"""Where compiled kernels are kept between processes: one private folder a state of everything they depend on.

Entries are code, so a folder must belong to this user alone (mode 0700); they are replaced atomically.
"""

import contextlib
import os
import re
import shutil
import stat
import sys
import tempfile
import warnings
from pathlib import Path

STATES_KEPT = 16
"""Folders of other states, of releases before or other processors of a cluster, that are kept beside a new one."""


def cache_root() -> Path | None:
    """The folder for compiled kernels: FASTMLP_CACHE_DIR, else the platform's cache folder; None without a home."""
    chosen = os.environ.get("FASTMLP_CACHE_DIR")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return Path(base) / "fastmlp" / "cache" if base else None
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "fastmlp"
    try:
        return Path.home() / ".cache" / "fastmlp"
    except RuntimeError:
        return None


def state_folder(digest: str) -> Path | None:
    """The folder of this state, 20 hexadecimal digits, made and checked; None, with a warning, where there is none."""
    root = cache_root()
    if root is None:
        reason = "there is no home folder"
    else:
        try:
            folder = root / digest
            is_new = not folder.exists()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = folder.stat()
            private = os.name == "nt" or (status.st_uid == os.getuid() and not stat.S_IMODE(status.st_mode) & 0o022)
            if private and os.access(folder, os.W_OK):
                os.utime(folder)  # when it was used last
                if is_new:
                    _forget_old_states(root, folder)
                return folder
            reason = f"{folder} can be written by others" if not private else f"{folder} is read-only"
        except OSError as error:
            reason = str(error)
    warnings.warn(
        f"compiled kernels are not kept between processes ({reason}); set FASTMLP_CACHE_DIR to a private folder",
        RuntimeWarning,
        stacklevel=3,
    )
    return None


def replace(path: Path, *content: bytes) -> None:
    """Write a file whole or not at all. Raises OSError, for a full disk or a folder that vanished."""
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            for piece in content:
                file.write(piece)
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise


def _forget_old_states(root: Path, folder: Path) -> None:
    """Delete the folders of other states that have been unused for longest; a process that uses one compiles again."""
    with contextlib.suppress(OSError):  # another process does the same
        others = [each for each in root.iterdir() if re.fullmatch(r"[0-9a-f]{20}", each.name) and each != folder]
        others = sorted((each for each in others if each.is_dir()), key=lambda each: each.stat().st_mtime)
        for each in others[:-STATES_KEPT]:
            shutil.rmtree(each, ignore_errors=True)
