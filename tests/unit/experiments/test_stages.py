"""Stages end to end: what they report, resume, stop, and how a gang compares with one process."""

import json
import pickle
import time
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch

from experiments.batches import encode_prompts
from experiments.checkpoint import progress_of
from experiments.evaluate import FOLDS
from experiments.models.decoder import load_decoder
from experiments.rollout import generate
from experiments.tasks import CharTokenizer, load_task
from orchestrator.schema import DeviceKind
from orchestrator.schema.training import stage_config
from tests.unit.experiments.children import run_in_child
from tests.unit.experiments.stage_runs import (
    ALGORITHMS,
    MEASURED,
    RecordingChannel,
    assert_close_weights,
    assert_same_weights,
    run_alone,
    run_on,
    run_stage,
    stage_data,
    told,
    warmed_up,
    whole_runs,
)

SHARED_BYTES = 2**28
"""Less than torch and DeepSpeed take, which a child shares with the process it was forked from."""
ROUNDING = {"atol": 2e-4, "rtol": 1e-3}
BOTH = pytest.mark.parametrize("algorithm", ["sft", "grpo"])


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return warmed_up(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def whole(study):
    """Each algorithm's uninterrupted run in one process."""
    return whole_runs(study, ALGORITHMS)


@BOTH
def test_an_outcome_has_the_final_metrics(whole, algorithm):
    metrics = whole[algorithm].outcome.metrics
    assert metrics["accuracy_low"] <= metrics["accuracy"] <= metrics["accuracy_high"]
    assert {"dev_accuracy", "start_accuracy", "tokens_per_answer"} <= metrics.keys()
    of_any_decoder = MEASURED - {"speculative_speedup"}
    assert {"kv_bytes_per_token", "weight_bytes", "params_total", "params_active"} | of_any_decoder <= metrics.keys()
    assert metrics["steps"] == 12
    assert metrics["tokens_seen"] > 0


@BOTH
def test_an_outcome_says_what_it_cost(whole, algorithm):
    outcome = whole[algorithm].outcome
    assert outcome.finished
    assert outcome.busy_s > 0
    assert 2**20 < outcome.peak_memory_bytes < SHARED_BYTES


def _greedy_accuracy(decoder, problems):
    tokenizer, right = CharTokenizer(), 0
    for problem in problems:
        tokens = generate(decoder, encode_prompts([problem.prompt], tokenizer, decoder.device), tokenizer, 3).tokens
        right += tokenizer.decode(tokens[0].tolist()) == problem.answer
    return right / len(problems)


def test_accuracy_is_that_of_the_test_split(tmp_path):
    """One answer is right for two problems of three, and a model learns soon to give no other."""
    problems = tmp_path / "problems.jsonl"
    lines = [json.dumps({"prompt": f"{n}=", "answer": "0" if n % 3 == 0 else "1"}) for n in range(140)]
    problems.write_text("\n".join(lines))
    data = stage_data(problems, {"name": "sft", "max_steps": 30, "batch_size": 16}, lr=1e-2)
    metrics = run_stage(tmp_path, data)[0].outcome.metrics
    task = load_task(stage_config(data).task, tmp_path / "cache")
    decoder = load_decoder(tmp_path / "run" / "output")
    assert metrics["accuracy"] == _greedy_accuracy(decoder, task.test)
    assert metrics["accuracy"] != _greedy_accuracy(decoder, task.dev) == metrics["dev_accuracy"]


SLOW_START_S = 2.0


def _run_after_a_slow_start(assignment, stop_at):
    from experiments.stages import session

    load_task = session.load_task

    def load_slowly(*arguments):
        time.sleep(SLOW_START_S)
        return load_task(*arguments)

    session.load_task = load_slowly
    return run_alone(assignment, stop_at)


def test_busy_time_leaves_out_the_start(study):
    folder, problems, parent = study
    data = stage_data(problems, ALGORITHMS["sft"])
    options = {"parent": parent, "name": "slow-start", "stop_at": 2, "function": _run_after_a_slow_start}
    assert 0 < run_stage(folder, data, **options)[0].outcome.busy_s < SLOW_START_S


@BOTH
def test_dev_accuracy_is_reported_at_the_first_every_and_the_last_step(whole, algorithm):
    assert [step for step, metrics, _ in whole[algorithm].reports if "eval/accuracy" in metrics] == [0, 6, 12]


@BOTH
def test_every_dev_accuracy_comes_with_its_folds(whole, algorithm):
    for _, metrics, _ in whole[algorithm].reports:
        folds = [value for name, value in metrics.items() if name.startswith("eval/fold/")]
        if "eval/accuracy" in metrics:
            assert sum(folds) / FOLDS == metrics["eval/accuracy"]
        else:
            assert folds == []


@BOTH
def test_the_last_report_says_that_all_is_done(whole, algorithm):
    assert whole[algorithm].reports[-1][2] == 1.0


def test_grpo_reports_its_series(whole):
    names = {name for _, metrics, _ in whole["grpo"].reports for name in metrics}
    expected = ("loss", "reward", "lr", "grad_norm", "clip_fraction", "groups_skipped", "tokens_per_answer")
    assert {f"train/{name}" for name in expected} <= names


def test_grpo_learns_from_some_groups_and_skips_others(whole):
    assert 0 < whole["grpo"].series("train/groups_skipped")[0] < 4


def test_grpo_with_a_kl_penalty_reports_the_kl(study):
    folder, problems, parent = study
    data = stage_data(problems, {**ALGORITHMS["grpo"], "kl_weight": 0.1, "updates_per_rollout": 2})
    result = run_stage(folder, data, parent=parent, name="kl")[0]
    assert result.series("train/kl")[-1] > 0


def test_the_output_is_a_decoder_that_loads(study, whole):
    folder, _, _ = study
    decoder = load_decoder(folder / "whole-sft" / "output")
    assert all(torch.equal(weight, whole["sft"].weights[name]) for name, weight in decoder.state_dict().items())


def test_the_progress_that_an_earlier_revision_wrote_is_read():
    progress = {"step": 3, "series": {"train/loss": [(0.5, 1.0)]}}
    assert progress_of({"progress": progress}) == progress_of({"progress": pickle.dumps(progress)}) == progress


@BOTH
def test_the_same_seed_gives_the_same_result(study, whole, algorithm):
    folder, problems, parent = study
    again = run_stage(folder, stage_data(problems, ALGORITHMS[algorithm]), parent=parent, name=f"again-{algorithm}")[0]
    assert_same_weights(whole[algorithm], again)
    assert again.reports == whole[algorithm].reports


@BOTH
def test_another_seed_gives_another_result(study, whole, algorithm):
    folder, problems, parent = study
    data = stage_data(problems, ALGORITHMS[algorithm], seed=1)
    other = run_stage(folder, data, parent=parent, name=f"other-{algorithm}")[0]
    assert any(not torch.equal(other.weights[name], weight) for name, weight in whole[algorithm].weights.items())


@BOTH
def test_a_stopped_stage_leaves_a_checkpoint_and_no_output(study, algorithm):
    folder, problems, parent = study
    name = f"stopped-{algorithm}"
    result = run_stage(folder, stage_data(problems, ALGORITHMS[algorithm]), parent=parent, stop_at=4, name=name)[0]
    assert not result.outcome.finished
    assert [path.name for path in (folder / name / "checkpoints").iterdir()] == ["step-3"]
    assert not (folder / name / "output").exists()


def test_a_stage_stopped_twice_at_one_step_keeps_its_checkpoint(study):
    folder, problems, parent = study
    data = stage_data(problems, ALGORITHMS["sft"])
    run_stage(folder, data, parent=parent, stop_at=4, name="stopped-twice")
    run_stage(folder, data, parent=parent, stop_at=1, name="stopped-twice")
    assert [path.name for path in (folder / "stopped-twice" / "checkpoints").iterdir()] == ["step-3"]


@BOTH
@pytest.mark.parametrize("stage", [0, 1, 3], ids=lambda stage: f"zero-{stage}")
def test_a_resumed_stage_equals_an_uninterrupted_one_bit_for_bit(study, whole, algorithm, stage):
    folder, problems, parent = study
    data = stage_data(problems, ALGORITHMS[algorithm], deepspeed={"zero_optimization": {"stage": stage}})
    expected = whole[algorithm]
    if stage > 0:
        expected = run_stage(folder, data, parent=parent, name=f"whole-{algorithm}-{stage}")[0]
    name = f"resumed-{algorithm}-{stage}"
    first = run_stage(folder, data, parent=parent, stop_at=8, name=name)[0]
    second = run_stage(folder, data, parent=parent, name=name)[0]
    assert_same_weights(expected, second)
    assert told(first, second) == expected.reports
    unmeasured = dict.fromkeys(MEASURED, 0.0)
    assert {**second.outcome.metrics, **unmeasured} == {**expected.outcome.metrics, **unmeasured}


class FatalChannel(RecordingChannel):
    """Ends the stage by an exception at its `stop_at`-th question."""

    def stop_requested(self):
        if super().stop_requested():
            raise RuntimeError("the node died")
        return False


def _die_with_a_checkpoint_of_every_step(assignment, stop_at):
    from experiments.stages import program

    program.CHECKPOINT_LEAST_S = program.CHECKPOINT_COSTS = 0.0
    return run_on(assignment, FatalChannel(stop_at))


@BOTH
def test_a_stage_that_died_continues_from_its_last_periodic_checkpoint(study, whole, algorithm):
    folder, problems, parent = study
    data, name = stage_data(problems, ALGORITHMS[algorithm]), f"died-{algorithm}"
    with pytest.raises(RuntimeError, match="the node died"):
        run_stage(folder, data, parent=parent, name=name, stop_at=8, function=_die_with_a_checkpoint_of_every_step)
    assert [path.name for path in (folder / name / "checkpoints").iterdir()] == ["step-6"]
    again = run_stage(folder, data, parent=parent, name=name)[0]
    assert_same_weights(whole[algorithm], again)
    assert again.reports == whole[algorithm].reports  # those before the checkpoint said again


SAVE_S, STEP_S, COSTS = 0.05, 0.02, 6.0


@dataclass
class TimingChannel(RecordingChannel):
    """Remembers when it was told of checkpoints."""

    times: list[float] = field(default_factory=list)

    def saved(self, step):
        self.times.append(time.perf_counter())


def _train_with_slow_checkpoints(assignment, stop_at):
    from experiments.stages import program, session

    program.CHECKPOINT_LEAST_S, program.CHECKPOINT_COSTS = 0.0, COSTS
    save_checkpoint, complete_step = session.save_checkpoint, session.Session.complete_step

    def save_slowly(*arguments):
        time.sleep(SAVE_S)
        save_checkpoint(*arguments)

    def complete_slowly(self, tokens):
        time.sleep(STEP_S)
        complete_step(self, tokens)

    session.save_checkpoint, session.Session.complete_step = save_slowly, complete_slowly
    channel = TimingChannel(stop_at)
    run_on(assignment, channel)
    return channel.times


def test_the_time_between_periodic_checkpoints_follows_their_cost(study):
    folder, problems, parent = study
    data = stage_data(problems, {**ALGORITHMS["sft"], "max_steps": 60})
    options = {"parent": parent, "name": "adaptive", "function": _train_with_slow_checkpoints}
    times = run_stage(folder, data, **options)[0][:-1]  # the last one is the end's
    assert len(times) >= 3
    assert min(b - a for a, b in pairwise(times)) >= COSTS * SAVE_S


RESUMED = {
    "kl-and-two-updates": ({"kl_weight": 0.1, "updates_per_rollout": 2, "temperature": 0.8}, {}),
    "bf16-zero-0": ({}, {"bf16": {"enabled": True}}),
    "bf16-zero-1": ({}, {"bf16": {"enabled": True}, "zero_optimization": {"stage": 1}}),
    "bf16-zero-3": ({}, {"bf16": {"enabled": True}, "zero_optimization": {"stage": 3}}),
    "offload": ({}, {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}),
    "accumulation": ({}, {"gradient_accumulation_steps": 2}),
}


@pytest.mark.parametrize("case", RESUMED)
def test_grpo_resumes_bit_for_bit_however_it_is_set(study, case):
    """The KL's reference is the policy that the stage began with, not the one that it resumes from."""
    folder, problems, parent = study
    options, deepspeed = RESUMED[case]
    data = stage_data(problems, {**ALGORITHMS["grpo"], **options}, deepspeed=deepspeed)
    expected = run_stage(folder, data, parent=parent, name=f"whole-{case}")[0]
    first = run_stage(folder, data, parent=parent, stop_at=6, name=f"resumed-{case}")[0]
    second = run_stage(folder, data, parent=parent, name=f"resumed-{case}")[0]
    assert_same_weights(expected, second)
    assert told(first, second) == expected.reports


@BOTH
@pytest.mark.parametrize("stage", [0, 3], ids=lambda stage: f"zero-{stage}")
def test_two_processes_equal_one(study, whole, algorithm, stage):
    folder, problems, parent = study
    data = stage_data(problems, ALGORITHMS[algorithm], deepspeed={"zero_optimization": {"stage": stage}})
    gang = run_stage(folder, data, parent=parent, world_size=2, name=f"gang-{algorithm}-{stage}")
    assert_close_weights(whole[algorithm], gang[0], **ROUNDING)
    assert gang[1].reports == []
    for name in ("train/loss", "train/grad_norm", "eval/accuracy"):
        assert gang[0].series(name) == pytest.approx(whole[algorithm].series(name), rel=1e-3, abs=1e-5)
    assert gang[0].outcome.metrics["tokens_seen"] == whole[algorithm].outcome.metrics["tokens_seen"]


def test_a_resumed_gang_equals_an_uninterrupted_one_and_one_process(study, whole):
    folder, problems, parent = study
    data = stage_data(problems, ALGORITHMS["grpo"], deepspeed={"zero_optimization": {"stage": 2}})
    expected = run_stage(folder, data, parent=parent, world_size=2, name="gang-whole")[0]
    run_stage(folder, data, parent=parent, world_size=2, stop_at=8, name="gang-resumed")
    (folder / "gang-resumed-rendezvous").unlink(missing_ok=True)
    assert_same_weights(expected, run_stage(folder, data, parent=parent, world_size=2, name="gang-resumed")[0])
    assert_close_weights(whole["grpo"], expected, **ROUNDING)


@BOTH
def test_gradient_accumulation_equals_one_batch(study, whole, algorithm):
    folder, problems, parent = study
    data = stage_data(problems, ALGORITHMS[algorithm], deepspeed={"gradient_accumulation_steps": 2})
    accumulated = run_stage(folder, data, parent=parent, name=f"accumulated-{algorithm}")[0]
    assert_close_weights(whole[algorithm], accumulated, **ROUNDING)


@BOTH
def test_a_gang_that_accumulates_equals_one_process_with_one_batch(study, whole, algorithm):
    folder, problems, parent = study
    settings = {"gradient_accumulation_steps": 2, "zero_optimization": {"stage": 1}}
    data = stage_data(problems, ALGORITHMS[algorithm], deepspeed=settings)
    gang = run_stage(folder, data, parent=parent, world_size=2, name=f"gang-accumulated-{algorithm}")[0]
    assert_close_weights(whole[algorithm], gang, **ROUNDING)
    assert gang.series("train/loss") == pytest.approx(whole[algorithm].series("train/loss"), rel=1e-3, abs=1e-5)


def test_sft_ends_early_once_dev_accuracy_is_reached(study):
    folder, problems, parent = study
    data = stage_data(problems, {**ALGORITHMS["sft"], "stop_at_accuracy": 0.0})
    result = run_stage(folder, data, parent=parent, name="early")[0]
    assert result.outcome.finished
    assert result.outcome.metrics["steps"] == 0
    assert result.saves == [0]


def _two_stages(folder, problems, parent):
    from tests.unit.experiments import stage_runs

    stage_runs.run_gang = lambda function, calls: [function(*args) for args in calls]
    return [
        stage_runs.run_stage(folder, stage_data(problems, algorithm), parent=parent, name=f"same-process-{name}")[0]
        for name, algorithm in ALGORITHMS.items()
    ]


def test_one_process_can_run_several_stages(study):
    folder, problems, parent = study
    results = run_in_child(_two_stages, folder, problems, parent)
    assert [result.outcome.finished for result in results] == [True] * len(ALGORITHMS)


def test_a_gang_of_more_processes_than_items_is_refused(study):
    folder, problems, parent = study
    data = stage_data(problems, {**ALGORITHMS["sft"], "batch_size": 1})
    with pytest.raises(ValueError, match="1 items per step cannot be shared by 2 processes"):
        run_stage(folder, data, parent=parent, world_size=2, name="refused")


def test_a_checkpoint_of_a_gang_of_another_size_is_refused(study):
    folder, problems, parent = study
    data = stage_data(problems, ALGORITHMS["sft"])
    run_stage(folder, data, parent=parent, stop_at=2, name="other-size")
    with pytest.raises(ValueError, match="was written by 1 processes, this gang has 2"):
        run_stage(folder, data, parent=parent, world_size=2, name="other-size")


@pytest.mark.gpu
@BOTH
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_a_stage_trains_on_cuda(study, algorithm, bf16):
    folder, problems, parent = study
    data = stage_data(problems, ALGORITHMS[algorithm], deepspeed={"bf16": {"enabled": bf16}})
    name = f"cuda-{algorithm}-{bf16}"
    result = run_stage(folder, data, parent=parent, device_kind=DeviceKind.CUDA, name=name)[0]
    assert result.outcome.metrics["steps"] == 12
    assert result.outcome.peak_memory_bytes > 0


@BOTH
def test_what_it_takes_is_told_early_and_at_the_end(whole, algorithm):
    measurements = whole[algorithm].measurements
    assert len(measurements) >= 2  # after the first steps, and with the outcome
    memory, host, utilisation = measurements[-1]
    assert memory == host == whole[algorithm].outcome.peak_memory_bytes
    assert 0.0 < utilisation <= 1.0
    # What the first steps took is nearly all that there was to take.
    assert measurements[0][0] > 0.8 * memory
