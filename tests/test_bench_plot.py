"""Plots and published tables: made from a document, readable anywhere."""

from copy import deepcopy
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from benching import documented, side_of

from fastmlp.bench import plot, publish, report
from fastmlp.bench.document import save
from fastmlp.errors import ArgumentError


@pytest.fixture
def document():
    return documented()


@pytest.fixture
def sweep(document):
    model = document["rows"][0]
    document["rows"] = []
    for width, ratio in ((64, 4.0), (16, 8.0), (1024, 0.9)):
        row = deepcopy(model) | {"workload": f"width-{width}", "widths": [width] * 4}
        side_of(row, "reference")["ratio"]["median"] = ratio
        side_of(row, "peer")["ratio"]["median"] = 2 * ratio
        document["rows"].append(row)
    return document


def test_the_plot_shows_every_rival_at_every_width(sweep, tmp_path):
    assert plot.curves(sweep) == {
        "NumPy": [(16, 8.0), (64, 4.0), (1024, 0.9)],
        "plain": [(16, 16.0), (64, 8.0), (1024, 1.8)],
    }
    sweep["machine"]["cpu"] = "A<B & C"
    plot.save(sweep, tmp_path / "plot.svg")
    root = ElementTree.parse(tmp_path / "plot.svg").getroot()
    assert root.attrib.keys() == {"viewBox", "role", "aria-label"}
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    svg = "{http://www.w3.org/2000/svg}"
    texts = [text.text for text in root.iter(f"{svg}text")]
    assert {"NumPy", "plain", "16", "64", "1024", "1x", "16x"} <= set(texts)
    dots = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in root.iter(f"{svg}circle")]
    assert len(dots) == 6
    assert all(0 < x < width and 0 < y < height for x, y in dots)
    assert dots[0][1] < dots[1][1] < dots[2][1], "slower is lower"
    (style,) = (each.text for each in root.iter(f"{svg}style"))
    assert "prefers-color-scheme:dark" in style
    assert "href" not in (tmp_path / "plot.svg").read_text(), "nothing is loaded"


def test_names_of_curves_that_end_together_stand_apart():
    places = plot._apart({"a": 350.0, "b": 351.0, "c": 352.0, "d": 100.0})
    assert places["d"] == 100.0
    heights = sorted(places.values())
    assert min(b - a for a, b in pairwise(heights)) >= 16
    assert heights[-1] <= plot.HEIGHT - plot.BOTTOM


def test_without_a_sweep_there_is_no_plot(document, tmp_path):
    with pytest.raises(ArgumentError, match="--plot needs two widths"):
        plot.save(document, tmp_path / "plot.svg")


def test_a_readme_is_made_from_its_results(sweep, tmp_path, capsys):
    save(sweep, tmp_path / "all.json")
    readme = tmp_path / "README.md"
    readme.write_text("# A\n<!-- figures: all.json -->\nold\n<!-- end of figures -->\nB\n")
    assert publish.main([str(readme), "--check"]) == 1
    assert "README.md: is not made from its results" in capsys.readouterr().out
    assert not (tmp_path / "all.svg").exists()
    assert publish.main([str(readme)]) == 0
    assert publish.main([str(readme), "--check"]) == 0
    table = report.markdown(sweep)
    text = f"# A\n<!-- figures: all.json -->\n{table}<!-- end of figures -->\nB\n"
    assert readme.read_text() == text
    (tmp_path / "all.svg").write_text("changed")
    assert publish.main([str(readme), "--check"]) == 1
