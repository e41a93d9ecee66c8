"""Hydra's and OmegaConf's errors in the words of whoever wrote the override."""

import difflib
import re
from collections.abc import Sequence

from orchestrator import config
from orchestrator.config import ConfigError

# By how OmegaConf's refusal of a type ends: what would do.
_BY_KIND = {
    "to Float": "use a number such as 1e-3",
    "to Integer": "use a whole number such as 8",
    "not a valid bool (type str)": "use true or false",
}


MOST_OPTIONS = 40
"""A message lists no more: the keys of a recipe are a hundred."""


def first_line(error: BaseException) -> str:
    """The first line of a message."""
    return str(error).strip().splitlines()[0].strip()


def explain(error: Exception, overrides: Sequence[str]) -> ConfigError:
    """Hydra's and OmegaConf's messages span lines and name internals; keep the field, the value and what would do."""
    lines = [line.strip() for line in f"{error}\n{error.__cause__ or ''}".splitlines() if line.strip()]
    text = " ".join(lines)
    if match := re.search(r"Could not find '([^']+)'", text):
        group, _, choice = match[1].rpartition("/")
        options = re.search(r"vailable options in '[^']*':(.*?)Config search path", text)
        names = [name for name in (options[1].split() if options else []) if not name.startswith("base_")]
        return ConfigError(group or "group", choice, suggest(choice, names))
    if match := re.search(r"In '([^']+)': Could not load '[^']+/base_", text):
        group, _, choice = match[1].rpartition("/")
        return ConfigError(group, choice, "this is for `orchestrator simulate` alone")
    if match := re.search(r"Could not override '([^']+)'|Key '([^']+)' (?:is )?not in", text):
        key = match[1] or match[2]
        given = next(
            (o for o in overrides if o.lstrip("+~").split("=", 1)[0].split(".")[-1] == key.split(".")[-1]), key
        )
        name, _, value = given.partition("=")
        inner = re.search(r"Key '([^']+)' (?:is )?not in '([^']+)'", text)
        if inner and inner[2] == "HfModelConfig":
            if own := next((o for o in overrides if re.match(r"model@recipe\.stages\.\w+\.model=", o)), None):
                remedy = "this recipe's stage has the size of a compact decoder; use recipe=distill_hf"
                group, _, choice = own.partition("=")
                return ConfigError(group, choice, remedy)
            for group in ("attention", "ffn"):
                if chosen := next((o for o in overrides if o.startswith(f"{group}=")), None):
                    remedy = "that is for compact decoders; a Hugging Face model has its own, so leave it out"
                    return ConfigError(group, chosen.partition("=")[2], remedy)
        known = _fields_of(inner[2]) if inner else []
        hint = _elsewhere(name) or suggest(inner[1] if inner else key, known)
        return ConfigError(name, value, f"unknown key; {hint}")
    full_key = re.search(r"full_key: (\S+)", text)
    name = full_key[1] if full_key else "config"
    value = next((o.split("=", 1)[1] for o in overrides if o.lstrip("+").startswith(f"{name}=")), "?")
    if "not Optional" in text:
        return ConfigError(name, value, "it needs a value; leave the override out to keep its default")
    if match := re.search(r"(recipe\.stages\.\w+\.model)\.\w+.*Interpolation key 'model\.", f"{name} {text}"):
        remedy = "its size is of a compact decoder, and model=hf; use recipe=distill_hf, with a path of its own"
        return ConfigError(f"{match[1]}.name", "decoder", remedy)
    told = next((line for line in lines if line.startswith(("Value ", "Invalid value", "Cannot convert"))), lines[0])
    instead = next((remedy for kind, remedy in _BY_KIND.items() if told.endswith(kind)), "")
    return ConfigError(name, value, f"{told}; {instead}" if instead else told)


def _fields_of(class_name: str) -> list[str]:
    schema = getattr(config, class_name, None)
    return sorted(getattr(schema, "__dataclass_fields__", {}))


def _elsewhere(name: str) -> str:
    """What to write instead of an override that Hydra's grammar or an interpolation keeps from where it looks right."""
    if match := re.match(r"recipe\.stages\.\w+\.((?:algorithm|optimizer)\..+)", name):
        return f"a stage that takes these from their group is set there: {match[1]}=..."
    if name.startswith("search."):
        return "a grid has no budget and no metric; choose a sampler: search=random|tpe|gp|cmaes"
    if name.startswith(("task.options.", "deepspeed.extra.")):
        return f"a key of your own is added with a plus: +{name}=..."
    return ""


def suggest(given: str, options: Sequence[str]) -> str:
    """What to write instead of `given`."""
    close = difflib.get_close_matches(given, options, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    if not options or len(options) > MOST_OPTIONS:
        return f"{hint}`orchestrator run --cfg job` prints every key there is"
    return f"{hint}there is: {', '.join(options)}"
