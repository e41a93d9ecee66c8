"""GSM8K (arXiv:2110.14168) as a JSONL file that `task=jsonl` reads, from the JSONL that its authors publish or from
`datasets`:

    python -m experiments.tasks.gsm8k train.jsonl > gsm8k.jsonl
    python -m experiments.tasks.gsm8k openai/gsm8k --name main --split train > gsm8k.jsonl

A question's answer is worked out in words, with calculator marks (`<<48/2=24>>`), which are dropped, and ends with
`#### 24`. That is the answer to learn; with `--reasoning` it is split in two, for `task.answer_format=cot`.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_CALCULATION = re.compile(r"<<[^<>]*>>")


def published(source: str, name: str | None = None, split: str = "train") -> Iterable[Mapping[str, Any]]:
    """GSM8K's rows, with `question` and `answer`: of a JSONL file, of a folder that `datasets` saved to disk, or of a
    data set by its name on the hub.

    Raises FileNotFoundError for what looks like a file and is none, ImportError where `datasets` is needed and not
    installed, and what that raises.
    """
    path = Path(source)
    if path.is_file():
        return map(json.loads, filter(str.strip, path.read_text(encoding="utf-8").split("\n")))
    if source.endswith((".jsonl", ".json")):
        raise FileNotFoundError(f"{source}: no such file; give GSM8K's train.jsonl")
    import datasets  # late: a file needs none of it

    if not path.is_dir():
        found = datasets.load_dataset(source, name, split=split)
    else:
        saved = datasets.load_from_disk(source)
        found = saved[split] if isinstance(saved, datasets.DatasetDict) else saved
    rows: Iterable[Mapping[str, Any]] = found
    return rows


def problems(rows: Iterable[Mapping[str, Any]], *, reasoning: bool = False) -> Iterator[dict[str, str]]:
    """Lines for `task=jsonl`: `prompt` and `answer`; with `reasoning` apart from an answer that is the number alone.

    Raises ValueError for a row without `question` and `answer`, or whose answer has no `####`.
    """
    for number, row in enumerate(rows, 1):
        if not {"question", "answer"} <= set(row):
            raise ValueError(f"row {number}: GSM8K has `question` and `answer`, this has {', '.join(sorted(row))}")
        worked_out = _CALCULATION.sub("", row["answer"])
        words, mark, final = worked_out.rpartition("####")
        if not mark:
            raise ValueError(f"row {number}: its answer has no ####")
        if reasoning:
            yield {"prompt": row["question"], "reasoning": words.strip(), "answer": final.strip()}
        else:
            yield {"prompt": row["question"], "answer": worked_out}


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the lines to standard output."""
    parser = argparse.ArgumentParser(description="GSM8K for task=jsonl", allow_abbrev=False)
    parser.add_argument("source", help="train.jsonl, a folder that datasets saved to disk, or a name on the hub")
    parser.add_argument("--name", help="the configuration of a data set on the hub, such as main")
    parser.add_argument("--split", default="train")
    parser.add_argument("--reasoning", action="store_true", help="for task.answer_format=cot")
    options = parser.parse_args(arguments)
    rows = published(options.source, options.name, options.split)
    sys.stdout.writelines(json.dumps(line) + "\n" for line in problems(rows, reasoning=options.reasoning))


if __name__ == "__main__":
    main()
