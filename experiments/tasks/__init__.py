"""Tasks: prompts with a verifier, split so that what is trained on is never what is measured on."""

from experiments.tasks.loading import load_task
from experiments.tasks.task import Problem, Task, TaskError
from experiments.tasks.tokenizer import CharTokenizer, Tokenizer, tokenizer_of

__all__ = ["CharTokenizer", "Problem", "Task", "TaskError", "Tokenizer", "load_task", "tokenizer_of"]
