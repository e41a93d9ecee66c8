"""Time by part, on clocks of the test's own."""

import pytest

from experiments.parts import Clock, heard_by, timed_as


class Time:
    """Wall time as it is set; the CPU gets half of it."""

    def __init__(self):
        self.now = 0.0

    def wall(self):
        return self.now

    def cpu(self):
        return self.now / 2


@pytest.fixture
def time():
    return Time()


def clock_of(time, settle=lambda: None):
    return Clock(settle, time.wall, time.cpu)


def test_time_goes_to_the_innermost_part_and_to_no_other(time):
    clock = clock_of(time)
    with clock.part("evaluate"):
        time.now = 1.0
        with clock.part("decode"):
            time.now = 4.0
        time.now = 4.5
    assert clock.wall_s == {"start-up": 0.0, "evaluate": 1.5, "decode": 3.0}
    assert clock.cpu_s == {"start-up": 0.0, "evaluate": 0.75, "decode": 1.5}


def test_what_belongs_to_no_part_is_start_up_until_the_steps_begin_and_other_then(time):
    clock = clock_of(time)
    time.now = 2.0
    clock.begin_steps()
    time.now = 5.0
    clock.charge()
    assert clock.wall_s == {"start-up": 2.0, "other": 3.0}


def test_nobody_gets_the_time_between_stop_and_go_on(time):
    clock = clock_of(time)
    clock.stop()
    time.now = 10.0
    with clock.part("forward"):
        time.now = 20.0
    clock.go_on()
    time.now = 21.0
    clock.charge()
    assert clock.wall_s == {"start-up": 1.0}


def test_a_part_that_raises_ends(time):
    clock = clock_of(time)

    def fail():
        time.now = 1.0
        raise RuntimeError

    with pytest.raises(RuntimeError), heard_by(clock.part):
        timed_as("forward")(fail)()
    time.now = 3.0
    clock.charge()
    assert clock.wall_s == {"start-up": 2.0, "forward": 1.0}


def test_the_time_that_a_device_takes_to_settle_is_that_of_the_part_which_made_it_busy(time):
    def settle():
        time.now += 1.0

    clock = clock_of(time, settle)
    with clock.part("forward"):
        pass
    assert clock.wall_s == {"start-up": 1.0, "forward": 1.0}


def test_a_function_says_its_part_to_who_listens_and_to_nobody_else(time):
    clock = clock_of(time)

    @timed_as("verify")
    def judged(answer, *, seconds):
        """Says what it is."""
        time.now += seconds
        return answer

    assert judged("a", seconds=1.0) == "a"
    with heard_by(clock.part):
        assert judged("b", seconds=2.0) == "b"
    judged("c", seconds=4.0)
    assert clock.wall_s["verify"] == 2.0
    assert judged.__doc__ == "Says what it is."
