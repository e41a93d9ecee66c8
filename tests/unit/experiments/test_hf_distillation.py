"""A Hugging Face student of a Hugging Face teacher: another model, with a tokenizer of its own."""

import json

import pytest
import torch

from experiments.building import config_of_teacher, initial_model
from experiments.samples import read_samples
from experiments.tasks.tokenizer import hf_tokenizer_of
from orchestrator.schema.training import stage_config
from tests.hf_models import CHAT_TEMPLATE, taught, write_model, write_tokenizer
from tests.unit.experiments.stage_runs import run_stage, write_problems
from tests.unit.experiments.test_hf_stages import hf_data

CPU = torch.device("cpu")
SAMPLING = {"prompts": 40, "per_prompt": 8, "keep": 2, "batch_size": 16}
DISTILL = {"name": "distill", "max_steps": 4, "batch_size": 8, "sampling": SAMPLING, "fresh": True}
ONE_STEP = {"name": "sft", "max_steps": 1, "batch_size": 8}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """(a teacher that is right now and then, a smaller student whose tokenizer has a chat template, problems)"""
    root = tmp_path_factory.mktemp("distillation")
    problems = write_problems(root)
    teacher, student = root / "teacher", root / "student"
    write_model(teacher)
    write_tokenizer(teacher)
    taught(teacher, problems)
    write_model(student, "qwen2", hidden_size=8, seed=1)
    write_tokenizer(student, chat_template=CHAT_TEMPLATE)
    return teacher, student, problems


@pytest.mark.parametrize("teachers", ["lora", pytest.param("full", marks=pytest.mark.slow)])
@pytest.mark.parametrize("students", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_a_smaller_student_learns_what_another_model_had_right(models, tmp_path, teachers, students):
    teacher, student, problems = models
    taught_data = hf_data((teacher, problems), ONE_STEP, rank=2, lr=1e-6, model={"training": teachers})
    run_stage(tmp_path, taught_data, name="teacher")
    data = hf_data((student, problems), DISTILL, rank=4, lr=1e-2, model={"training": students})
    (result,) = run_stage(tmp_path, data, parent=tmp_path / "teacher" / "output", name="student")
    assert result.outcome.metrics["examples"] > 0
    right = [sample for sample in read_samples(tmp_path / "student" / "output") if sample.accuracy]
    assert all(eval(sample.prompt.removesuffix("=")) == int(sample.completion) for sample in right)
    # Of the student's size, begun with its own weights.
    if students == "lora":
        config = json.loads((tmp_path / "student" / "output" / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(student)
    else:
        before = initial_model(stage_config(data), "", CPU).state_dict()
        after = {f"model.{name}": weight for name, weight in result.weights.items()}
        moved = [float((after[name] - before[name]).abs().max()) for name in after]
        assert 0 < max(moved) < 0.1


@pytest.mark.parametrize("training", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_a_teacher_is_read_off_its_output(models, tmp_path, training):
    teacher, student, problems = models
    run_stage(tmp_path, hf_data((teacher, problems), ONE_STEP, rank=2, model={"training": training}), name="teacher")
    output = tmp_path / "teacher" / "output"
    own = stage_config(hf_data((student, problems), DISTILL, rank=4))
    found = config_of_teacher(own, str(output)).model
    path = {"lora": teacher, "full": output}[training]
    assert (found.path, found.training) == (str(path), training)
    # Its own tokenizer, which has no template.
    assert hf_tokenizer_of(found).decode(hf_tokenizer_of(found).prompt_rows(["1+1="]).ids) == "1+1="
    assert hf_tokenizer_of(own.model).decode(hf_tokenizer_of(own.model).prompt_rows(["1+1="]).ids) == "1+1=>"
