"""The tokenizer that comes with a Hugging Face model, by what `Tokenizer` asks for."""

import logging
import os
from array import array
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from experiments.tasks.tokenizer import REMEMBERED_TEXTS, Rows
from orchestrator.schema.trust import code_is_trusted

# Processes are forked; a pool of threads that is not there in the child would be waited for.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class HfTokenizer:
    """A prompt is a user's message in the tokenizer's chat template, if it has one and `with_template`, or else the
    text behind what the tokenizer puts in front of one, BOS or nothing. An answer is its text and EOS."""

    def __init__(self, tokenizer: Any, *, with_template: bool) -> None:
        """`tokenizer` is one of transformers. Raises ValueError for one without EOS."""
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no EOS token, so no answer could end; set `eos_token` in its config")
        self._tokenizer = tokenizer
        self._with_template = with_template and bool(tokenizer.chat_template)
        self.eos_id = int(tokenizer.eos_token_id)
        self.pad_id = self.eos_id if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        self.vocab_size = len(tokenizer)
        self._special = set(tokenizer.all_special_ids)
        # Having a BOS does not mean that texts begin with it: GPT-2's and SmolLM2's models have seen none that do.
        self._in_front = tuple(takewhile(self._special.__contains__, tokenizer.encode("0")))
        # A study's texts come again in every epoch.
        self._prompt = lru_cache(maxsize=REMEMBERED_TEXTS)(self._encode_prompt)
        self._answer = lru_cache(maxsize=REMEMBERED_TEXTS)(self._encode_answer)

    def encode(self, text: str) -> list[int]:
        """Ids of a text alone."""
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def check(self, text: str) -> None:
        """Nothing: these vocabularies have bytes, or a token for what they lack."""

    def decode(self, ids: Iterable[int]) -> str:
        """Text up to the first EOS (or the end); special tokens, and ids that are no token's, are skipped."""
        kept: list[int] = []
        for token in ids:
            if token == self.eos_id:
                break
            if token < self.vocab_size and token not in self._special:
                kept.append(token)
        return str(self._tokenizer.decode(kept, clean_up_tokenization_spaces=False))

    def prompt_length(self, text: str) -> int:
        """Tokens of the prompt, the template's or BOS included."""
        return len(self._prompt(text))

    def answer_length(self, text: str) -> int:
        """Tokens of the answer and EOS."""
        return len(self._answer(text))

    def prompt_rows(self, texts: Sequence[str]) -> Rows:
        """Prompts, padded on the left."""
        found = [self._prompt(text) for text in texts]
        longest = max(map(len, found))
        padded = (token for ids in found for token in (*[self.pad_id] * (longest - len(ids)), *ids))
        return Rows(array("q", padded), list(map(len, found)))

    def answer_rows(self, texts: Sequence[str]) -> Rows:
        """Answers with EOS, padded on the right."""
        found = [self._answer(text) for text in texts]
        longest = max(map(len, found))
        padded = (token for ids in found for token in (*ids, *[self.pad_id] * (longest - len(ids))))
        return Rows(array("q", padded), list(map(len, found)))

    def save(self, folder: Path) -> None:
        """Writes the tokenizer's files into an existing folder."""
        self._tokenizer.save_pretrained(folder)

    def _encode_prompt(self, text: str) -> tuple[int, ...]:
        if self._with_template:
            message = [{"role": "user", "content": text}]
            written = self._tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
            return tuple(self.encode(written))  # the template writes BOS itself
        return (*self._in_front, *self.encode(text))

    def _encode_answer(self, text: str) -> tuple[int, ...]:
        return (*self.encode(text), self.eos_id)


def load(path: str, chat_template: str) -> HfTokenizer:
    """The tokenizer in a model's folder: no network, and code that comes with it only where that is trusted.

    Raises OSError where there is none, ValueError for one that can't be used.
    """
    if not (Path(path) / "tokenizer_config.json").is_file() and not (Path(path) / "tokenizer.json").is_file():
        raise FileNotFoundError(f"model.path={path}: no tokenizer.json; save the tokenizer beside the model")
    trusted = code_is_trusted(path)
    tokenizer = _auto_tokenizer().from_pretrained(path, local_files_only=True, trust_remote_code=trusted)
    return HfTokenizer(tokenizer, with_template=chat_template == "auto")


def _auto_tokenizer() -> Any:
    """transformers' class; with it DeepSpeed is imported, which says what it found of accelerators."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        from transformers import AutoTokenizer
    finally:
        logging.disable(disabled)
    return AutoTokenizer
