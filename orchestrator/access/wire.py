"""A config that arrives over the wire is data: what it may say, name and read.

`check_overrides` looks at the overrides before anything is composed from them, `check_variants` at what was composed
before anything that it names is imported or read. Both raise ConfigError. What is allowed is listed; the rest is not.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import Any

from hydra.core.override_parser.types import Override

from orchestrator.config import AccessConfig, ConfigError
from orchestrator.schema import Variant
from orchestrator.sweep import count_variants, parse_overrides

# The parts of a config that are the study's own; all others belong to the service.
STUDY_PARTS = (
    *("study", "recipe", "algorithm", "optimizer", "model", "quantization", "task", "deepspeed", "evaluation"),
    "rollout",
    *("stopping", "report"),
)
_OPEN_KEYS = frozenset({"seed", "heads", "cluster.devices_per_trial", "cluster.share_per_trial"})

# The service reads every task of a study when it is submitted; problems are counted over all of them.
MAX_PROBLEMS = 1_000_000

_MAX_NESTING = 16
_MAX_FULL_OVERRIDES = 20
_MAX_INTEGER = 2**63

_IMPORT_KEYS = frozenset({"entrypoint", "loader", "implementation"})
_IMPORTED = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):[A-Za-z_]\w*", re.ASCII)
_PATH_KEY = re.compile(r"(?:.*_)?(?:path|dir|file|folder|root)s?")
_PATH_VALUE = re.compile(r"[/\\]+[\w.]|~[\w/]|file:|(?:.*[/\\])?\.\.(?:[/\\]|$)", re.DOTALL)
# Names become parts of ids and of file names.
_NAME = re.compile(r"\w[\w.-]{0,99}", re.ASCII)
_CHOICES = re.compile(r"[\w\s,'\"()-]*", re.ASCII)


def check_overrides(overrides: Sequence[str], access: AccessConfig) -> list[Override]:
    """The overrides, parsed, if they keep the bounds and hold no key that is the service's, no interpolation, no option
    and no group that is chosen by a path."""
    if len(overrides) > access.max_overrides:
        raise ConfigError("overrides", len(overrides), f"give at most {access.max_overrides}")
    # Hydra's grammar takes some 70 us a character.
    if (characters := sum(map(len, overrides))) > _MAX_FULL_OVERRIDES * access.max_override_chars:
        allowed = _MAX_FULL_OVERRIDES * access.max_override_chars
        raise ConfigError("overrides", f"{characters} characters", f"give at most {allowed} together")
    for text in overrides:
        _check_text(text, access)
    parsed = parse_overrides(overrides)
    for override in parsed:
        _check_key(override)
    searched = any(override.key_or_group == "search" and override.value() != "grid" for override in parsed)
    if not searched and (count := count_variants(parsed)) > access.max_variants:
        raise ConfigError("sweep", f"{count} variants", f"a study over the wire has at most {access.max_variants}")
    return parsed


def check_variants(variants: Sequence[Variant], access: AccessConfig) -> None:
    """What is imported lies under the import roots, what is read under the path roots, and values are bounded."""
    leaves: set[tuple[str, Any]] = set()
    seen: set[tuple[int, str]] = set()
    for variant in variants:
        for part in (*STUDY_PARTS, "seed"):
            _collect(variant.config[part], part, leaves, seen)
    for name, value in sorted(leaves, key=lambda leaf: leaf[0]):
        _check_leaf(name, value, access)
    for stage in {stage.name for variant in variants for stage in variant.stages}:
        _check_name("recipe.stages", stage)
    tasks = {id(variant.config["task"]): variant.config["task"] for variant in variants}
    sizes = {repr(task): task["size"] for task in tasks.values()}
    if (problems := sum(sizes.values())) > MAX_PROBLEMS:
        remedy = f"the tasks of a study over the wire have at most {MAX_PROBLEMS} problems together"
        raise ConfigError("task.size", problems, remedy)


# --- overrides -------------------------------------------------------------------------------------------------------


def _check_text(text: str, access: AccessConfig) -> None:
    shown = ascii(text[:80])
    if len(text) > access.max_override_chars:
        raise ConfigError("override", shown, f"{len(text)} characters; give at most {access.max_override_chars}")
    if not text.isprintable():
        raise ConfigError("override", shown, "leave out control characters and what isn't text")
    if text.startswith("-"):
        raise ConfigError("override", shown, "options are for the command line; give key=value")
    if "${" in text:
        raise ConfigError("override", shown, "give the value itself: over the wire nothing is interpolated")
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    if deepest > _MAX_NESTING:
        raise ConfigError("override", shown, f"nest at most {_MAX_NESTING} brackets")


def _check_key(override: Override) -> None:
    key = str(override.key_or_group)
    value = ascii(str(override.input_line).partition("=")[2][:80])
    if override.is_delete():
        raise ConfigError(f"~{key}", value, "nothing can be taken out over the wire; set it to another value")
    targets = [key] if override.package is None else [key, override.package]
    for target in targets:
        if target not in _OPEN_KEYS and re.split(r"[./]", target)[0] not in STUDY_PARTS:
            remedy = f"belongs to the service; a study sets: {', '.join([*STUDY_PARTS, *sorted(_OPEN_KEYS)])}"
            raise ConfigError(key, value, remedy)
        if target.split(".")[:2] == ["study", "sweep"]:
            raise ConfigError(key, value, "write the sweep as overrides, such as seed=0,1")
    if "." not in key and key not in _OPEN_KEYS and not _CHOICES.fullmatch(str(override.input_line).partition("=")[2]):
        raise ConfigError(key, value, f"choose it by its name, and set its fields one by one: {key}.field=value")


# --- what was composed -----------------------------------------------------------------------------------------------


def _collect(data: Any, name: str, leaves: set[tuple[str, Any]], seen: set[tuple[int, str]]) -> None:
    """Adds every value with its dotted name to `leaves`; the elements of a list have the list's name. What variants
    share is looked at once: `seen` holds the identities of what was."""
    if not isinstance(data, Mapping | list | tuple):
        leaves.add((name, data))
    elif (id(data), name) not in seen:
        seen.add((id(data), name))
        for key, value in data.items() if isinstance(data, Mapping) else (("", value) for value in data):
            _collect(value, f"{name}.{key}" if key != "" else name, leaves, seen)


def _check_leaf(name: str, value: Any, access: AccessConfig) -> None:
    key = name.rpartition(".")[2]
    if isinstance(value, int) and abs(value) >= _MAX_INTEGER:
        raise ConfigError(name, f"{hex(value)[:20]!a}...", "use a number that fits 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(name, value, "use a finite number")
    if not isinstance(value, str) or not value:
        return
    if key in _IMPORT_KEYS:
        _check_import(name, value, access.import_roots)
    elif name == "task.prompt":
        _check_template(name, value)
    elif _PATH_KEY.fullmatch(key) or _PATH_VALUE.match(value):
        _check_path(name, value, access.path_roots)
    elif key in ("name", "tenant"):
        _check_name(name, value)


def _check_import(name: str, value: str, roots: Sequence[str]) -> None:
    match = _IMPORTED.fullmatch(value)
    if match is None or not any(match[1] == root or match[1].startswith(f"{root}.") for root in roots):
        allowed = ", ".join(roots) or "none"
        remedy = f"give package.module:function below a package that the service imports: {allowed}"
        raise ConfigError(name, ascii(value[:200]), remedy)


def _check_path(name: str, value: str, roots: Sequence[str]) -> None:
    try:
        path = Path(value).resolve()
        inside = any(path.is_relative_to(Path(root).resolve()) for root in roots)
    except (OSError, RuntimeError, ValueError):
        # A loop of links, or a name that no file can have.
        inside = False
    if not inside:
        allowed = ", ".join(roots) or "none"
        raise ConfigError(name, ascii(value[:200]), f"give a path below a folder that the service opens: {allowed}")


def _check_template(name: str, value: str) -> None:
    """Fields and their items only: attributes lead anywhere, and a width takes any amount of memory."""
    try:
        fields = [(field, spec) for _, field, spec, _ in Formatter().parse(value) if field is not None]
    except ValueError as error:
        raise ConfigError(name, ascii(value[:200]), f"{error}; write fields as {{question}}") from error
    for field, spec in fields:
        if spec or "." in field:
            raise ConfigError(
                name, ascii(value[:200]), "write fields as {question} or {metadata[name]}, without formats"
            )


def _check_name(name: str, value: str) -> None:
    if not _NAME.fullmatch(value):
        raise ConfigError(name, ascii(value[:80]), "use up to 100 letters, digits, dots, dashes and underscores")
