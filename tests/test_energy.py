"""Energy is counted, estimated where asked, or unavailable with the reason: on made-up trees of /sys and libraries."""

import errno
import os
import platform
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from fastmlp import energy
from fastmlp.energy import Meter, counters, meter
from fastmlp.errors import ArgumentError


@pytest.fixture(autouse=True)
def _no_container(monkeypatch):
    monkeypatch.setattr(counters, "_hidden", lambda root: f"hidden: {root}")


def zone(root, folder, name, energy_uj=0, wrap_uj=262_143_328_850):
    path = root / "class" / "powercap" / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "energy_uj").write_text(f"{energy_uj}\n")
    (path / "max_energy_range_uj").write_text(f"{wrap_uj}\n")
    return path / "energy_uj"


def spend(counter, microjoules):
    counter.write_text(f"{int(counter.read_text()) + microjoules}\n")


def measure(root):
    return Meter(sysfs=root).measure()


def test_a_package_is_counted(tmp_path):
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    with measure(tmp_path) as reading:
        spend(counter, 2_500_000)
    assert reading.source == "counter"
    assert reading.joules == pytest.approx(2.5)
    assert reading.parts == {"package-0": pytest.approx(2.5)}
    assert reading.window_s > 0
    assert "package-0" in reading.detail
    assert "every 1 ms" in reading.detail


def test_the_window_is_the_body(tmp_path):
    counter = zone(tmp_path, "intel-rapl:0", "package-0")
    spend(counter, 7_000_000)
    with measure(tmp_path) as reading:
        spend(counter, 1_000_000)
        assert reading.source == "unavailable"
        assert reading.joules is None
        assert reading.detail == "the window is still open"
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
    (tmp_path / "class" / "powercap" / "intel-rapl").mkdir()  # the control type itself
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


def unavailable(root, *words, **settings):
    meter = Meter(sysfs=root, **settings)
    assert meter.source == "unavailable"
    with meter.measure() as reading:
        sum(range(1000))
    assert reading.source == "unavailable"
    assert reading.joules is None
    assert reading.net_joules is None
    assert reading.parts == {}
    assert reading.window_s > 0
    assert meter.rest(10.0) is None, "and nobody waits for it"
    for word in words:
        assert word in reading.detail
        assert word in meter.detail


def test_a_counter_that_wraps_many_times_in_a_window_is_followed(tmp_path, monkeypatch):
    """Each look sees less than one round of the counter, the window four or more."""
    counter = zone(tmp_path, "intel-rapl:0", "package-0", wrap_uj=2_000_000)
    looks = []
    look = meter._Walk._look

    def spending(self):
        if looks:
            counter.write_text(f"{(int(counter.read_text()) + 900_000) % 2_000_000}\n")
        looks.append(None)
        look(self)

    monkeypatch.setattr(meter._Walk, "_look", spending)
    monkeypatch.setattr(meter, "LONGEST_PAUSE_S", 0.002)
    with measure(tmp_path) as reading:
        while len(looks) < 10:
            time.sleep(0.002)
    assert reading.joules == pytest.approx(0.9 * (len(looks) - 1))


def test_a_counter_that_goes_backwards_is_no_wrap(tmp_path):
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 100_000_000_000)
    with measure(tmp_path) as reading:
        counter.write_text("5000\n")
    assert (reading.source, reading.joules) == ("unavailable", None)
    assert "package-0 went backwards from 100000000000 to 5000" in reading.detail


def test_no_powercap_folder(tmp_path):
    words = "absent/class/powercap is missing", "hidden: ", "perf has no event power/energy-pkg", "amd_energy"
    unavailable(tmp_path / "absent", *words)


def test_a_powercap_folder_without_packages(tmp_path):
    zone(tmp_path, "intel-rapl:0", "psys")
    unavailable(tmp_path, "no processor package")


def test_permission_refused_names_the_file_and_the_cure(tmp_path, monkeypatch):
    counter = zone(tmp_path, "intel-rapl:0", "package-0")
    refuse(monkeypatch, counter)
    unavailable(tmp_path, str(counter), "sudo chmod a+r")


def refuse(monkeypatch, file):
    read_text = Path.read_text

    def refusing(path, *args, **kwargs):
        if path == file:
            raise PermissionError(13, "Permission denied", str(path))
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", refusing)


def test_a_zone_whose_files_are_missing(tmp_path):
    """As where a container masks /sys/devices/virtual/powercap: the links are there, and lead nowhere."""
    zone(tmp_path, "intel-rapl:0", "package-0")
    (tmp_path / "class" / "powercap" / "intel-rapl:1").symlink_to(tmp_path / "masked")
    unavailable(tmp_path, "intel-rapl:1/name is missing", "hidden: ")


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
    meter = Meter(sysfs=tmp_path)

    def fail():
        spend(counter, 1_000_000)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), meter.measure() as reading:
        fail()
    assert reading.joules == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("signs", "system", "words"),
    [
        ({"container": "podman"}, "Linux", ("a container hides it", "HOST_SYS=/host/sys")),
        ({}, "Darwin", ("Darwin",)),
        ({}, "Linux", ("a virtual machine", "modprobe intel_rapl_msr")),
    ],
)
def test_why_it_may_be_hidden(monkeypatch, signs, system, words):
    monkeypatch.undo()
    monkeypatch.delenv("container", raising=False)
    monkeypatch.setattr(Path, "exists", lambda path: False)
    monkeypatch.setattr(platform, "system", lambda: system)
    for name, value in signs.items():
        monkeypatch.setenv(name, value)
    for word in words:
        assert word in counters._hidden(Path("/sys/class/powercap"))


def test_a_container_sees_the_hosts_tree(tmp_path, monkeypatch):
    counter = zone(tmp_path, "intel-rapl:0", "package-0")
    monkeypatch.setenv("HOST_SYS", str(tmp_path))
    with energy.measure() as reading:
        spend(counter, 1_500_000)
    assert reading.joules == pytest.approx(1.5)


# perf


def power_pmu(root, event="event=0x02", cpumask="0,4-5"):
    pmu = root / "bus" / "event_source" / "devices" / "power"
    (pmu / "events").mkdir(parents=True)
    (pmu / "type").write_text("9\n")
    (pmu / "cpumask").write_text(f"{cpumask}\n")
    (pmu / "events" / "energy-pkg").write_text(f"{event}\n")
    (pmu / "events" / "energy-pkg.scale").write_text("0.5\n")


class Events:
    """perf_event_open on pipes: each read takes the next count."""

    def __init__(self, **counts):
        self.counts, self.asked = counts, []

    def __call__(self, kind, config, cpu, pid=-1):
        self.asked.append((kind, config, cpu, pid))
        reader, writer = os.pipe()
        for count in self.counts[f"cpu{cpu}"]:
            os.write(writer, count.to_bytes(8, "little"))
        os.close(writer)
        return reader


def test_perf_counts_where_powercap_cannot(tmp_path, monkeypatch):
    power_pmu(tmp_path)
    refuse(monkeypatch, zone(tmp_path, "intel-rapl:0", "package-0"))
    first = 2**63
    events = Events(cpu0=(9, first, first + 6), cpu4=(9, 10, 12), cpu5=(9, 10, 11))
    monkeypatch.setattr(counters, "open_perf_event", events)
    with measure(tmp_path) as reading:
        pass
    assert events.asked == [(9, 2, cpu, -1) for cpu in (0, 4, 5)]
    assert (reading.source, reading.joules) == ("counter", 4.5)
    assert reading.parts == {"package-0": 3.0, "package-1": 1.0, "package-2": 0.5}
    assert "RAPL by perf" in reading.detail


def test_a_perf_counter_that_goes_backwards_or_ends(tmp_path, monkeypatch):
    power_pmu(tmp_path, cpumask="0")
    for counts, words in (((9, 20, 10), "went backwards from 20 to 10"), ((9, 20), "stopped being readable")):
        monkeypatch.setattr(counters, "open_perf_event", Events(cpu0=counts))
        with measure(tmp_path) as reading:
            pass
        assert (reading.source, reading.joules) == ("unavailable", None)
        assert words in reading.detail


def test_perf_refused_names_the_cure(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(13, "Permission denied")

    power_pmu(tmp_path)
    monkeypatch.setattr(counters, "open_perf_event", refused)
    unavailable(tmp_path, "kernel.perf_event_paranoid=0", "Permission denied")


@pytest.mark.parametrize("settings", [{"event": "config=7"}, {"cpumask": ""}, {"cpumask": "x"}])
def test_an_event_that_cannot_be_understood(tmp_path, settings):
    power_pmu(tmp_path, **settings)
    unavailable(tmp_path, "power/energy-pkg")


@pytest.mark.skipif(platform.system() != "Linux", reason="perf is Linux's")
def test_the_system_call_counts_this_process():
    """The task clock of this process, in nanoseconds: what an unprivileged process may always ask of perf."""
    software, task_clock = 1, 1
    try:
        handle = counters.open_perf_event(software, task_clock, cpu=-1, pid=0)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOSYS):
            raise
        pytest.skip(f"perf_event_open is refused here: {error}")  # a container's filter, or another processor
    read = counters._PerfCount(handle)
    first, used = read(), time.process_time_ns()
    sum(range(10**6))
    passed, used = read() - first, time.process_time_ns() - used
    assert 0 < passed < 10 * used
    del read
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.read(handle, 8)


# AMD's drivers


def socket(root, driver="amd_energy", folder="hwmon3", number=1, label="Esocket0", energy_uj=5):
    path = root / "class" / "hwmon" / folder
    path.mkdir(parents=True, exist_ok=True)
    (path / "name").write_text(f"{driver}\n")
    (path / f"energy{number}_label").write_text(f"{label}\n")
    (path / f"energy{number}_input").write_text(f"{energy_uj}\n")
    return path / f"energy{number}_input"


@pytest.mark.parametrize("driver", ["amd_energy", "zenergy"])
def test_sockets_count_and_their_cores_do_not(tmp_path, driver):
    sockets = [socket(tmp_path, driver, number=n, label=f"Esocket{n - 17}") for n in (17, 18)]
    core = socket(tmp_path, driver, number=1, label="Ecore000")
    other = socket(tmp_path, "coretemp", folder="hwmon0")
    with measure(tmp_path) as reading:
        for file in (*sockets, core, other):
            spend(file, 2_000_000)
    assert reading.joules == pytest.approx(4.0)
    assert set(reading.parts) == {"Esocket0", "Esocket1"}
    assert "hwmon" in reading.detail


def test_a_socket_that_cannot_be_read(tmp_path, monkeypatch):
    file = socket(tmp_path)
    refuse(monkeypatch, file)
    unavailable(tmp_path, f"sudo chmod a+r {file}")


# NVML


class Nvml:
    """The module pynvml, on GPUs whose every reading takes 250 mJ more."""

    class NVMLError(Exception):
        pass

    def __init__(self, gpus=2, old=False):
        self.millijoules, self.old = dict.fromkeys(range(gpus), 1000), old

    def nvmlInit(self):
        if not self.millijoules:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlDeviceGetCount(self):
        return len(self.millijoules)

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid):
        return {"GPU-abc": 1}[uuid]

    def nvmlDeviceGetName(self, handle):
        return b"H200"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        if self.old:
            raise self.NVMLError("Not Supported")
        self.millijoules[handle] += 250 * (handle + 1)
        return self.millijoules[handle]


@pytest.fixture
def gpus(monkeypatch):
    def install(library):
        nvml = counters.nvml
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(meter, "nvml", lambda: nvml(library))

    return install


@pytest.mark.parametrize(("visible", "joules"), [(None, 0.75), ("0", 0.25), ("1,0", 0.75), ("GPU-abc", 0.5)])
def test_gpus_that_are_visible_count(gpus, monkeypatch, visible, joules):
    gpus(Nvml())
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with energy.measure("gpu") as reading:
        pass
    assert (reading.source, reading.joules) == ("counter", pytest.approx(joules))
    assert "H200; renewed every 100 ms" in reading.detail


def test_all_adds_the_processor_to_the_gpus(gpus, tmp_path):
    gpus(Nvml(gpus=1))
    counter = zone(tmp_path, "intel-rapl:0", "package-0")
    with Meter("all", sysfs=tmp_path).measure() as reading:
        spend(counter, 1_000_000)
    assert reading.joules == pytest.approx(1.25)
    assert Meter("all", sysfs=tmp_path / "absent").source == "unavailable", "half of it is not all"


@pytest.mark.parametrize(
    ("library", "word"), [(Nvml(0), "Driver Not Loaded"), (Nvml(old=True), "Not Supported"), (Nvml(), "sees no GPU")]
)
def test_gpus_that_cannot_be_counted(gpus, monkeypatch, library, word):
    gpus(library)
    if word == "sees no GPU":
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    unavailable(None, word, device="gpu")


def test_without_the_binding_the_cure_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    unavailable(None, "pip install 'fastmlp[nvidia]'", device="gpu")


def test_a_gpu_that_is_here_counts():
    """The real thing, where it exists."""
    pytest.importorskip("pynvml")
    real = Meter("gpu")
    if real.reason is not None:
        pytest.skip(real.reason)
    reading = real.per_call(lambda: time.sleep(0.1), 1.0)
    assert reading.source == "counter", reading
    assert 1 < reading.joules / reading.window_s < 2000, "watts of a GPU at rest or at work"


def test_a_processor_that_is_here_counts():
    """The real thing, where it exists."""
    real = Meter()
    if real.reason is not None:
        pytest.skip(real.reason)
    reading = real.per_call(lambda: sum(range(10**5)), 0.5)
    assert reading.source == "counter", reading
    assert 0.1 < reading.joules / reading.window_s < counters.MOST_PACKAGE_WATTS * len(real.counters)


# Estimates, rest, and whole calls


def test_an_estimate_says_its_basis(tmp_path, monkeypatch):
    monkeypatch.setattr(meter.time, "process_time", iter([1.0, 3.5]).__next__)
    estimating = Meter(sysfs=tmp_path / "absent", watts_per_core=4.0)
    with estimating.measure() as reading:
        pass
    assert (estimating.source, reading.source) == ("estimated", "estimated")
    assert reading.joules == pytest.approx(10.0)
    assert reading.core_s == pytest.approx(2.5)
    assert reading.net_joules is None
    assert "4 W for each core-second" in reading.detail
    assert "is missing" in reading.detail


def test_a_counter_is_never_replaced_by_an_estimate(tmp_path):
    counter = zone(tmp_path, "intel-rapl:0", "package-0")
    counting = Meter(sysfs=tmp_path, watts_per_core=4.0)
    with counting.measure() as reading:
        spend(counter, 1_000_000)
    assert (reading.source, reading.joules) == ("counter", pytest.approx(1.0))
    with counting.measure() as reading:
        pass
    assert (reading.source, reading.joules) == ("unavailable", None), "not even where it did not tick"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"watts_per_core": 0}, "positive number of watts; got 0"),
        ({"watts_per_core": float("nan")}, "got nan"),
        ({"device": "gpu", "watts_per_core": 3.0}, "device='cpu' alone"),
        ({"device": "gpus"}, "Did you mean 'gpu'"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ArgumentError, match=message):
        Meter(**settings)


def test_what_the_machine_takes_at_rest_is_left_out(tmp_path, monkeypatch):
    """5 W at rest; 3 J in a window of a quarter of a second are 1.75 J net."""
    now = [0.0]
    counter = zone(tmp_path, "intel-rapl:0", "package-0")

    def sleep(seconds):
        now[0] += seconds
        spend(counter, int(5e6 * seconds))

    clock = SimpleNamespace(sleep=sleep, perf_counter=lambda: now[0], process_time=lambda: 0)
    monkeypatch.setattr(meter, "time", clock)
    resting = Meter(sysfs=tmp_path)
    assert resting.rest(2.0) == pytest.approx(5.0)
    with resting.measure() as reading:
        spend(counter, 3_000_000)
        now[0] += 0.25
    assert reading.joules == pytest.approx(3.0)
    assert reading.idle_watts == pytest.approx(5.0)
    assert reading.net_joules == pytest.approx(1.75)


def test_a_call_is_repeated_until_the_window_is_full(tmp_path, monkeypatch):
    counter = zone(tmp_path, "intel-rapl:0", "package-0")
    monkeypatch.setenv("HOST_SYS", str(tmp_path))
    reading = energy.per_call(lambda: (spend(counter, 1_000_000), time.sleep(0.01)), window_s=0.05, idle_s=0)
    assert reading.window_s >= 0.05
    assert reading.calls >= 2
    assert reading.joules == pytest.approx(reading.calls)


def test_a_call_is_made_once_where_nothing_will_be_known(tmp_path, monkeypatch):
    monkeypatch.setenv("HOST_SYS", str(tmp_path))
    calls = []
    reading = energy.per_call(lambda: calls.append(None))
    assert (reading.source, reading.calls, len(calls)) == ("unavailable", 1, 1)


def test_threads_of_a_meter_end_with_the_window(tmp_path):
    import threading

    zone(tmp_path, "intel-rapl:0", "package-0")
    with measure(tmp_path):
        assert "fastmlp-energy" in {thread.name for thread in threading.enumerate()}
    assert "fastmlp-energy" not in {thread.name for thread in threading.enumerate()}
