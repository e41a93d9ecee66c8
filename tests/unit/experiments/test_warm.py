"""Warm stages: what they carry exactly, what they change, and what they refuse."""

import math
from collections import Counter
from pathlib import Path

import pytest
import torch

from experiments.batches import DataOrder, encode_answers, encode_prompts
from experiments.losses import sft_loss
from experiments.models.decoder import Decoder
from experiments.models.shared_prompt import completion_logits
from experiments.stages import grpo, session, sft
from experiments.tasks import CharTokenizer, load_task
from orchestrator.schema.training import stage_config
from tests.unit.experiments.children import run_in_child
from tests.unit.experiments.stage_runs import (
    ALGORITHMS,
    assert_same_weights,
    run_alone,
    run_stage,
    stage_data,
    told,
    warmed_up,
)

BOTH = pytest.mark.parametrize("algorithm", ["sft", "grpo"])
WARM_STEP = 7
LONGER = {name: {**config, "max_steps": 20} for name, config in ALGORITHMS.items()}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return warmed_up(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def parents(study):
    """The checkpoint at step `WARM_STEP` of a run of each algorithm."""
    folder, problems, parent = study
    checkpoints = {}
    for name, config in ALGORITHMS.items():
        options = {"parent": parent, "name": f"parent-{name}", "stop_at": WARM_STEP + 1}
        run_stage(folder, stage_data(problems, config), **options)
        checkpoints[name] = folder / f"parent-{name}" / "checkpoints" / f"step-{WARM_STEP}"
    return checkpoints


def uninterrupted(study, name, data):
    folder, _, parent = study
    return run_stage(folder, data, parent=parent, name=name)[0]


@BOTH
def test_a_longer_warm_clone_equals_an_uninterrupted_run_bit_for_bit(study, parents, algorithm):
    folder, problems, parent = study
    data = stage_data(problems, LONGER[algorithm])
    expected = uninterrupted(study, f"long-{algorithm}", data)
    clone = run_stage(folder, data, parent=parent, warm=parents[algorithm], name=f"clone-{algorithm}")[0]
    assert_same_weights(expected, clone)
    assert clone.reports == [report for report in expected.reports if report[0] > WARM_STEP]
    assert clone.outcome.metrics["tokens_seen"] == expected.outcome.metrics["tokens_seen"]


@BOTH
def test_an_extended_stage_goes_on_from_its_end_bit_for_bit(study, algorithm):
    """Twelve steps are no multiple of the reports' ten: what the end cut off is in the checkpoint."""
    folder, problems, parent = study
    name = f"short-{algorithm}"
    short = uninterrupted(study, name, stage_data(problems, ALGORITHMS[algorithm]))
    assert short.saves[-1] == 12
    data = stage_data(problems, LONGER[algorithm])
    expected = uninterrupted(study, f"whole-{algorithm}", data)
    last = folder / name / "checkpoints" / "step-12"
    extended = run_stage(folder, data, parent=parent, warm=last, name=f"extended-{algorithm}")[0]
    assert_same_weights(expected, extended)
    assert extended.reports == [report for report in expected.reports if report[0] > 12]


def test_a_finished_stage_that_is_run_again_finishes_at_once_with_the_same_output(study):
    folder, problems, parent = study
    data = stage_data(problems, ALGORITHMS["sft"])
    first = uninterrupted(study, "twice", data)
    again = run_stage(folder, data, parent=parent, name="twice")[0]
    assert_same_weights(first, again)
    assert told(first, again) == first.reports


def test_a_warm_stage_that_was_interrupted_goes_on_from_its_own_checkpoint(study, parents):
    folder, problems, parent = study
    data = stage_data(problems, LONGER["sft"])
    expected = uninterrupted(study, "never-interrupted", data)
    options = {"parent": parent, "warm": parents["sft"], "name": "warm-twice"}
    first = run_stage(folder, data, stop_at=4, **options)[0]
    assert first.saves == [WARM_STEP + 3]
    second = run_stage(folder, data, **options)[0]
    assert_same_weights(expected, second)
    assert told(first, second) == [report for report in expected.reports if report[0] > WARM_STEP]


CHANGED = {"lr": 1e-3, "weight_decay": 0.3, "beta1": 0.5, "beta2": 0.9, "eps": 1e-3}


def _continue_in_plain_torch(start, data, checkpoint_step, steps):
    """AdamW by its formulas (arXiv:1711.05101) on the moments of the checkpoint, gradients from torch alone."""
    config, tokenizer, device = stage_config(data), CharTokenizer(), torch.device("cpu")
    (file,) = (start / "engine").glob("mp_rank_00_model_states.pt")
    state = torch.load(file, weights_only=False)
    decoder = Decoder(config.model, tokenizer.vocab_size, torch.Generator())
    decoder.load_state_dict(state["module"])
    moments = state["optimizer"]["state"]
    examples = load_task(config.task, Path(start.parents[2], "cache")).supervised
    order, size = DataOrder(len(examples), config.seed), data["algorithm"]["batch_size"]
    parameters = list(decoder.parameters())
    m = [moments[i]["exp_avg"].clone() for i in range(len(parameters))]
    v = [moments[i]["exp_avg_sq"].clone() for i in range(len(parameters))]
    o, position = config.optimizer, checkpoint_step * ALGORITHMS["sft"]["batch_size"]
    for t in range(checkpoint_step + 1, steps + 1):
        batch = [examples[i] for i in order[position : position + size]]
        position += size
        prompts = encode_prompts([e.prompt for e in batch], tokenizer, device)
        answers = encode_answers([e.answer for e in batch], tokenizer, device)
        logits = completion_logits(decoder, prompts.tokens, answers.tokens, prompts.padding)
        loss = sft_loss(logits, answers.tokens, answers.mask, int(answers.mask.sum()))
        gradients = torch.autograd.grad(loss, parameters)
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
        limit = data["deepspeed"].get("gradient_clipping", 1.0)
        scale = min(1.0, limit / (norm + 1e-6))
        with torch.no_grad():
            for i, (p, g) in enumerate(zip(parameters, gradients, strict=True)):
                g = g * scale
                m[i] = o.beta1 * m[i] + (1 - o.beta1) * g
                v[i] = o.beta2 * v[i] + (1 - o.beta2) * g * g
                p.mul_(1 - o.lr * o.weight_decay)
                p.sub_(o.lr * (m[i] / (1 - o.beta1**t)) / ((v[i] / (1 - o.beta2**t)).sqrt() + o.eps))
    return dict(decoder.state_dict())


CHANGES = {
    "lr": {"lr": CHANGED["lr"]},
    "weight-decay": {"weight_decay": CHANGED["weight_decay"]},
    "all-of-adam": CHANGED,
    "batch-size": {},
    "clipping": {},
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_hyperparameters_take_effect_from_the_first_step_on(study, parents, change):
    folder, problems, parent = study
    algorithm = {**ALGORITHMS["sft"], **({"batch_size": 12} if change == "batch-size" else {})}
    deepspeed = {"gradient_clipping": 0.05} if change == "clipping" else {}
    data = stage_data(problems, algorithm, deepspeed=deepspeed, **CHANGES[change])
    clone = run_stage(folder, data, parent=parent, warm=parents["sft"], name=f"changed-{change}")[0]
    expected = run_in_child(_continue_in_plain_torch, parents["sft"], data, WARM_STEP, 12)
    for name, weight in expected.items():
        torch.testing.assert_close(clone.weights[name], weight, atol=1e-5, rtol=1e-4)


LATER = {"temperature": 0.7, "kl_weight": 0.5, "clip_high": 0.3, "updates_per_rollout": 2}
LATER_OPTIMIZER = {"lr": 1e-2, "weight_decay": 0.2}


def _run_that_switches(assignment, stop_at):
    """An uninterrupted run in which somebody turns the knobs at a step."""
    config = stage_config(assignment.stage.config)
    grpo.stage_config = session.stage_config = lambda data: config
    complete_step = session.Session.complete_step

    def complete_step_and_switch(self, tokens):
        complete_step(self, tokens)
        if self.progress.step == WARM_STEP:
            vars(config.algorithm).update(LATER)
            vars(config.optimizer).update(LATER_OPTIMIZER)
            for group in self.engine._engine.optimizer.param_groups:
                group["weight_decay"] = LATER_OPTIMIZER["weight_decay"]

    session.Session.complete_step = complete_step_and_switch
    return run_alone(assignment, stop_at)


@pytest.mark.parametrize("zero", [0, 1, 3])
def test_a_changed_grpo_clone_equals_a_run_whose_knobs_were_turned(study, zero):
    """The KL's reference is the policy that the parent began with."""
    folder, problems, parent = study
    algorithm, deepspeed = {**ALGORITHMS["grpo"], "kl_weight": 0.05}, {"zero_optimization": {"stage": zero}}
    before = stage_data(problems, algorithm, deepspeed=deepspeed)
    options = {"parent": parent, "function": _run_that_switches, "name": f"switched-{zero}"}
    expected = run_stage(folder, before, **options)[0]
    run_stage(folder, before, parent=parent, stop_at=WARM_STEP + 1, name=f"before-{zero}")
    start = folder / f"before-{zero}" / "checkpoints" / f"step-{WARM_STEP}"
    after = stage_data(problems, {**algorithm, **LATER}, deepspeed=deepspeed, **LATER_OPTIMIZER)
    clone = run_stage(folder, after, parent=parent, warm=start, name=f"after-{zero}")[0]
    assert_same_weights(expected, clone)
    assert clone.reports == [report for report in expected.reports if report[0] > WARM_STEP]


def _loosened(study, zero):
    """A clone, under a ZeRO stage, of a run whose gradients were clipped away; the clone's are not."""
    folder, problems, parent = study
    zero_stage = {"zero_optimization": {"stage": zero}}
    tight = stage_data(problems, ALGORITHMS["sft"], deepspeed={**zero_stage, "gradient_clipping": 1e-6})
    run_stage(folder, tight, parent=parent, stop_at=3, name=f"tight-{zero}")
    start = folder / f"tight-{zero}" / "checkpoints" / "step-2"
    loose = stage_data(problems, ALGORITHMS["sft"], deepspeed={**zero_stage, "gradient_clipping": 10.0})
    return run_stage(folder, loose, parent=parent, warm=start, name=f"loose-{zero}")[0]


@pytest.fixture(scope="module")
def loosened(study):
    return _loosened(study, 0)


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_changed_clipping_takes_effect_under_zero(study, loosened, zero):
    """DeepSpeed's own optimizers restore the old bound with their state."""
    for name, weight in _loosened(study, zero).weights.items():
        torch.testing.assert_close(weight, loosened.weights[name], atol=2e-4, rtol=1e-3)


def _run_and_note_prompts(assignment, stop_at):
    prompts = []
    encode = sft.encode_prompts

    def encode_and_note(texts, *arguments):
        prompts.extend(texts)
        return encode(texts, *arguments)

    sft.encode_prompts = encode_and_note
    run_alone(assignment, stop_at)
    return prompts


def test_the_data_goes_on_at_the_cursor_whatever_the_batch_size(study):
    """56 of 60 examples before the clone, 64 after: two epochs, in which every example is drawn twice."""
    folder, problems, parent = study
    options = {"parent": parent, "function": _run_and_note_prompts}
    before = stage_data(problems, ALGORITHMS["sft"])
    first = run_stage(folder, before, stop_at=WARM_STEP + 1, name="cursor-parent", **options)[0]
    start = folder / "cursor-parent" / "checkpoints" / f"step-{WARM_STEP}"
    after = stage_data(problems, {**ALGORITHMS["sft"], "batch_size": 4, "max_steps": WARM_STEP + 16})
    second = run_stage(folder, after, warm=start, name="cursor-clone", **options)[0]
    assert (len(first), len(second)) == (56, 64)
    assert set(Counter(first + second).values()) == {2}


def test_a_stage_that_ended_early_and_is_extended_goes_on_training(study):
    folder, problems, parent = study
    ended = stage_data(problems, {**ALGORITHMS["sft"], "stop_at_accuracy": 0.0})
    assert run_stage(folder, ended, parent=parent, name="ended-early")[0].outcome.metrics["steps"] == 0
    start = folder / "ended-early" / "checkpoints" / "step-0"
    longer = stage_data(problems, {**LONGER["sft"], "stop_at_accuracy": 0.0})
    extended = run_stage(folder, longer, parent=parent, warm=start, name="went-on")[0]
    assert extended.outcome.metrics["steps"] == 6  # the next evaluation ends it again


def test_a_budget_behind_the_checkpoint_ends_at_once(study, parents):
    folder, problems, parent = study
    data = stage_data(problems, {**ALGORITHMS["sft"], "max_steps": WARM_STEP - 2})
    clone = run_stage(folder, data, parent=parent, warm=parents["sft"], name="behind")[0]
    assert clone.outcome.finished
    assert {(step, done) for step, _, done in clone.reports} == {(WARM_STEP, 1.0)}


def _refusal(study, start, data, **options):
    folder, _, _ = study
    with pytest.raises(ValueError) as refused:
        run_stage(folder, data, warm=start, name="refused", **options)
    return str(refused.value)


def test_another_model_is_refused(study, parents):
    _, problems, _ = study
    data = stage_data(problems, ALGORITHMS["sft"])
    data["model"]["d_ff"] = 48
    message = _refusal(study, parents["sft"], data)
    assert message.startswith("model={")
    assert f"the checkpoint step-{WARM_STEP} was written with" in message


def test_another_algorithm_is_refused(study, parents):
    _, problems, parent = study
    data = stage_data(problems, ALGORITHMS["grpo"])
    assert _refusal(study, parents["sft"], data, parent=parent).startswith("algorithm.name=grpo: the checkpoint ")


def test_another_zero_stage_is_refused(study, parents):
    _, problems, parent = study
    data = stage_data(problems, ALGORITHMS["sft"], deepspeed={"zero_optimization": {"stage": 2}})
    assert _refusal(study, parents["sft"], data, parent=parent).startswith("deepspeed.zero_optimization.stage=2: ")


def test_a_gang_of_another_size_is_refused(study, parents):
    _, problems, parent = study
    message = _refusal(study, parents["sft"], stage_data(problems, ALGORITHMS["sft"]), parent=parent, world_size=2)
    assert "was written by 1 processes, this gang has 2" in message


def test_a_kept_checkpoint_that_is_gone_is_said_so(study):
    folder, problems, parent = study
    gone = folder / "gone" / "step-3"
    with pytest.raises(FileNotFoundError, match="step-3 holds no checkpoint"):
        run_stage(folder, stage_data(problems, ALGORITHMS["sft"]), parent=parent, warm=gone, name="nothing-kept")


def test_a_warm_gang_equals_an_uninterrupted_one(study):
    folder, problems, parent = study
    data = stage_data(problems, LONGER["grpo"], deepspeed={"zero_optimization": {"stage": 1}})
    expected = run_stage(folder, data, parent=parent, world_size=2, name="gang-whole")[0]
    run_stage(folder, data, parent=parent, world_size=2, stop_at=WARM_STEP + 1, name="gang-parent")
    start = folder / "gang-parent" / "checkpoints" / f"step-{WARM_STEP}"
    clone = run_stage(folder, data, parent=parent, world_size=2, warm=start, name="gang-clone")
    assert_same_weights(expected, clone[0])
    assert clone[1].saves == []
