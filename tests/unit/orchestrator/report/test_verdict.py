from dataclasses import replace

from orchestrator.report.verdict import DRAWN_NOTE, verdict_of
from orchestrator.schema import EarlyStop, Fate, TrialState
from tests.unit.orchestrator.report.studies import a_trial, seeds


def test_an_algorithm_that_is_better_on_every_seed_wins_and_it_is_settled() -> None:
    verdict = verdict_of(seeds("sft", [0.45, 0.50, 0.47]) + seeds("grpo", [0.62, 0.66, 0.65], first=3))
    assert (verdict["winner"], verdict["settled"]) == ("grpo", True)
    assert verdict["comparison"]["method"] == "paired-by-seed"
    assert verdict["text"].startswith("GRPO wins: +17.0 points over SFT on held-out test problems")
    assert "do not overlap" in verdict["text"]


def test_if_sft_wins_that_is_what_it_says() -> None:
    verdict = verdict_of(seeds("sft", [0.7, 0.72, 0.71]) + seeds("grpo", [0.5, 0.53, 0.52], first=3))
    assert verdict["winner"] == "sft"
    assert "SFT wins" in verdict["text"]


def test_a_lead_within_the_noise_is_ahead_but_not_settled() -> None:
    verdict = verdict_of(seeds("sft", [0.4, 0.7, 0.5]) + seeds("grpo", [0.7, 0.5, 0.6], first=3))
    assert (verdict["winner"], verdict["settled"]) == ("grpo", False)
    assert "GRPO is ahead of SFT" in verdict["text"]
    assert "more seeds are needed" in verdict["text"]


def test_equal_results_have_no_winner() -> None:
    verdict = verdict_of(seeds("sft", [0.5, 0.5]) + seeds("grpo", [0.5, 0.5], first=2))
    assert verdict["winner"] is None
    assert "level" in verdict["text"]


def test_winners_are_chosen_by_dev_accuracy_never_by_the_reported_number() -> None:
    lucky_on_test = a_trial(0, "sft", 0, 0.9, lr=1e-3, dev=0.3)
    best_on_dev = a_trial(1, "sft", 0, 0.6, lr=3e-3, dev=0.7)
    entry = verdict_of([lucky_on_test, best_on_dev])["algorithms"]["sft"]
    assert entry["best_trial"]["number"] == 1
    assert entry["best_trial"]["accuracy"] == 0.6
    assert entry["best_setting"]["overrides"] == ["optimizer.lr=0.003"]


def test_the_mean_is_over_the_seeds_of_one_setting() -> None:
    trials = seeds("sft", [0.4, 0.6], lr=1e-3) + seeds("sft", [0.2, 0.2], first=2, lr=1e-1)
    setting = verdict_of(trials)["algorithms"]["sft"]["best_setting"]
    assert setting["seeds"] == [0, 1]
    assert setting["accuracy_mean"] == 0.5
    assert setting["gain_mean"] == 0.25
    assert setting["gain_per_gpu_second"] == 0.025
    assert 0.0 <= setting["accuracy_low"] < 0.4 < 0.6 < setting["accuracy_high"] <= 1.0


def test_one_seed_each_is_compared_by_newcombe_and_says_what_that_leaves_out() -> None:
    verdict = verdict_of([a_trial(0, "sft", 0, 0.4), a_trial(1, "grpo", 0, 0.7)])
    assert verdict["comparison"]["method"] == "newcombe"
    assert verdict["settled"]
    assert "another seed may differ" in verdict["text"]


def test_a_trial_worse_than_its_start_is_said_to_be() -> None:
    assert "points BELOW its start" in verdict_of([a_trial(0, "grpo", 0, 0.2, start=0.25)])["text"]


def test_pruned_and_failed_trials_are_in_no_mean() -> None:
    pruned = a_trial(1, "sft", 1, 0.1, state=TrialState.PRUNED, stage_index=1)
    failed = a_trial(2, "sft", 2, 0.1, state=TrialState.FAILED, error="boom")
    setting = verdict_of([a_trial(0, "sft", 0, 0.5), pruned, failed])["algorithms"]["sft"]["best_setting"]
    assert setting["seeds"] == [0]


def test_nothing_decided_says_so() -> None:
    verdict = verdict_of([replace(a_trial(0, "sft", 0, 0.5), state=TrialState.RUNNING, metrics={})])
    assert (verdict["winner"], verdict["settled"], verdict["comparison"]) == (None, False, None)
    assert verdict["text"].startswith("Nothing is decided")
    assert verdict["notes"] == ["SFT: no trial has trained to its end."]


def test_one_algorithm_alone_has_nothing_to_beat() -> None:
    verdict = verdict_of(seeds("sft", [0.5, 0.6]))
    assert not verdict["settled"]
    assert verdict["text"].startswith("Only SFT has results")
    assert verdict["notes"] == []


def test_an_algorithm_of_which_only_drawn_trials_were_finished_is_said_to_be() -> None:
    """Its best settings may be among those that were stopped and not drawn."""
    stop = EarlyStop(policy="median", rung=0, confidence=0.95, gpu_seconds=4.0, why="behind", drawn=True)
    finished = a_trial(1, "dapo", 0, 0.5, stopped=replace(stop, fate=Fate.FINISHING))
    pruned = a_trial(2, "dapo", 1, 0.5, state=TrialState.PRUNED, stopped=replace(stop, drawn=False))
    survivor = a_trial(3, "dapo", 2, 0.5)
    best = a_trial(0, "grpo", 0, 0.8)
    assert verdict_of([best, finished, pruned])["notes"] == [DRAWN_NOTE.format(name="DAPO")]
    assert verdict_of([best, finished, pruned, survivor])["notes"] == []


def test_grpo_beside_sft_brings_the_note_on_its_prompts() -> None:
    (note,) = verdict_of([a_trial(0, "sft", 0, 0.5), a_trial(1, "grpo", 0, 0.5)])["notes"]
    assert note.startswith("GRPO trained on prompts beyond the supervised set too")


def test_results_without_intervals_are_compared_without_a_claim() -> None:
    bare = [
        a_trial(n, name, 0, value, metrics={"accuracy": value})
        for n, (name, value) in enumerate([("sft", 0.4), ("grpo", 0.6)])
    ]
    verdict = verdict_of(bare)
    assert (verdict["winner"], verdict["settled"]) == ("grpo", False)
    assert "no intervals were measured" in verdict["text"]
