"""How far apart the team's members are, and what is not shared by members that are far from each other."""

import threading

import numpy as np
import pytest

from fastmlp import MLP, num_threads
from fastmlp.kernels.cpu import distance, phases, team
from fastmlp.kernels.cpu.workspace import APART_ROWS

NEAR, FAR = distance.APART_NS / 2, 2 * distance.APART_NS


@pytest.fixture
def measured(monkeypatch):
    """What the next measurements give, and how many there were; the clock is ours."""
    state = {"took": NEAR, "count": 0, "now": 0}

    def measure(team):
        state["count"] += 1
        return state["took"]

    monkeypatch.setattr(distance, "_last", None)
    monkeypatch.setattr(distance, "_measured", measure)
    monkeypatch.setattr(distance.time, "monotonic_ns", lambda: state["now"])
    return state


def test_a_measurement_is_believed_for_a_while(measured):
    assert not distance.are_apart(1)
    measured["took"] = FAR
    measured["now"] += distance.KEPT_NS - 1
    assert not distance.are_apart(1)
    assert measured["count"] == 1
    measured["now"] += 1
    assert distance.are_apart(1)
    assert measured["count"] == 2


def test_another_team_is_measured_anew(measured):
    assert not distance.are_apart(1)
    measured["took"] = FAR
    assert distance.are_apart(2)
    assert distance.are_apart(2)
    assert measured["count"] == 2


@pytest.mark.parametrize("took", [NEAR, FAR])
def test_where_the_other_does_not_come_the_last_measurement_counts(measured, took):
    measured["took"] = took
    first = distance.are_apart(1)
    measured["took"] = 0
    for _ in range(3):
        measured["now"] += distance.KEPT_NS
        assert distance.are_apart(1) == first
    assert measured["count"] == 4


def test_members_that_never_met_are_taken_for_near(measured):
    measured["took"] = 0
    assert not distance.are_apart(1)


def test_without_a_clock_all_are_near(measured, monkeypatch):
    monkeypatch.setattr(distance, "HAS_NANOSECONDS", False)
    measured["took"] = FAR
    assert not distance.are_apart(1)


def test_two_members_are_timed(monkeypatch):
    monkeypatch.setattr(distance, "_last", None)
    with num_threads(3):
        took = [distance._measured(team.members()[0]) for _ in range(50)]
    assert min(took) >= 0
    assert np.isfinite(max(took))


def test_a_team_that_is_busy_says_nothing():
    """The measurement then runs on its caller alone."""
    with num_threads(2):
        crew = team.members()
        taken = team._team._memory[phases.TAKEN * phases.LINE :]
        taken[0] = 1
        try:
            assert [distance._measured(crew[0]) for _ in range(100)] == [0] * 100
        finally:
            taken[0] = 0


@pytest.mark.parametrize("rows", [64, APART_ROWS - 1, APART_ROWS])
@pytest.mark.parametrize("call", ["train_step", "fit", "gradients"])
def test_small_batches_of_narrow_networks_are_shared_by_near_members_alone(measured, monkeypatch, rows, call):
    sizes, conduct = [], team._conducting()

    def conducting(team, entry, size, is_long, *job):
        sizes.append(size)
        return conduct(team, entry, size, is_long, *job)

    monkeypatch.setattr(team, "_conducting", lambda: conducting)
    x, y = np.random.default_rng(0).random((2, rows, 100), np.float32)
    results = []
    for took in (NEAR, FAR):
        measured["took"] = took
        measured["now"] += distance.KEPT_NS
        net = MLP((100, 100, 100), backend="cpu", seed=0)
        sizes.clear()
        with num_threads(2):
            if call == "fit":
                net.fit(x, y, epochs=2, batch_size=rows, progress=False)
            else:
                getattr(net, call)(x, y)
        assert set(sizes) == {2 if took == NEAR or rows >= APART_ROWS else 1}
        results.append(net.parameters.tobytes())
    assert results[0] == results[1]


def test_wide_networks_are_shared_wherever_the_members_are(measured):
    net = MLP((300, 200, 100), backend="cpu", seed=0)
    x, y = np.ones((64, 300), np.float32), np.ones((64, 100), np.float32)
    with num_threads(2):
        net.train_step(x, y)
        net.train_step(x, y)
    assert measured["count"] == 0


def test_a_worker_that_never_comes_is_not_waited_for(monkeypatch):
    """Nor one that sleeps: the measurement ends, and says nothing."""
    monkeypatch.setattr(team, "_team", None)
    monkeypatch.setattr(team._Worker, "_live", lambda worker: None)
    found = []
    thread = threading.Thread(target=lambda: found.append(distance._measured(team.members(2)[0])), daemon=True)
    thread.start()
    thread.join(60)
    assert found == [0]
