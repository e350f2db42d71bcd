"""One training step of a network taken apart: the time, work and roofs of every part. `net.profile(x, y)` makes it.

profile = net.profile(x, y, batch_size=128)
print(profile)                      # a table and a verdict in words
profile.save("profile.html")        # a page of its own; .json for the document, .trace.json for Perfetto
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..energy import WINDOW_S, Meter
from ..errors import ArgumentError, require_name
from ..kernels.arrays import as_integer, as_real
from . import document as documents
from .measuring import measure

if TYPE_CHECKING:
    from ..network import MLP

__all__ = ["Profile", "profile"]

SECONDS = 1.0
"""Seconds of timed steps, with and without stamps together."""


class Profile:
    """A profile's `document` (README.md of this folder) and the reports that are made from it."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document

    @property
    def phases(self) -> list[dict[str, Any]]:
        """The parts of a step of the first network, one dictionary each."""
        return list(self.document["networks"][0]["phases"])

    @property
    def verdict(self) -> list[str]:
        """What there is to say, network by network."""
        return [sentence for network in self.document["networks"] for sentence in network["verdict"]]

    @property
    def errors(self) -> list[str]:
        """Figures that were refused, for they lie beyond what the machine can do."""
        return [error for network in self.document["networks"] for error in network["errors"]]

    def save(self, path: str | os.PathLike[str], kind: str | None = None) -> None:
        """Write a report: ".html", a page of its own; ".trace.json", for Perfetto; ".json", the document.

        `kind` is one of these, None for the one that the path ends with. Raises ArgumentError for another ending, and
        where the file cannot be written.
        """
        path = Path(path)
        kind = kind or next((ending for ending in _WRITERS if path.name.endswith(ending)), None)
        if kind is None:
            raise ArgumentError(f"a profile is saved as {', '.join(_WRITERS)}; got {str(path)!r}")
        documents.write(path, _WRITERS[require_name("kind", kind, _WRITERS)](self))

    def trace(self) -> str:
        """The trace of events."""
        from .trace import trace

        return trace(self.document)

    def html(self) -> str:
        """The page."""
        from .page import page

        return page(self.document)

    def __str__(self) -> str:
        from .table import as_text

        return as_text(self.document)

    def __rich_console__(self, console: Any, options: Any) -> Any:
        from .table import table

        yield table(self.document, options.max_width)

    def _repr_html_(self) -> str:
        """In a notebook the page stands in a frame, so that its styles stay its own."""
        from html import escape

        source = escape(self.html(), quote=True)
        return f'<iframe srcdoc="{source}" style="width:100%;height:720px;border:0" title="fastmlp profile"></iframe>'


_WRITERS: dict[str, Callable[[Profile], str]] = {
    ".html": Profile.html,
    ".trace.json": Profile.trace,
    ".json": lambda profile: documents.as_json(profile.document),
}


def profile(
    net: "MLP",
    x: Any,
    y: Any,
    batch_size: int | None = 128,
    shuffle: bool = True,
    *,
    seconds: float = SECONDS,
    watts_per_core: float | None = None,
    energy_window_s: float = WINDOW_S,
    tell: Callable[[str], object] = lambda stage: None,
) -> Profile:
    """Profile the training of `net` on x[n, in] and its targets y, as `fit` would train it; net stays as it is.

    batch_size, shuffle: as of `fit`; rows that fill no batch are left out.
    seconds: how long steps are timed, with and without time stamps in turn, after compiling.
    watts_per_core, energy_window_s: as of `fastmlp.energy`; joules are only counted where there is a source.
    tell: called with the name of each stage when it begins.

    Raises ShapeError, DTypeError or ArgumentError for arguments that do not fit, and ArgumentError for a backend that
    cannot be profiled.
    """
    x, y = net._samples(x, y)
    rows = len(x) if batch_size is None else min(len(x), as_integer("batch_size", batch_size))
    whole = len(x) // rows * rows
    budget, window = as_real("seconds", seconds), as_real("energy_window_s", energy_window_s)
    meter = Meter(watts_per_core=watts_per_core)
    measured = measure(net, x[:whole], y[:whole], rows, shuffle and whole > rows, budget, meter, window, tell)
    tell("measuring the machine's ceilings")
    return Profile(documents.new_document([documents.network_profile(measured)]))
