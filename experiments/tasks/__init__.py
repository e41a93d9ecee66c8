"""Tasks: prompts with a verifier, split so that what is trained on is never what is measured on."""

from experiments.tasks.loading import load_task
from experiments.tasks.task import Problem, Task, TaskError
from experiments.tasks.tokenizer import CharTokenizer

__all__ = ["CharTokenizer", "Problem", "Task", "TaskError", "load_task"]
