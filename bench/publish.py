"""A README's tables and plots from the committed results: `python -m fastmlp.bench.publish README.md [--check]`.

A table stands between the lines `<!-- figures: FILE.json -->` and `<!-- end of figures -->`; the file's path is taken
from the README. The plot is FILE.svg beside it, where the document has a sweep of widths, and the crossover map is
FILE-map.svg, where it has that suite. `--check` writes nothing and
ends with status 1 if something is not as it would be written.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from . import document, heatmap, plot, report

BLOCK = re.compile(r"(<!-- figures: (\S+) -->\n)(.*?)(<!-- end of figures -->)", re.S)


def published(readme: Path) -> dict[Path, str]:
    """What every file is to hold: the README itself, and each plot."""
    texts: dict[Path, str] = {}

    def table(match: re.Match[str]) -> str:
        path = readme.parent / match[2]
        results = document.load(path)
        if plot.curves(results):
            texts[path.with_suffix(".svg")] = plot.svg(results)
        if heatmap.Map.of(results).squares:
            texts[path.with_name(f"{path.stem}-map.svg")] = heatmap.svg(results)
        return match[1] + report.markdown(results) + match[4]

    texts[readme] = BLOCK.sub(table, readme.read_text())
    return texts


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m fastmlp.bench.publish", description=__doc__)
    parser.add_argument("readme", type=Path)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if a file would change")
    options = parser.parse_args(arguments)
    stale = [
        (path, text)
        for path, text in published(options.readme).items()
        if not path.exists() or path.read_text() != text
    ]
    for path, text in stale:
        print(f"{path}: {'is not made from its results' if options.check else 'written'}")
        if not options.check:
            path.write_text(text)
    return int(options.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
