"""What `fastmlp info` reads: on made-up files of the operating system, and on this machine."""

import os

import pytest

from fastmlp import info
from fastmlp.kernels import cores, gpu, processor


def test_version_2_quota(tmp_path):
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert cores.cgroup_quota(tmp_path) == 1.5


@pytest.mark.parametrize("text", ["max 100000\n", "", "0 0\n", "many few\n"])
def test_no_version_2_quota(tmp_path, text):
    (tmp_path / "cpu.max").write_text(text)
    assert cores.cgroup_quota(tmp_path) is None


@pytest.mark.parametrize(("quota", "expected"), [("50000", 0.5), ("-1", None), ("x", None)])
def test_version_1_quota(tmp_path, quota, expected):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert cores.cgroup_quota(tmp_path) == expected


def test_usable_cores_obey_mask_and_quota(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    assert cores.usable_cores(tmp_path) == 6
    for text, expected in (("250000 100000", 2), ("50000 100000", 1), ("900000 100000", 6)):
        (tmp_path / "cpu.max").write_text(text)
        assert cores.usable_cores(tmp_path) == expected


def test_nothing_published_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr(processor, "cpuinfo", lambda key: None)
    assert cores.cgroup_quota(tmp_path / "absent") is None
    facts = info.machine()
    assert facts["usable_cores"] >= 1
    assert facts["instruction_sets"] in (None, ["NEON"])


def test_instruction_sets_are_read_from_the_flags(monkeypatch):
    monkeypatch.setattr(processor, "cpuinfo", lambda key: "fpu avx2 fma amx_tile" if key == "flags" else None)
    assert info.instruction_sets() == ["FMA", "AVX2", "AMX"]


class Driver:
    """The driver's library, as far as `info.gpu` calls it."""

    def __init__(self, status, names):
        self.status, self.names = status, names

    def cuInit(self, flags):
        return self.status

    def cuDeviceGetCount(self, count):
        count._obj.value = len(self.names)

    def cuDeviceGet(self, device, ordinal):
        device._obj.value = 40 + ordinal

    def cuDeviceGetName(self, buffer, size, device):
        buffer.value = self.names[device.value - 40]


@pytest.mark.parametrize(
    ("driver", "devices", "reason"),
    [
        (Driver(0, [b"NVIDIA H100", b"NVIDIA L4"]), ["NVIDIA H100", "NVIDIA L4"], None),
        (Driver(0, []), [], "sees no device"),
        (Driver(999, []), [], "cuInit returned 999"),
    ],
)
def test_gpus_are_named_or_the_reason_is(monkeypatch, driver, devices, reason):
    monkeypatch.setattr("ctypes.CDLL", lambda name: driver)
    monkeypatch.setattr(gpu, "_process", None)
    facts = info.gpu()
    assert facts["devices"] == devices
    assert facts["reason"] is None if reason is None else reason in facts["reason"]


def test_no_driver(monkeypatch):
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr("ctypes.CDLL", missing)
    assert info.gpu()["devices"] == []
    assert "no NVIDIA driver" in info.gpu()["reason"]


def test_versions_of_what_is_installed_and_none_for_the_rest(monkeypatch):
    import numpy

    monkeypatch.setattr(info, "PACKAGES", ("numpy", "no-such-package-of-ours"))
    versions = info.software()
    assert versions["numpy"] == numpy.__version__
    assert versions["no-such-package-of-ours"] is None
