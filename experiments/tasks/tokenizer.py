"""Characters as tokens, over one fixed vocabulary: every task and every checkpoint agree on the ids."""

from collections.abc import Iterable, Sequence

PAD, BOS, EOS = 0, 1, 2
_FIRST_CHARACTER = 3
_CHARACTERS = "".join(map(chr, range(0x20, 0x7F))) + "\n"
"""Printable ASCII and the newline."""

_ID_OF = {character: _FIRST_CHARACTER + i for i, character in enumerate(_CHARACTERS)}
_CHARACTER_OF = [""] * _FIRST_CHARACTER + list(_CHARACTERS)
_CODE_OF = bytes(map(ord, ("\0" * _FIRST_CHARACTER + _CHARACTERS).ljust(256, "\xff")))
"""The ASCII code of each token, and what is none for what is no token."""
_EOS, _LEFT_OUT = bytes([EOS]), bytes([PAD, BOS])


class CharTokenizer:
    """One token per character. PAD is 0, BOS 1, EOS 2; then printable ASCII in code order, then the newline."""

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
