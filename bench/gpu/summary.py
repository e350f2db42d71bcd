"""The document of a run in a few lines of text, and the table of its times as Markdown."""

from typing import Any

SIDES = ("fastmlp", "fastmlp, launched", "torch eager", "torch.compile", "torch CUDA graph", "cupy", "numpy")


def summary(document: dict[str, Any]) -> tuple[str, bool]:
    """What there is to see, and whether nothing failed, everything ran and the run is complete.

    The sanitizer, under which kernels take many times as long, may do as many items as its seconds allow.
    """
    lines, right = [], bool(document["complete"])
    for name, stage in document["stages"].items():
        counts: dict[str, int] = {}
        for item in stage["items"].values():
            counts[item["status"]] = counts.get(item["status"], 0) + 1
        told = ", ".join(f"{count} {status}" for status, count in counts.items())
        lines.append(f"{name}: {told or 'nothing'}, {stage.get('took_s', 0.0):.0f} of {stage['budget_s']:.0f} s")
        for item, result in stage["items"].items():
            if result["status"] != "passed":
                lines.append(f"  {result['status']}: {item}: {str(result.get('reason', '')).strip()[-300:]}")
        wrong = {"failed"} if name == "sanitizer" and counts.get("passed") else {"failed", "not run"}
        right = right and not counts.keys() & wrong
    lines += ["", *table(document)]
    return "\n".join(lines), right


def table(document: dict[str, Any]) -> list[str]:
    """One line a row: microseconds a step of each side, fastmlp's share of the measured ceiling, joules."""
    rates = {
        name.removeprefix("product "): item.get("flops_per_s")
        for name, item in document["stages"].get("ceilings", {}).get("items", {}).items()
    }
    joules = document["stages"].get("energy", {}).get("items", {})
    lines = [
        f"| network, batch | dtype | {' | '.join(f'{side}, us/step' for side in SIDES)} | TFLOP/s | % of product | "
        "uJ/sample |",
        "|---|---|" + "---:|" * (len(SIDES) + 3),
    ]
    for name, row in document["stages"].get("times", {}).get("items", {}).items():
        if row["status"] != "passed":
            continue
        sides = row["sides"]
        times = [_number((sides.get(side, {}).get("us_per_step") or {}).get("median")) for side in SIDES]
        rate, ceiling = sides.get("fastmlp", {}).get("flops_per_s"), rates.get(row["dtype"])
        energy = joules.get(name, {}).get("sides", {}).get("fastmlp", {}).get("joules_per_sample")
        figures = [
            _number(rate and rate * 1e-12),
            _number(rate and ceiling and 100 * rate / ceiling),
            _number(energy and energy * 1e6),
        ]
        lines.append(f"| {row['case']} | {row['dtype']} | {' | '.join([*times, *figures])} |")
    return lines


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
