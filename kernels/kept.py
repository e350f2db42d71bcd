"""What has been measured on this machine and is kept as a small file of JSON: read whole, written whole."""

import contextlib
import json
from pathlib import Path
from typing import Any

from .disk import replace


def read(file: Path | None, schema: int) -> dict[str, Any]:
    """What `write` left there; nothing where there is no such file, it is damaged or of another schema."""
    if file is None:
        return {}
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and content.get("schema") == schema else {}


def write(file: Path | None, schema: int, content: dict[str, Any]) -> None:
    """Put `content` in the file's place at once; a full or vanished disk only means that it is measured again."""
    if file is None:
        return
    with contextlib.suppress(OSError):
        replace(file, json.dumps({"schema": schema, **content}, indent=1, sort_keys=True).encode())
