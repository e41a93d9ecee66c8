"""Arrivals without an end, worked out by hand."""

import pytest

from orchestrator.events import StudySubmitted, TrialsAdded
from orchestrator.ports import TraceError
from orchestrator.simulation.protocols.arrivals_only import ArrivalsOnly
from orchestrator.simulation.protocols.protocol import Scene
from orchestrator.simulation.recorder import Recorder
from orchestrator.simulation.submissions import Submissions
from tests.unit.orchestrator.simulation.workloads import node, simulated, stage, trace, trial

PROTOCOL = "trace.protocol=arrivals_only"


def pods(share: float, count: int = 4):
    return [trial(f"p{i}", float(i), stage(1.0, share=share)) for i in range(count)]


def test_what_fills_the_devices_leaves_nothing_unallocated():
    result = simulated(pods(0.5), [node(devices=2)], PROTOCOL)
    assert (result.unallocated_share_at_100, result.unallocated_share_at_130) == (0.0, 0.0)


def test_what_does_not_add_up_to_a_device_leaves_the_rest_of_each():
    result = simulated(pods(0.6), [node(devices=2)], PROTOCOL)
    assert result.unallocated_share_at_130 == pytest.approx(40.0)


def test_arrivals_go_on_until_they_ask_for_130_percent():
    result = simulated(pods(0.5), [node(devices=2)], PROTOCOL)
    # Six of a half are 150 %, five are 125 %.
    assert (result.arrived, result.placed, result.dropped) == (6, 4, 2)


def test_nothing_ever_ends_and_times_mean_nothing():
    result = simulated(pods(0.5), [node(devices=2)], PROTOCOL)
    assert (result.completed, result.failed, result.placed) == (0, 0, 4)
    assert result.makespan_s is result.jct_mean_s is result.wait_mean_s is result.experiments_per_gpu_hour is None


def test_who_waits_at_the_end_is_unfinished_and_who_was_placed_is_not():
    result = simulated(pods(0.6), [node(devices=2)], PROTOCOL, "trace.window=2")
    assert (result.placed, result.unfinished) == (2, result.arrived - result.placed - result.dropped)
    assert simulated(pods(0.5), [node(devices=2)], PROTOCOL).unfinished == 0


def test_whoever_gives_away_whole_devices_leaves_unallocated_what_nobody_asked_for():
    result = simulated(pods(0.25), [node(devices=2)], PROTOCOL, "packing=exclusive")
    assert (result.placed, result.utilisation) == (2, 1.0)
    assert result.unallocated_share_at_100 == result.unallocated_share_at_130 == 75.0


def test_utilisation_is_what_is_held_at_the_end():
    assert simulated(pods(0.6), [node(devices=2)], PROTOCOL).utilisation == pytest.approx(0.6)


def test_the_seed_decides_the_order():
    mixed = [*pods(0.7, 3), *pods(0.4, 3)]
    shares = {
        simulated(mixed, [node(devices=3)], PROTOCOL, f"seed={seed}").unallocated_share_at_100 for seed in range(9)
    }
    assert len(shares) > 1


def test_the_same_seed_gives_the_same_result():
    mixed = [*pods(0.7, 5), *pods(0.3, 5)]
    one, two = (simulated(mixed, [node(devices=5)], PROTOCOL, "seed=3") for _ in range(2))
    assert one.unallocated_share_at_100 == two.unallocated_share_at_100
    assert one.occupancy == two.occupancy


def test_without_a_demand_for_devices_there_is_nothing_to_measure():
    with pytest.raises(TraceError, match=r"small\.csv: nothing asks for a device"):
        simulated([trial("a", 0.0, stage(1.0, devices=0))], [node(cpus=4.0)], PROTOCOL)


class Arrivals:
    """The protocol by itself; `decide` says what became of those who wait."""

    def __init__(self, window: int, share: float = 0.5, capacity: int = 2):
        self.recorder = Recorder()
        self.events = []
        scene = Scene(
            trace=trace(*pods(share)),
            seed=0,
            window=window,
            capacity=capacity,
            recorder=self.recorder,
            submissions=Submissions(knows=lambda study_id: study_id in self.known, available=lambda keys: set()),
        )
        self.known: set[str] = set()
        self.protocol = ArrivalsOnly(scene)
        self.agenda = self.protocol.arrivals()

    def next(self):
        _, happen = next(self.agenda)
        events = happen()
        for event in events:
            if isinstance(event, StudySubmitted):
                self.known.add(event.study.study_id)
            if isinstance(event, StudySubmitted | TrialsAdded):
                for arrived in event.trials:
                    self.recorder.waiting[arrived.trial_id] = event.at
        return events

    def place(self, trial_id):
        del self.recorder.waiting[trial_id]
        self.recorder.held_units += 500_000


def kinds(events):
    return [type(event).__name__ for event in events]


def test_with_a_window_of_one_each_arrival_is_placed_or_dropped_before_the_next():
    arrivals = Arrivals(window=1)
    assert kinds(arrivals.next()) == ["StudySubmitted"]
    arrivals.place("0")
    assert kinds(arrivals.next()) == ["TrialsAdded"]
    halted, added = arrivals.next()
    assert halted.trial_ids == ("1",)
    assert added.trials[0].trial_id == "2"


def test_a_full_window_loses_its_oldest():
    arrivals = Arrivals(window=3)
    assert [kinds(arrivals.next()) for _ in range(3)] == [["StudySubmitted"], ["TrialsAdded"], ["TrialsAdded"]]
    halted, added = arrivals.next()
    assert halted.trial_ids == ("0",)
    assert added.trials[0].trial_id == "3"


def test_any_of_the_window_may_be_placed():
    arrivals = Arrivals(window=3)
    for _ in range(3):
        arrivals.next()
    arrivals.place("1")
    assert kinds(arrivals.next()) == ["TrialsAdded"]
    assert arrivals.next()[0].trial_ids == ("0",)


def test_what_waits_in_the_window_has_not_arrived_yet():
    arrivals = Arrivals(window=3)
    # Seven of a half have come, which are 175 %; with the four that have left, those that left are 100 %.
    for _ in range(7):
        arrivals.next()
    assert arrivals.protocol.results() == {"unallocated_share_at_100": 100.0}


def test_the_last_mark_ends_the_arrivals():
    arrivals = Arrivals(window=1)
    while True:
        try:
            arrivals.next()
        except StopIteration:
            break
        for trial_id in list(arrivals.recorder.waiting):
            if arrivals.recorder.held_units < 2_000_000:
                arrivals.place(trial_id)
    assert arrivals.protocol.results() == {"unallocated_share_at_100": 0.0, "unallocated_share_at_130": 0.0}
