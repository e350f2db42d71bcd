"""The clock of the benchmark: calls take turns, rests, spreads."""

import numpy as np
import pytest

from fastmlp.bench import timing
from fastmlp.bench.timing import Spread, interleave


def test_calls_take_turns_forth_and_back_after_one_warm_up_round(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    calls = []

    def call(name, wall_s):
        calls.append(name)
        clock.spend(int(wall_s * 1e9), 0)

    interleave([lambda: call("A", 1), lambda: call("B", 0.002)], budget_s=0, least=4)
    assert "".join(calls) == "AB" + 2 * ("ABBB" + "BBBA"), "a long call is warm, a short one is made until it is"


def test_a_large_budget_ends_at_the_most_and_a_spent_one_at_the_least():
    assert len(interleave([lambda: None], budget_s=1e9, least=2, most=5)[0].wall) == 5
    assert len(interleave([lambda: None], budget_s=-1, least=3, most=5)[0].wall) == 3


class Clock:
    """Stands in for the module time: a call moves it by hand, a sleep by itself."""

    def __init__(self, spinning_s=0.0):
        self.wall = self.cores = 0
        self.spinning = int(spinning_s * 1e9)
        self.left = 0
        self.pauses = []

    def spend(self, wall, cores):
        """A call; threads of it spin on afterwards."""
        self.wall += wall
        self.cores += cores
        self.left = self.spinning

    def perf_counter_ns(self):
        return self.wall

    def perf_counter(self):
        return self.wall * 1e-9

    def process_time_ns(self):
        return self.cores

    def sleep(self, seconds):
        self.pauses.append(seconds)
        nanoseconds = int(seconds * 1e9)
        self.wall += nanoseconds
        busy = min(self.left, nanoseconds)
        self.cores += busy
        self.left -= busy


def test_wall_and_core_time_are_the_calls_own_and_the_pause_is_not_counted(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    durations = iter([9, 1, 2, 3, 4, 10])  # the first is the warm-up
    slow, fast = interleave(
        [lambda: clock.spend(next(durations) * 10**9, 10**9), lambda: clock.spend(10**6, 2 * 10**6)],
        budget_s=0,
        least=5,
    )
    assert slow.wall == pytest.approx([1, 2, 3, 4, 10])
    assert slow.cores == pytest.approx([1] * 5)
    assert fast.wall == pytest.approx([1e-3] * 5)
    assert fast.cores == pytest.approx([2e-3] * 5)
    assert clock.pauses == [timing.REST_S] * 10
    assert timing.ratio(slow.wall, fast.wall) == Spread(pytest.approx(3e3), pytest.approx(2e3), 5)


@pytest.mark.parametrize(("spinning_s", "rests"), [(0.0, 1), (0.025, 4), (60.0, timing.MOST_RESTS)])
def test_a_call_waits_until_the_threads_of_the_last_one_are_at_rest(monkeypatch, spinning_s, rests):
    clock = Clock(spinning_s)
    monkeypatch.setattr(timing, "time", clock)
    clock.spend(1, 1)
    timing.rest()
    assert len(clock.pauses) == rests


def test_the_budget_is_kept(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    (result,) = interleave([lambda: clock.spend(10**9, 0)], budget_s=10, least=2, most=100)
    assert len(result.wall) == 10


@pytest.mark.parametrize("call_us", [1, 40, 700, 5000])
def test_a_short_call_is_repeated_to_a_millisecond(monkeypatch, call_us):
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    sample, count = timing.repeated(lambda: clock.spend(call_us * 1000, 0))
    assert call_us * count >= 1000
    assert count == 1 or call_us * count < 4000
    before = clock.wall
    sample()
    assert clock.wall - before == call_us * count * 1000


def test_the_fastest_way_is_taken(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    ways = {f"{us} us": lambda us=us: clock.spend(us * 1000, 0) for us in (30, 10, 20)}
    assert timing.fastest(ways) == "10 us"
    assert timing.fastest({"only": lambda: pytest.fail("one way needs no race")}) == "only"


def test_spread_against_numpy():
    samples = np.random.default_rng(0).exponential(size=31)
    spread = Spread.of(samples.tolist())
    low, middle, high = np.percentile(samples, [25, 50, 75])
    assert spread.median == pytest.approx(middle)
    assert spread.iqr == pytest.approx(high - low)
    assert spread.n == 31
    assert spread.scaled(2) == Spread(2 * spread.median, 2 * spread.iqr, 31)


@pytest.mark.parametrize(("iqr", "noisy"), [(0.19, False), (0.21, True)])
def test_a_wide_spread_is_noisy(iqr, noisy):
    assert Spread(1.0, iqr, 9).noisy is noisy
