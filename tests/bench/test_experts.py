"""The benchmark of experts runs, and computes in each way what it says."""

import pytest
import torch

from experiments.models import routed
from tests.bench import experts
from tests.bench.experts import WAYS, computing, config_of, in_turns, main, works

TINY = (16, 8, 6)


def test_all_ways_of_all_work_are_in_the_table(monkeypatch, capsys):
    monkeypatch.setattr(experts, "SHAPES", [TINY])
    monkeypatch.setattr("sys.argv", ["experts", "--repeats", "1", "--width", "2"])
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    main()
    _, _, *rows = capsys.readouterr().out.splitlines()
    assert [row.split(" | ")[1] for row in rows] == list(works(config_of(*TINY), 2))
    assert all(row.count(" ms") == len(WAYS) for row in rows)


@pytest.mark.parametrize(
    "what", ["layer, 64 rows", "layer, 64 rows, learned", "decode, batch 64", "step", "step, 2 members"]
)
def test_chosen_experts_are_computed_where_they_are_to_be(monkeypatch, what):
    sorted_by_expert = []
    original = routed.RoutedExperts.apply
    monkeypatch.setattr(routed.RoutedExperts, "apply", lambda *some: sorted_by_expert.append(1) or original(*some))
    work = works(config_of(*TINY), 2)[what]()
    for chosen_alone in (False, True):
        with computing(chosen_alone=chosen_alone):
            work()
        assert bool(sorted_by_expert) == chosen_alone
    assert set(in_turns(work, 1)) == set(WAYS)
