"""Energy is counted or it is unavailable: on a made-up powercap tree."""

from pathlib import Path

import pytest

from fastmlp.bench.energy import Meter, measure


def zone(root, folder, name, energy_uj=0, wrap_uj=262_143_328_850):
    path = root / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "energy_uj").write_text(f"{energy_uj}\n")
    (path / "max_energy_range_uj").write_text(f"{wrap_uj}\n")
    return path / "energy_uj"


def spend(counter, microjoules):
    counter.write_text(f"{int(counter.read_text()) + microjoules}\n")


def test_a_package_is_counted(tmp_path):
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    with measure(tmp_path) as reading:
        spend(counter, 2_500_000)
    assert reading.source == "counter"
    assert reading.joules == pytest.approx(2.5)
    assert reading.window_s > 0
    assert "package-0" in reading.detail


def test_the_window_is_the_body(tmp_path):
    counter = zone(tmp_path, "intel-rapl:0", "package-0")
    spend(counter, 7_000_000)
    with measure(tmp_path) as reading:
        spend(counter, 1_000_000)
        assert reading.source == "unavailable"
        assert reading.joules is None
    spend(counter, 9_000_000)
    assert reading.joules == pytest.approx(1.0)


def test_a_counter_that_wraps_is_followed(tmp_path):
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 9_000_000, wrap_uj=10_000_000)
    with measure(tmp_path) as reading:
        counter.write_text("500000\n")
    assert reading.joules == pytest.approx(1.5)


def test_packages_add_up_and_nothing_counts_twice(tmp_path):
    """Cores and memory are inside or beside a package, psys holds everything, mmio is a second door to a package."""
    packages = [zone(tmp_path, f"intel-rapl:{n}", f"package-{n}") for n in (0, 1)]
    others = [
        zone(tmp_path, "intel-rapl:0:0", "core"),
        zone(tmp_path, "intel-rapl:0:1", "dram"),
        zone(tmp_path, "intel-rapl:2", "psys"),
        zone(tmp_path, "intel-rapl-mmio:0", "package-0"),
    ]
    (tmp_path / "intel-rapl").mkdir()  # the control type itself
    with measure(tmp_path) as reading:
        for package in packages:
            spend(package, 1_000_000)
        for other in others:
            spend(other, 50_000_000)
    assert reading.joules == pytest.approx(2.0)


def test_the_second_door_serves_where_it_is_the_only_one(tmp_path):
    counter = zone(tmp_path, "intel-rapl-mmio:0", "package-0")
    with measure(tmp_path) as reading:
        spend(counter, 3_000_000)
    assert reading.joules == pytest.approx(3.0)


def unavailable(root, *words):
    meter = Meter(root)
    assert meter.source == "unavailable"
    with meter.measure() as reading:
        sum(range(1000))
    assert reading.source == "unavailable"
    assert reading.joules is None
    assert reading.window_s > 0
    for word in words:
        assert word in reading.detail
        assert word in meter.detail


def test_no_powercap_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Linux")
    unavailable(tmp_path / "absent", "absent is missing", "modprobe")


def test_a_powercap_folder_without_packages(tmp_path, monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Linux")
    zone(tmp_path, "intel-rapl:0", "psys")
    unavailable(tmp_path, "no processor package")


def test_another_system(tmp_path, monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    unavailable(tmp_path / "absent", "Darwin")


def test_permission_refused_names_the_file_and_the_cure(tmp_path, monkeypatch):
    counter = zone(tmp_path, "intel-rapl:0", "package-0")
    read_text = Path.read_text

    def refuse(path, *args, **kwargs):
        if path == counter:
            raise PermissionError(13, "Permission denied", str(path))
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", refuse)
    unavailable(tmp_path, str(counter), "sudo chmod a+r")


def test_one_unreadable_package_makes_the_sum_unavailable(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0")
    zone(tmp_path, "intel-rapl:1", "package-1").write_text("not a number")
    unavailable(tmp_path, "cannot be read")


def test_a_counter_that_did_not_tick_is_no_zero(tmp_path):
    ticking = zone(tmp_path, "intel-rapl:0", "package-0")
    zone(tmp_path, "intel-rapl:1", "package-1")
    with measure(tmp_path) as reading:
        spend(ticking, 10)
    assert reading.source == "unavailable"
    assert reading.joules is None
    assert "package-1 did not tick" in reading.detail


def test_a_counter_that_vanishes_in_between(tmp_path):
    counter = zone(tmp_path, "intel-rapl:0", "package-0")
    with measure(tmp_path) as reading:
        counter.unlink()
    assert reading.source == "unavailable"
    assert reading.joules is None
    assert "stopped being readable" in reading.detail


def test_an_error_in_the_body_passes_and_the_reading_is_settled(tmp_path):
    counter = zone(tmp_path, "intel-rapl:0", "package-0")
    meter = Meter(tmp_path)

    def fail():
        spend(counter, 1_000_000)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), meter.measure() as reading:
        fail()
    assert reading.joules == pytest.approx(1.0)
