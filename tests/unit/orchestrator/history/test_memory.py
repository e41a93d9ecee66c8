"""What stages were measured to take, and what is asked for in its light."""

from orchestrator.history import MemoryUse
from orchestrator.history.memory import MARGIN
from orchestrator.schema import Demand
from tests.unit.orchestrator.history.stages import of

GIB = 2**30
ESTIMATED = Demand(devices=1, share=0.5, memory_bytes=6 * GIB, cpus=0.5, host_memory_bytes=7 * GIB)


def test_what_was_never_measured_is_asked_for_as_estimated() -> None:
    use = MemoryUse()
    use.observe("a", of("sft"), 1, GIB, GIB)
    assert use.corrected(of("sft", width=512), ESTIMATED) == ESTIMATED
    assert use.peak(of("sft", width=512), 1) is None


def test_what_was_measured_is_asked_for_with_a_margin() -> None:
    use = MemoryUse()
    use.observe("a", of("sft"), 1, 2 * GIB, 3 * GIB)
    corrected = use.corrected(of("sft", lr=9.0), ESTIMATED)
    assert 2 * GIB <= corrected.memory_bytes <= 2 * GIB * MARGIN
    assert 3 * GIB <= corrected.host_memory_bytes <= 3 * GIB * MARGIN
    assert (corrected.devices, corrected.share, corrected.cpus) == (1, 0.5, 0.5)


def test_the_most_of_all_runs_counts() -> None:
    use = MemoryUse()
    for bundle_id, peak in (("a", 3), ("b", 2), ("a", 1)):
        use.observe(bundle_id, of("sft"), 1, peak * GIB)
    peak = use.peak(of("sft", lr=9.0), 1)
    assert peak is not None
    assert (peak.memory_bytes, peak.runs, peak.basis) == (3 * GIB, 2, "stages of the same shape")


def test_only_what_changes_what_is_asked_for_is_news() -> None:
    use = MemoryUse()
    assert use.observe("a", of("sft"), 1, 2 * GIB)
    assert not use.observe("b", of("sft", lr=9.0), 1, 2 * GIB)
    assert use.observe("b", of("sft", lr=9.0), 1, 3 * GIB)
    assert not use.observe("b", of("sft", lr=9.0), 1, 0)


def test_a_host_that_nobody_measured_is_asked_for_as_estimated() -> None:
    use = MemoryUse()
    use.observe("a", of("sft"), 1, 2 * GIB)
    assert use.corrected(of("sft"), ESTIMATED).host_memory_bytes == 7 * GIB


def test_a_gang_of_another_size_is_something_else() -> None:
    use = MemoryUse()
    use.observe("a", of("sft"), 2, GIB)
    assert use.corrected(of("sft"), ESTIMATED) == ESTIMATED


def test_after_an_excess_at_least_the_raised_demand_is_asked_for_until_a_run_was_seen_whole() -> None:
    use = MemoryUse()
    raised = Demand(devices=1, share=0.5, memory_bytes=9 * GIB)
    use.exceeded(of("sft"), 1, raised)
    use.observe("a", of("sft"), 1, 6 * GIB)
    assert use.corrected(of("sft", lr=9.0), ESTIMATED).memory_bytes == 9 * GIB
    use.observe("b", of("sft"), 1, 7 * GIB, whole=True)
    assert use.corrected(of("sft", lr=9.0), ESTIMATED).memory_bytes == int(7 * GIB * MARGIN)


def test_the_peak_of_a_new_shape_is_expected_by_its_neighbours_with_an_interval() -> None:
    use = MemoryUse()
    for number, peak in enumerate((2.0, 2.1, 1.9)):
        use.observe(str(number), of("sft", lr=number), 1, int(peak * GIB))
    expected = use.expected(of("sft", width=128), 1)
    assert expected is not None
    assert expected.low < 2.0 * GIB < expected.high
    assert (expected.basis, expected.runs) == ("the nearest configs", 3)
