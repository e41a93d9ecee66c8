import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from reasoning_gym import create_dataset

from experiments.tasks import CharTokenizer, Problem, TaskError, load_task
from experiments.tasks.cache import cache_key, generated
from experiments.tasks.reasoning_gym import ReasoningGymVerifier
from experiments.tasks.splits import canonical_key
from orchestrator.schema.training import RewardConfig, SplitConfig, TaskConfig

CONF = Path(__file__).parents[3] / "conf" / "task"


def from_yaml(name, **overrides):
    overlay = OmegaConf.load(CONF / f"{name}.yaml")
    assert overlay.pop("defaults") == ["base_task", "_self_"]
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TaskConfig), overlay, overrides))


LETTER_COUNTING = TaskConfig(
    name="letter_counting",
    dataset="letter_counting",
    options={"min_words": 1, "max_words": 3},
    size=2000,
    prompt="{metadata[target_letter]}:{metadata[span]}=",
    max_prompt_tokens=80,
)
TASKS = {name: from_yaml(name) for name in ("addition", "spell_backward", "gcd", "count_bits")} | {
    "letter_counting": LETTER_COUNTING
}


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("tasks")


@pytest.fixture(scope="module")
def addition(cache_dir):
    return load_task(TASKS["addition"], cache_dir)


def small(**fields):
    defaults = {
        "dataset": "count_bits",
        "options": {"max_n": 4095},
        "size": 300,
        "prompt": "{metadata[binary]}=",
        "split": SplitConfig(supervised=50, dev=30, test=40),
    }
    return TaskConfig(**(defaults | fields))


def keys(problems, config):
    return {canonical_key(problem.prompt, config.commutative) for problem in problems}


def assert_no_overlap(task):
    config = task.config
    dev, test = keys(task.dev, config), keys(task.test, config)
    assert not dev & test
    assert not keys(task.supervised + task.rl, config) & (dev | test)
    for problems in (task.supervised, task.rl, task.dev, task.test):
        assert len(keys(problems, config)) == len(problems)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_loads_with_disjoint_splits_of_the_configured_sizes(name, cache_dir):
    config = TASKS[name]
    task = load_task(config, cache_dir)
    assert (len(task.supervised), len(task.dev), len(task.test)) == (400, 200, 400)
    assert len(task.rl) > 800
    assert set(task.supervised) <= set(task.rl)
    assert_no_overlap(task)


@pytest.mark.parametrize("name", TASKS)
def test_limits_fit_and_every_character_is_in_the_vocabulary(name, cache_dir):
    config = TASKS[name]
    task = load_task(config, cache_dir)
    encode = CharTokenizer().encode
    for problem in task.rl + task.dev + task.test:
        assert len(encode(problem.prompt)) <= config.max_prompt_tokens
        assert len(encode(problem.answer)) + 1 <= config.max_answer_tokens


@pytest.mark.parametrize("name", TASKS)
def test_the_reference_answer_is_right_by_the_verifier_itself(name, cache_dir):
    task = load_task(TASKS[name], cache_dir)
    for problem in task.test[:50]:
        plain = problem.answer[::-1] if task.config.answer_format == "reversed" else problem.answer
        assert task.verifier(plain, problem) >= 1.0
        assert task.reward(problem, problem.answer) == 1.0
        assert task.reward(problem, "") == 0.0
        assert task.reward(problem, "~" + problem.answer) == 0.0


def test_addition_is_two_digit_sums_with_the_units_first(addition):
    for problem in addition.rl:
        a, b = problem.prompt.removesuffix("=").split("+")
        assert len(a) == len(b) == 2
        assert problem.answer == str(int(a) + int(b))[::-1]


@settings(max_examples=60)
@given(
    sizes=st.tuples(*[st.integers(0, 80)] * 3),
    seed=st.integers(0, 7),
    includes=st.booleans(),
    commutative=st.booleans(),
)
def test_no_problem_is_both_trained_on_and_measured_on(cache_dir, sizes, seed, includes, commutative):
    supervised, dev, test = sizes
    config = TaskConfig(
        dataset="gcd",
        options={"max_value": 40},
        size=500,  # of 820 pairs: many are drawn twice, in either order
        seed=seed,
        prompt="{metadata[numbers][0]},{metadata[numbers][1]}=",
        commutative=commutative,
        split=SplitConfig(supervised, dev, test, rl_includes_supervised=includes),
    )
    task = load_task(config, cache_dir)
    assert (len(task.supervised), len(task.dev), len(task.test)) == sizes
    assert_no_overlap(task)
    assert (set(task.supervised) <= set(task.rl)) if includes else not set(task.supervised) & set(task.rl)


def test_held_out_splits_do_not_depend_on_the_supervised_size(cache_dir):
    few, many = (load_task(small(split=SplitConfig(n, 30, 40)), cache_dir) for n in (10, 100))
    assert (few.dev, few.test) == (many.dev, many.test)
    assert few.supervised == many.supervised[:10]


def test_the_same_config_gives_the_same_task_and_another_seed_another_order(cache_dir, tmp_path):
    config = small()
    here, there = load_task(config, cache_dir), load_task(config, tmp_path)
    assert [here.supervised, here.rl, here.dev, here.test] == [there.supervised, there.rl, there.dev, there.test]
    assert load_task(replace(config, seed=1), cache_dir).test != here.test


def test_the_order_does_not_depend_on_how_much_was_drawn(cache_dir):
    fewer, more = (load_task(small(size=size, split=SplitConfig(0, 0, 0)), cache_dir).rl for size in (200, 400))
    among = set(fewer)
    assert [problem for problem in more if problem in among] == fewer


@pytest.mark.parametrize(
    ("prompt", "key"),
    [
        ("34+12=", "12+34="),
        ("12+34=", "12+34="),
        ("7+-5=", "-5+7="),
        ("9-4=", "4-9="),
        ("48, 36 ->", "36, 48 ->"),
        ("0.5+1.25=", "0.5+1.25="),
    ],
)
def test_canonical_keys_of_commutative_problems(prompt, key):
    assert canonical_key(prompt, commutative=True) == key
    assert canonical_key(prompt, commutative=False) == prompt


# --- chain of thought ---


@pytest.fixture(scope="module")
def thought(cache_dir):
    config = replace(
        TASKS["addition"],
        answer_format="cot",
        max_answer_tokens=56,
        size=2000,
        split=SplitConfig(50, 30, 40),
        reward=RewardConfig(accuracy=1.0, format=0.2),
    )
    return load_task(config, cache_dir)


def test_references_of_a_chain_of_thought_are_right_and_keep_to_the_format(thought):
    for problem in thought.rl[:100]:
        assert problem.answer.startswith("<think>")
        assert thought.accuracy(problem, problem.answer) == 1.0
        assert thought.reward(problem, problem.answer) == pytest.approx(1.2)


def test_the_verifier_sees_only_what_stands_in_the_answer(thought):
    asked = []

    def verifier(answer, problem):
        asked.append(answer)
        return 1.0

    told = replace(thought, verifier=verifier)
    assert told.accuracy(thought.test[0], "<think>1+1=3</think><answer>77</answer>") == 1.0
    assert told.accuracy(thought.test[0], "<think>77</think>") == 0.0
    assert asked == ["77"]


def test_accuracy_and_format_are_rewarded_by_their_weights(thought):
    problem = thought.test[0]
    right = problem.answer.partition("<answer>")[2].removesuffix("</answer>")
    rewards = {
        f"<think></think><answer>{right}</answer>": 1.2,
        f"<answer>{right}</answer>": 1.0,
        "<think></think><answer>x</answer>": 0.2,
        "x": 0.0,
    }
    for completion, reward in rewards.items():
        assert thought.reward(problem, completion) == pytest.approx(reward)
        assert thought.accuracy(problem, completion) == float(reward >= 1.0)


# --- cache ---


def test_a_cached_task_is_read_without_reasoning_gym_and_without_torch(cache_dir, addition):
    program = (
        "import pickle, sys; from pathlib import Path; from experiments.tasks import load_task;"
        "config = pickle.loads(bytes.fromhex(sys.argv[1])); task = load_task(config, Path(sys.argv[2]));"
        "assert task.reward(task.test[0], task.test[0].answer) == 1.0;"
        "loaded = {'reasoning_gym', 'torch', 'numpy'} & set(sys.modules); assert not loaded, loaded;"
        "print(task.test[0].prompt)"
    )
    arguments = [sys.executable, "-c", program, pickle.dumps(addition.config).hex(), str(cache_dir)]
    result = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == addition.test[0].prompt


@pytest.mark.parametrize(
    "change",
    [
        {"options": {"max_n": 4094}},
        {"size": 301},
        {"seed": 1},
        {"prompt": "{metadata[binary]}:"},
        {"strip_spaces": True},
        {"answer_format": "reversed"},
        {"commutative": True},
        {"dataset": "gcd"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_generation_depends_on_is_in_the_cache_key(change):
    assert cache_key(small(**change)) != cache_key(small())


@pytest.mark.parametrize(
    "change",
    [{"split": SplitConfig(1, 2, 3)}, {"max_prompt_tokens": 99}, {"max_answer_tokens": 99}, {"reward_threshold": 0.5}],
    ids=lambda change: next(iter(change)),
)
def test_what_generation_does_not_depend_on_shares_a_file(change):
    assert cache_key(small(**change)) == cache_key(small())


def test_the_cache_key_depends_on_the_version_of_reasoning_gym(monkeypatch):
    before = cache_key(small())
    monkeypatch.setattr("experiments.tasks.cache.version", lambda _: "999.0")
    assert cache_key(small()) != before


def test_processes_that_miss_at_once_generate_once(tmp_path):
    calls = []

    def generate():
        calls.append(1)
        return [Problem("1+2=", "3", '{"answer": "3"}')]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: generated(small(), tmp_path / "new", generate), range(8)))
    assert len(calls) == 1
    assert all(result == results[0] and result[0].entry == '{"answer": "3"}' for result in results)
    assert not list((tmp_path / "new").glob("*.tmp"))


def test_a_failed_generation_leaves_no_file_and_the_next_one_succeeds(tmp_path):
    def fail():
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        generated(small(), tmp_path, fail)
    assert not list(tmp_path.glob("*.json"))
    assert generated(small(), tmp_path, list) == []


# --- rewards ---


def test_the_verifier_sees_the_plain_answer(addition):
    problem = next(p for p in addition.test if p.answer != p.answer[::-1])
    assert addition.reward(problem, problem.answer[::-1]) == 0.0
    # chain_sum's verifier tolerates leading zeros; reversed, they come last.
    assert addition.reward(problem, problem.answer + "0") == 1.0
    assert addition.reward(problem, "0" + problem.answer) == 0.0


def test_partial_credit_counts_from_the_threshold_on(cache_dir):
    config = TASKS["spell_backward"]
    strict, lenient = (load_task(replace(config, reward_threshold=t), cache_dir) for t in (1.0, 0.5))
    problem = next(p for p in strict.test if len(p.answer) == 6)
    nearly = problem.answer[:-1] + "~"
    assert 0.5 < strict.verifier(nearly, problem) < 1.0
    assert strict.reward(problem, nearly) == 0.0
    assert lenient.reward(problem, nearly) == 1.0


@given(completion=st.text(alphabet="0123456789.,+- \n", max_size=6), index=st.integers(0, 399))
def test_the_reward_is_the_verifiers_score_against_the_threshold(addition, completion, index):
    problem = addition.test[index]
    for text in (completion, problem.answer, problem.answer + completion):
        assert addition.reward(problem, text) == float(addition.verifier(text[::-1], problem) >= 1.0)


def test_a_completion_that_the_verifier_chokes_on_is_wrong():
    entry = create_dataset("prime_factorization", seed=0, size=1)[0]
    with pytest.raises(ValueError, match="no number"):
        create_dataset("prime_factorization").score_answer("no number", entry)
    verifier = ReasoningGymVerifier(TaskConfig(dataset="prime_factorization"))
    problem = Problem(entry["question"], entry["answer"], json.dumps(entry))
    assert verifier("no number", problem) == 0.0
    assert verifier(entry["answer"], problem) == 1.0


def test_entries_that_cannot_be_trained_on_are_left_out(cache_dir):
    config = LETTER_COUNTING
    task = load_task(config, cache_dir)
    words = {word for problem in task.rl for word in json.loads(problem.entry)["metadata"]["span"]}
    assert all(word.isascii() for word in words)
    drawn = create_dataset(config.dataset, **config.options, seed=config.seed, size=config.size)
    assert not all(entry["question"].isascii() for entry in drawn)


def test_a_task_that_has_scored_can_be_pickled(addition):
    assert addition.reward(addition.test[0], "x") == 0.0
    copy = pickle.loads(pickle.dumps(addition))
    assert copy.test == addition.test
    assert copy.reward(copy.test[0], copy.test[0].answer + "0") == 1.0


# --- what a config can get wrong ---

CHAIN_SUM = {"dataset": "chain_sum", "prompt": "{metadata[expression]}=", "strip_spaces": True}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": "csv"}, "task.source='csv': use one of reasoning_gym, jsonl"),
        ({"dataset": "chain_sums"}, "task.dataset has no 'chain_sums'; did you mean 'chain_sum'"),
        ({"dataset": "qqqq"}, "task.dataset has no 'qqqq'; there are: "),
        ({"options": {"max_m": 3}}, "task.options (count_bits) has no 'max_m'; did you mean 'max_n'"),
        ({"options": {"seed": 3}}, "task.options.seed=3: set task.seed instead"),
        ({"options": {"max_n": 0}}, "task.options={'max_n': 0}: count_bits says: min_n must be between 1 and max_n"),
        ({"options": {"operators": ["+"]}}, "task.options.operators: count_bits has no expressions"),
        ({"answer_format": "rot13"}, "task.answer_format='rot13': use one of plain, reversed, cot"),
        (
            {"prompt": "{metadata[bits]}"},
            "task.prompt='{metadata[bits]}' does not fit count_bits ('bits'); use {question}",
        ),
        ({"prompt": "{0}"}, "task.prompt='{0}' does not fit count_bits"),
        ({"prompt": "{question"}, "task.prompt='{question' does not fit count_bits"),
        (
            {"prompt": "× {metadata[n]}"},
            "task.dataset='count_bits': no entry can be used, since the vocabulary has no '×' (U+00D7",
        ),
        (
            {"dataset": "propositional_logic", "options": {}, "prompt": "{question}"},
            "since its verifier does not accept its own answer 'None'; choose another one",
        ),
        ({"max_prompt_tokens": 12}, "task.max_prompt_tokens=12: the prompt '1"),
        ({"prompt": "{metadata[n]}", "max_answer_tokens": 2}, "3 tokens, EOS included; raise it to 3"),
        ({"split": SplitConfig(-1, 2, 3)}, "task.split.supervised=-1: use 0 or more"),
        (
            {"split": SplitConfig(200, 100, 50)},
            "task.split asks for 350 problems (supervised 200, dev 100, test 50), and there are",
        ),
        ({"split": SplitConfig(200, 100, 50)}, "raise task.size (300) or ask for fewer"),
        (
            {**CHAIN_SUM, "options": {"min_terms": 2, "max_terms": 2, "max_digits": 1}, "commutative": True},
            "task.commutative=true: ",
        ),
        (
            {**CHAIN_SUM, "options": {"min_terms": 3, "max_terms": 3}, "commutative": True},
            "holds 3 numbers; only two-operand problems can be commutative",
        ),
    ],
)
def test_errors_name_the_field_the_value_and_what_would_do(cache_dir, fields, message):
    with pytest.raises(TaskError) as error:
        load_task(small(**fields), cache_dir)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
