"""A profile as a page of its own: no script, nothing from the network, light or dark as the reader's system is."""

from html import escape
from typing import Any

from .figures import colour, numbered, roofline, timeline
from .table import COLUMNS, WORDS, cells, figures, setting, shown, title
from .verdict import duration

STYLE = """
:root { color-scheme: light dark; --ground: #fbfaf8; --card: #fff; --ink: #1c1917; --soft: #6b645c; --line: #e4dfd8;
  --grid: #eeeae4; --roof: #44403c; --idle: #d6d1c9; --accent: #b45309; --bad: #b91c1c; }
@media (prefers-color-scheme: dark) { :root { --ground: #141312; --card: #1d1b1a; --ink: #ece8e3; --soft: #a39b91;
  --line: #35312d; --grid: #282523; --roof: #c9c2b8; --idle: #403c38; --accent: #f59e0b; --bad: #f87171; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 24px 16px 48px; }
h1 { font-size: 1rem; font-weight: 600; margin: 0; color: var(--accent); letter-spacing: .02em; }
h2 { font-size: clamp(1.35rem, 5vw, 2rem); line-height: 1.15; margin: 32px 0 4px; overflow-wrap: anywhere; }
h3 { font-size: .95rem; margin: 0 0 8px; }
p { margin: 0 0 8px; }
.soft { color: var(--soft); font-size: .875rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 16px; margin: 16px 0; }
.tiles { display: flex; flex-wrap: wrap; gap: 1px; overflow: hidden; padding: 0; background: var(--line); }
.tile { background: var(--card); padding: 12px 16px; flex: 1 1 max(132px, 18%); }
.tile b { display: block; font-size: 1.2rem; line-height: 1.3; font-weight: 600; font-variant-numeric: tabular-nums; }
ul { margin: 0; padding-left: 1.1em; } li { margin: 4px 0; }
.bad { color: var(--bad); }
.pair { display: grid; gap: 16px; grid-template-columns: 1fr; } .pair .card { margin: 0; min-width: 0; }
@media (min-width: 880px) { .pair { grid-template-columns: 1fr 1fr; } }
svg { display: block; width: 100%; height: auto; font: 11px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
svg text { fill: var(--ink); } svg .tick { fill: var(--soft); } svg .name { fill: var(--soft); font-size: 10px; }
svg .number { font-weight: 700; font-size: 10px; fill: #fff; paint-order: stroke; stroke: #0008;
  stroke-width: 2px; }
svg .grid { stroke: var(--grid); } svg .roof { stroke: var(--roof); stroke-width: 1.4; }
svg .axis { stroke: var(--soft); }
svg .lane { fill: var(--grid); } svg .point { stroke: var(--card); fill-opacity: .85; }
.stack { display: flex; height: 14px; border-radius: 4px; overflow: hidden; } .stack i { display: block; }
.card h3:not(:first-child) { margin-top: 24px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 14px; margin-top: 10px; font-size: .8rem; color: var(--soft); }
.chip { display: inline-block; width: .75em; height: .75em; border-radius: 2px; margin-right: 6px; }
.wide { overflow-x: auto; -webkit-overflow-scrolling: touch; margin: 0 -16px; padding: 0 16px; }
table { border-collapse: collapse; width: 100%; font-size: .82rem; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 8px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; } tfoot td { font-weight: 600; border-bottom: 0; }
.word { text-align: left; }
th:first-child, td:first-child { position: sticky; left: -16px; background: var(--card); padding-left: 16px; }
@media (max-width: 600px) { td:first-child { white-space: normal; min-width: 9.5em; line-height: 1.25; } }
.bar { position: relative; } .bar i { position: absolute; left: 0; bottom: 0; height: 2px; background: var(--accent); }
"""

BINDING_COLOURS = {"compute": "#0fa36b", "bandwidth": "#3b82f6", "roof": "#d97706"}
"""By the last word of what binds; waiting is idle."""

LEAST_BAR = 0.02
"""The share of the longest part from which on a part has a bar."""

NOTES = (
    "Time is a thread's working time, on average over the threads; with the waiting it adds up to the step. "
    "MFLOP and KiB are the step's arithmetic and the least bytes that it must move, by fastmlp's contract. "
    "Compute is the share of the multiply-adds that this machine makes in registers, bandwidth the share of what the "
    "nearest memory that can hold the part's operands delivers; both were measured here. "
    "Balance is the mean thread's time over the busiest one's."
)


def page(document: dict[str, Any]) -> str:
    """The whole document as HTML."""
    machine = document["machine"]
    where = f"{machine['cpu'] or machine['architecture']}, {machine['usable_cores']} core(s)"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(_heading(document))}</title><style>{STYLE}</style></head><body><main>",
        "<h1>fastmlp profile</h1>",
        f'<p class="soft">{escape(where)} · fastmlp {escape(document["fastmlp"])} · {escape(document["date"])}</p>',
    ]
    for profile in document["networks"]:
        parts += _network(profile)
    if not document["networks"]:
        parts.append("<h2>No network of fastmlp was trained</h2>")
    return "\n".join([*parts, f'<p class="soft">{NOTES}</p>', "</main></body></html>\n"])


def _heading(document: dict[str, Any]) -> str:
    widths = ["-".join(map(str, profile["widths"])) for profile in document["networks"]]
    return f"fastmlp profile: {', '.join(widths) or 'no network'}"


def _network(profile: dict[str, Any]) -> list[str]:
    tiles = "".join(
        f'<div class="tile"><span class="soft">{escape(name)}</span><b>{escape(value)}</b></div>'
        for name, value in figures(profile)
        if value
    )
    said = "".join(f"<li>{escape(sentence)}</li>" for sentence in profile["verdict"])
    said += "".join(f'<li class="bad">Refused: {escape(error)}.</li>' for error in profile["errors"])
    widths, _, how = title(profile).partition(" ")
    roofs, times = roofline(profile), timeline(profile)
    cards = f'<section class="card"><h3>Roofline</h3>{roofs}{_numbers(profile)}</section>' if roofs else ""
    lanes = f"<h3>One step, thread by thread</h3>{times}{_legend(profile)}" if times else ""
    cards += f'<section class="card">{lanes}<h3>What binds it</h3>{_binding(profile)}</section>'
    return [
        f"<h2>{escape(widths)}</h2>",
        f'<p class="soft">{escape(how)} · {escape(setting(profile))}</p>',
        f'<div class="card tiles">{tiles}</div>',
        f'<section class="card"><h3>In words</h3><ul>{said}</ul></section>',
        f'<div class="pair">{cards}</div>',
        f'<section class="card"><h3>Part by part</h3><div class="wide">{_table(profile)}</div></section>',
    ]


def _legend(profile: dict[str, Any]) -> str:
    """The phases by their colours, the longest first."""
    shares: dict[str, float] = {"waiting": profile["step"]["waiting_seconds"]}
    for row in profile["phases"]:
        shares[row["phase"]] = shares.get(row["phase"], 0.0) + row["seconds"]
    total = profile["step"]["phases_seconds"]
    chips = "".join(
        f'<span><span class="chip" style="background:{colour(phase)}"></span>{_phase(phase)} {share / total:.0%}</span>'
        for phase, share in sorted(shares.items(), key=lambda item: -item[1])
        if share >= 0.005 * total
    )
    return f'<div class="legend">{chips}</div>'


def _numbers(profile: dict[str, Any]) -> str:
    """What the numbers of the roofline plot stand for."""
    names = "".join(
        f'<span><span class="chip" style="background:{colour(row["phase"])}"></span>{rank} {escape(row["name"])}</span>'
        for rank, row in enumerate(numbered(profile), 1)
    )
    return f'<div class="legend">{names}</div>'


def _binding(profile: dict[str, Any]) -> str:
    """Shares of the step by what binds them, as one bar and its legend."""
    shares = [(name, share) for name, share in profile["binding"].items() if share >= 0.005]
    kinds = [(name, share, BINDING_COLOURS.get(name.split(" ")[-1], "var(--idle)")) for name, share in shares]
    bar = "".join(f'<i style="width:{100 * share:.1f}%;background:{shade}"></i>' for _, share, shade in kinds)
    chips = "".join(
        f'<span><span class="chip" style="background:{shade}"></span>{escape(name)} {share:.0%}</span>'
        for name, share, shade in kinds
    )
    return f'<div class="stack">{bar}</div><div class="legend">{chips}</div>'


def _phase(phase: str) -> str:
    return "optimiser" if phase == "optimizer" else phase


def _table(profile: dict[str, Any]) -> str:
    total = profile["step"]["phases_seconds"]
    kinds = ["word" if column in WORDS else "" for column in COLUMNS]
    head = "".join(f'<th class="{kind}">{escape(column)}</th>' for kind, column in zip(kinds, COLUMNS, strict=True))
    listed, rest = shown(profile)
    largest = max(row["seconds"] for row in listed) if listed else 1.0
    body = []
    for row in listed:
        texts = [escape(text) for text in cells(row, total)]
        texts[0] = f'<span class="chip" style="background:{colour(row["phase"])}"></span>{texts[0]}'
        if row["seconds"] >= LEAST_BAR * largest:
            texts[2] += f'<i style="width:{100 * row["seconds"] / largest:.0f}%"></i>'
        columns = [f"{kind} bar".strip() if index == 2 else kind for index, kind in enumerate(kinds)]
        body.append(_row(texts, columns))
    empty = [""] * (len(COLUMNS) - 3)
    if rest > 0:
        body.append(_row(["smaller parts", duration(rest), f"{rest / total:.1%}", *empty], kinds))
    waiting = profile["step"]["waiting_seconds"]
    if profile["threads"] > 1:
        chip = '<span class="chip" style="background:var(--idle)"></span>'
        body.append(_row([f"{chip}waiting", duration(waiting), f"{waiting / total:.1%}", *empty], kinds))
    sums = ["all parts", duration(total), "100.0%", f"{profile['flops'] * 1e-6:,.3f}", *empty[1:]]
    foot = _row(sums, kinds)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody><tfoot>{foot}</tfoot></table>"


def _row(texts: list[str], kinds: list[str]) -> str:
    return (
        "<tr>" + "".join(f'<td class="{kind}">{text}</td>' for kind, text in zip(kinds, texts, strict=True)) + "</tr>"
    )
