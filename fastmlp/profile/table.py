"""A profile for the terminal."""

from typing import Any

from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from .verdict import duration

HIDDEN = 0.002
"""Parts under this share of the step are one line together; the JSON has all of them."""


def title(profile: dict[str, Any]) -> str:
    """The network and how it is trained."""
    widths = "-".join(map(str, profile["widths"]))
    activation = ", ".join(dict.fromkeys(profile["activations"][:-1])) or profile["activations"][-1]
    return (
        f"{widths} {activation}, {profile['loss']}, {profile['optimizer']}, {profile['dtype']}, "
        f"batch {profile['batch_size']}"
    )


def setting(profile: dict[str, Any]) -> str:
    """Backend, threads and how much was recorded."""
    threads = f"{profile['threads']} thread(s)" if profile["backend"] == "cpu" else "threads as NumPy's BLAS decides"
    return (
        f"backend {profile['backend']}, {threads}; {profile['steps_recorded']:,} of {profile['steps']:,} steps recorded"
    )


def figures(profile: dict[str, Any]) -> list[tuple[str, str]]:
    """(name, value) of the whole step, for every report."""
    step, energy = profile["step"], profile["energy"]
    spread, overhead = step["spread"], step["overhead"]
    found = [
        (
            "step",
            duration(step["seconds"]) + ("" if spread is None else f" ±{spread['iqr'] / spread['median'] / 2:.0%}"),
        ),
        ("samples/s", f"{profile['samples_per_s']:,.0f}"),
        ("GFLOP/s", f"{profile['gflops']:,.4g}"),
        ("of the peak", percent(profile["percent_of_peak"])),
        ("core time/sample", f"{profile['core_us_per_sample']:.3g} µs"),
        ("parts over step", f"{step['phases_over_step']:.1%}"),
    ]
    if overhead is not None:
        found.append(("cost of profiling", f"{overhead['median']:+.1%}"))
    if energy is None:
        return [*found, ("energy", "not counted")]
    if energy["uj_per_sample"] is None:
        return [*found, ("energy", energy["source"])]
    return [
        *found,
        (f"energy/sample, {energy['source']}", f"{energy['uj_per_sample']:.3g} µJ"),
        ("GFLOP/J", f"{energy['gflop_per_joule']:.3g}"),
    ]


def percent(value: float | None) -> str:
    """A share, or nothing where there is none."""
    return "" if value is None else f"{value:.0f} %"


def cells(row: dict[str, Any], total: float) -> tuple[str, ...]:
    """One part's figures as text, in the order of COLUMNS."""
    return (
        row["name"],
        duration(row["seconds"]),
        f"{row['seconds'] / total:.1%}",
        "" if not row["flops"] else f"{row['flops'] * 1e-6:,.3f}",
        "" if row["bytes"] is None else f"{row['bytes'] / 1024:,.1f}",
        "" if row["intensity"] is None else f"{row['intensity']:.3g}",
        "" if row["gflops"] is None else f"{row['gflops']:,.3g}",
        percent(row["percent_of_compute"]),
        percent(row["percent_of_bandwidth"]) + (f" {row['memory']}" if row["memory"] else ""),
        _bound(row),
        percent(None if row["balance"] is None else 100 * row["balance"]),
        duration(row["core_seconds"]),
    )


COLUMNS = (
    "part", "time", "share", "MFLOP", "KiB", "FLOP/B", "GFLOP/s", "compute", "bandwidth", "bound by", "balance",
    "core time",
)  # fmt: skip
"""What `cells` gives: bytes are the least that must move, compute and bandwidth shares of those roofs, balance is the
mean thread's time over the busiest one's."""

WORDS = ("part", "bound by")
NARROW, NARROWER = 145, 115
"""Widths of a terminal below which the columns of UNDER_NARROW are left out, and also those of UNDER_NARROWER."""

UNDER_NARROW, UNDER_NARROWER = ("KiB", "core time"), ("MFLOP", "FLOP/B", "balance")


def _bound(row: dict[str, Any]) -> str:
    if row["error"]:
        return "refused"
    return "too short" if row["too_short"] else row["bound_by"] or ""


def shown(profile: dict[str, Any]) -> tuple[list[dict[str, Any]], float]:
    """The parts that are listed one by one, and the seconds of all others."""
    total = profile["step"]["phases_seconds"]
    listed = [row for row in profile["phases"] if row["seconds"] >= HIDDEN * total]
    return listed, sum(row["seconds"] for row in profile["phases"]) - sum(row["seconds"] for row in listed)


def _network(profile: dict[str, Any], width: int) -> RenderableType:
    total = profile["step"]["phases_seconds"]
    left_out = (*(UNDER_NARROW if width < NARROW else ()), *(UNDER_NARROWER if width < NARROWER else ()))
    kept = [index for index, column in enumerate(COLUMNS) if column not in left_out]
    table = Table(title=title(profile), caption=setting(profile), title_justify="left", caption_justify="left")
    for index in kept:
        justify: JustifyMethod = "left" if COLUMNS[index] in WORDS else "right"
        table.add_column(COLUMNS[index], justify=justify, no_wrap=True)

    def add(*texts: str) -> None:
        row = texts + ("",) * (len(COLUMNS) - len(texts))
        table.add_row(*(row[index] for index in kept))

    listed, rest = shown(profile)
    for row in listed:
        add(*cells(row, total))
    if rest > 0:
        add("smaller parts", duration(rest), f"{rest / total:.1%}")
    waiting = profile["step"]["waiting_seconds"]
    if profile["threads"] > 1:
        add("waiting for other threads", duration(waiting), f"{waiting / total:.1%}")
    table.add_section()
    add("all parts", duration(total), "100.0%", f"{profile['flops'] * 1e-6:,.3f}")
    lines = [Text(f"{name}: {value}") for name, value in figures(profile) if value]
    facts = Text(", ").join(lines)
    said = [Text(f"• {sentence}") for sentence in profile["verdict"]]
    errors = [Text(f"error: {error}", style="red") for error in profile["errors"]]
    return Group(table, facts, Text(""), *said, *errors)


def table(document: dict[str, Any], width: int) -> RenderableType:
    """All of the document's networks, for a terminal so many columns wide."""
    parts: list[RenderableType] = []
    for profile in document["networks"]:
        parts += [_network(profile, width), Text("")]
    if not parts:
        parts.append(Text("no network of fastmlp was trained"))
    return Group(*parts)


def as_text(document: dict[str, Any], width: int = 130) -> str:
    """The same without colours."""
    console = Console(width=width, no_color=True, force_terminal=False)
    with console.capture() as capture:
        console.print(table(document, width))
    return capture.get()
