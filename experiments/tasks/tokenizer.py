"""Text as tokens: what every tokenizer gives, and `CharTokenizer`, that of the compact decoder.

A model reads a *prompt*, with what its tokenizer puts around it (BOS, a chat template), and writes an *answer*, which
ends with EOS. Lengths include these.
"""

from array import array
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

from orchestrator.schema.training import AnyModelConfig, HfModelConfig

PAD, BOS, EOS = 0, 1, 2
_FIRST_CHARACTER = 3
_CHARACTERS = "".join(map(chr, range(0x20, 0x7F))) + "\n"
"""Printable ASCII and the newline."""

_ID_OF = {character: _FIRST_CHARACTER + i for i, character in enumerate(_CHARACTERS)}
_CHARACTER_OF = [""] * _FIRST_CHARACTER + list(_CHARACTERS)
_CODE_OF = bytes(map(ord, ("\0" * _FIRST_CHARACTER + _CHARACTERS).ljust(256, "\xff")))
"""The ASCII code of each token, and what is none for what is no token."""
_EOS, _LEFT_OUT = bytes([EOS]), bytes([PAD, BOS])
_PAD_CHARACTER, _BOS_CHARACTER, _EOS_CHARACTER = _SPECIAL = "\0\1\2"
"""Characters that no text has, for the tokens that no character has."""
_SPECIAL_IDS = bytes([PAD, BOS, EOS])


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

    PAD is 0, BOS 1, EOS 2; then printable ASCII in code order, then the newline.
    """

    pad_id: int = PAD
    bos_id: int = BOS
    eos_id: int = EOS
    vocab_size: int = len(_CHARACTER_OF)

    def encode(self, text: str) -> list[int]:
        """Ids of the characters of `text`, in [3, vocab_size); no BOS or EOS is added.

        Raises:
            ValueError: naming the first character that the vocabulary lacks.
        """
        try:
            return [_ID_OF[character] for character in text]
        except KeyError as error:
            character = error.args[0]
            raise ValueError(
                f"the vocabulary has no {character!r} (U+{ord(character):04X}, position {text.index(character)} of "
                f"{text[:80]!r}): it holds printable ASCII and newline"
            ) from None

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
            return bytes(tokens).partition(_EOS)[0].translate(_CODE_OF, _LEFT_OUT).decode("ascii")
        except ValueError:
            return self._decode_one_by_one(tokens)

    def prompt_length(self, text: str) -> int:
        """Its characters and BOS."""
        return len(text) + 1

    def answer_length(self, text: str) -> int:
        """Its characters and EOS."""
        return len(text) + 1

    def prompt_rows(self, texts: Sequence[str]) -> Rows:
        """BOS and the text of each prompt, padded on the left."""
        longest = max(map(len, texts)) + 1
        return self._rows([(_BOS_CHARACTER + text).rjust(longest, _PAD_CHARACTER) for text in texts], texts)

    def answer_rows(self, texts: Sequence[str]) -> Rows:
        """The text of each answer and EOS, padded on the right."""
        longest = max(map(len, texts)) + 1
        return self._rows([(text + _EOS_CHARACTER).ljust(longest, _PAD_CHARACTER) for text in texts], texts)

    def save(self, folder: Path) -> None:
        """Nothing: it is the same everywhere."""

    def _rows(self, rows: Sequence[str], texts: Sequence[str]) -> Rows:
        """`rows` of one length: `texts` with the characters that stand for special tokens.

        One translation for all of them: a list of lists would take longer than a small model's step.
        """
        joined = "".join(rows)
        ids = joined.encode("ascii", "replace").translate(_ID_TABLE)
        added = len(joined) - sum(map(len, texts))
        if len(ids) - len(ids.translate(None, _SPECIAL_IDS)) != added or not joined.isascii():
            for text in texts:
                self.encode(text)
        return Rows(array("B", ids), [len(text) + 1 for text in texts])

    def _decode_one_by_one(self, tokens: Sequence[int]) -> str:
        """Names what is no token, and doesn't look behind EOS for it."""
        characters: list[str] = []
        for token in tokens:
            if token == EOS:
                break
            if not 0 <= token < self.vocab_size:
                raise ValueError(f"token id {token} is outside the vocabulary of {self.vocab_size}")
            characters.append(_CHARACTER_OF[token])
        return "".join(characters)


def _id_table() -> bytes:
    """The token of each character's code, PAD where there is none."""
    table = bytearray([PAD] * 256)
    for character, token in (*_ID_OF.items(), *zip(_SPECIAL, _SPECIAL_IDS, strict=True)):
        table[ord(character)] = token
    return bytes(table)


_ID_TABLE = _id_table()


def tokenizer_of(model: AnyModelConfig) -> Tokenizer:
    """The tokenizer that a model reads and writes with; one for all that ask in a process.

    Raises what `hf_tokenizer.load` does.
    """
    if isinstance(model, HfModelConfig):
        return _hf_tokenizer(model.path, model.chat_template)
    return CharTokenizer()


@lru_cache(maxsize=4)
def _hf_tokenizer(path: str, chat_template: str) -> Tokenizer:
    from experiments.tasks import hf_tokenizer  # late: whoever trains a decoder needs no transformers

    return hf_tokenizer.load(path, chat_template)
