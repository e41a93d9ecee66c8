"""Text as tokens: what every tokenizer gives, and `CharTokenizer`, that of the compact decoder.

A model reads a *prompt*, with what its tokenizer puts around it (BOS, a chat template), and writes an *answer*, which
ends with EOS. Lengths include these.
"""

import re
from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple, NoReturn, Protocol

from experiments.tasks.task import answer_format
from orchestrator.schema.training import AnyModelConfig, HfModelConfig, TaskConfig

PAD, BOS, EOS = 0, 1, 2
_FIRST_CHARACTER = 3
_CHARACTERS = "".join(map(chr, range(0x20, 0x7F))) + "\n"
"""Printable ASCII and the newline."""

_PAD, _EOS, _LEFT_OUT = bytes([PAD]), bytes([EOS]), bytes([PAD, BOS])
_FIRST_STAND_IN = 3
"""Characters that no text has, from this code on, stand for tags."""
REMEMBERED_TEXTS = 2**16
"""So many texts' ids are kept by a tokenizer."""


class Rows(NamedTuple):
    """Token ids of texts as rows of one length, end to end (`B` or `q`), and the length of each text in tokens."""

    ids: array
    lengths: list[int]


class Tokenizer(Protocol):
    """What tasks, rollouts and stages need of one."""

    pad_id: int
    eos_id: int
    vocab_size: int

    def encode(self, text: str) -> list[int]:
        """Ids of a text alone. Raises ValueError for one that the vocabulary lacks."""

    def check(self, text: str) -> None:
        """Raises ValueError for a text that `encode` does."""

    def decode(self, ids: Iterable[int]) -> str:
        """Text up to the first EOS (or the end), without special tokens."""

    def prompt_length(self, text: str) -> int:
        """Tokens that a model reads for a prompt."""

    def answer_length(self, text: str) -> int:
        """Tokens of an answer, EOS included."""

    def prompt_rows(self, texts: Sequence[str]) -> Rows:
        """Prompts, padded on the left to the longest. Raises as `encode` does."""

    def answer_rows(self, texts: Sequence[str]) -> Rows:
        """Answers with EOS, padded on the right to the longest. Raises as `encode` does."""

    def save(self, folder: Path) -> None:
        """Writes what it is loaded from, if anything, into an existing folder."""


class CharTokenizer:
    """One token per character, over one fixed vocabulary: every task and every checkpoint agree on the ids.

    PAD is 0, BOS 1, EOS 2; then printable ASCII in code order, then the newline, then the `tags`, if any: what is
    written in several characters and is one token. At most ten of them.
    """

    pad_id: int = PAD
    bos_id: int = BOS
    eos_id: int = EOS
    vocab_size: int = _FIRST_CHARACTER + len(_CHARACTERS)

    def __init__(self, tags: Sequence[str] = ()) -> None:
        stand_ins = "".join(map(chr, range(_FIRST_STAND_IN, _FIRST_STAND_IN + len(tags))))
        characters = _CHARACTERS + stand_ins
        self.vocab_size = _FIRST_CHARACTER + len(characters)
        self._stand_in_of = dict(zip(tags, stand_ins, strict=True))
        self._text_of_stand_in = str.maketrans({stand_in: tag for tag, stand_in in self._stand_in_of.items()})
        self._tag = re.compile("|".join(map(re.escape, tags))) if tags else None
        self._stand_in = re.compile(f"[{re.escape(stand_ins)}]") if tags else None
        self._id_of = {character: _FIRST_CHARACTER + i for i, character in enumerate(characters)}
        self._text_of = [""] * _FIRST_CHARACTER + list(_CHARACTERS) + list(tags)
        # The code of each token, and what is none for what is no token.
        self._code_of = bytes(map(ord, ("\0" * _FIRST_CHARACTER + characters).ljust(256, "\xff")))
        # A study's texts come again in every epoch.
        self._prompt = lru_cache(maxsize=REMEMBERED_TEXTS)(self._encode_prompt)
        self._answer = lru_cache(maxsize=REMEMBERED_TEXTS)(self._encode_answer)

    def encode(self, text: str) -> list[int]:
        """Ids of the characters and tags of `text`, in [3, vocab_size); no BOS or EOS is added.

        Raises:
            ValueError: naming the first character that the vocabulary lacks.
        """
        marked = self._marked(text)
        try:
            return [self._id_of[character] for character in marked]
        except KeyError as error:
            _refuse(error.args[0], text)

    def check(self, text: str) -> None:
        """Raises as `encode` does."""
        self.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Text up to the first EOS (or the end); PAD and BOS are skipped. A tensor is passed as `tensor.tolist()`.

        Raises:
            ValueError: for an id outside [0, vocab_size).
        """
        tokens = list(ids)
        try:
            # As bytes: a rollout has hundreds of completions, and a step of a small model takes milliseconds.
            text = bytes(tokens).partition(_EOS)[0].translate(self._code_of, _LEFT_OUT).decode("ascii")
        except ValueError:
            return self._decode_one_by_one(tokens)
        return text.translate(self._text_of_stand_in) if self._tag else text

    def prompt_length(self, text: str) -> int:
        """Its characters and tags, and BOS."""
        return len(self._marked(text)) + 1

    def answer_length(self, text: str) -> int:
        """Its characters and tags, and EOS."""
        return len(self._marked(text)) + 1

    def prompt_rows(self, texts: Sequence[str]) -> Rows:
        """BOS and the text of each prompt, padded on the left."""
        return _rows([self._prompt(text) for text in texts], bytes.rjust)

    def answer_rows(self, texts: Sequence[str]) -> Rows:
        """The text of each answer and EOS, padded on the right."""
        return _rows([self._answer(text) for text in texts], bytes.ljust)

    def save(self, folder: Path) -> None:
        """Nothing: it is the same everywhere."""

    def _marked(self, text: str) -> str:
        """`text` with a character in place of each tag. Raises ValueError for one that has such a character itself."""
        if self._tag is None or self._stand_in is None:
            return text
        if found := self._stand_in.search(text):
            _refuse(found[0], text)
        return self._tag.sub(lambda tag: self._stand_in_of[tag[0]], text)

    def _encode_prompt(self, text: str) -> bytes:
        return bytes([BOS, *self.encode(text)])

    def _encode_answer(self, text: str) -> bytes:
        return bytes([*self.encode(text), EOS])

    def _decode_one_by_one(self, tokens: Sequence[int]) -> str:
        """Names what is no token, and doesn't look behind EOS for it."""
        texts: list[str] = []
        for token in tokens:
            if token == EOS:
                break
            if not 0 <= token < self.vocab_size:
                raise ValueError(f"token id {token} is outside the vocabulary of {self.vocab_size}")
            texts.append(self._text_of[token])
        return "".join(texts)


def _rows(found: Sequence[bytes], padded: Callable[[bytes, int, bytes], bytes]) -> Rows:
    """Encoded texts as rows of the longest's length; `padded`: `bytes.ljust` or `bytes.rjust`."""
    lengths = list(map(len, found))
    longest = max(lengths)
    if min(lengths) < longest:
        found = [padded(ids, longest, _PAD) for ids in found]
    return Rows(array("B", b"".join(found)), lengths)


def _refuse(character: str, text: str) -> NoReturn:
    raise ValueError(
        f"the vocabulary has no {character!r} (U+{ord(character):04X}, position {text.index(character)} of "
        f"{text[:80]!r}): it holds printable ASCII and newline"
    ) from None


def tokenizer_of(model: AnyModelConfig, task: TaskConfig) -> Tokenizer:
    """The tokenizer that a model reads and writes a task with; one for all that ask in a process. To a compact decoder
    the tags of the task's answer format are one token each: they are more than half of a short chain of thought.

    Raises what `answer_format` and `hf_tokenizer.load` do.
    """
    if isinstance(model, HfModelConfig):
        return hf_tokenizer_of(model)
    return _char_tokenizer(answer_format(task).tags)


def hf_tokenizer_of(model: HfModelConfig) -> Tokenizer:
    """The tokenizer of a Hugging Face model, whatever it reads. Raises what `hf_tokenizer.load` does."""
    return _hf_tokenizer(model.path, model.chat_template)


@cache
def _char_tokenizer(tags: tuple[str, ...]) -> CharTokenizer:
    return CharTokenizer(tags)


@lru_cache(maxsize=4)
def _hf_tokenizer(path: str, chat_template: str) -> Tokenizer:
    from experiments.tasks import hf_tokenizer  # late: whoever trains a decoder needs no transformers

    return hf_tokenizer.load(path, chat_template)
