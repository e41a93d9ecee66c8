"""What a search found, for people: a table of the best settings, and the config file that deploys the first of them."""

from pathlib import Path
from typing import TYPE_CHECKING

import yaml

import conf
from orchestrator.config import ConfigError
from orchestrator.simulation.tune import OVERSUBSCRIPTION, Search, Tried

if TYPE_CHECKING:
    from rich.console import Console

_SHOWN = 10
# The columns of the table, by field.
_HEADINGS = {
    "experiments_per_gpu_hour": "exp./GPU-h held",
    "experiments_per_cluster_gpu_hour": "exp./GPU-h",
    "jct_mean_s": "mean JCT (s)",
    "makespan_s": "makespan (s)",
    "utilisation": "used",
    "unallocated_share_at_100": "unallocated at 100 %",
    "unallocated_share_at_130": "at 130 %",
}

# Those beside the objective's.
_BESIDE = ("experiments_per_cluster_gpu_hour", "jct_mean_s", "utilisation", "unallocated_share_at_130")


def print_best(search: Search, console: "Console") -> None:
    """The best settings, the objective first."""
    from rich.table import Table

    tried = search.tried()
    others = [name for name in _BESIDE if name in tried[0].measures and name != search.objective.field]
    columns = [search.objective.field, *others]
    best = "most" if search.objective.maximize else "least"
    table = Table(title=f"the best of {len(tried)} settings ({best} {search.objective.field} first)")
    table.add_column("packing", no_wrap=True)
    for name in columns:
        table.add_column(_HEADINGS[name], justify="right")
    for row in tried[:_SHOWN]:
        promised = {} if row.oversubscription is None else {OVERSUBSCRIPTION: row.oversubscription}
        knobs = "".join(f" {name}={_number(value)}" for name, value in (row.knobs | promised).items())
        values = [_measure(name, row.measures[name]) for name in columns]
        table.add_row(row.policy + knobs, *values)
    console.print(table)


def deploy(search: Search, command: str, target: Path) -> str:
    """Write the config file of the best setting and say where, with what is in it. A `target` that doesn't end in
    .yaml is a folder. Raises ConfigError if it can't be written."""
    best = search.tried()[0]
    path = target if target.suffix == ".yaml" else target / f"{best.policy}.yaml"
    text = config_file(search, best, command)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise ConfigError("--output", path, f"{error.strerror}; name a file that can be written") from error
    return f"{text}\nwritten to {path}; put it in conf/packing, or: orchestrator serve {' '.join(best.overrides())}"


def config_file(search: Search, best: Tried, command: str) -> str:
    """In the style of conf/packing, and complete: every knob that the policy has. One with an oversubscription sets the
    cluster's beside its own part."""
    template = yaml.safe_load((Path(conf.__path__[0]) / "packing" / f"{best.policy}.yaml").read_text())
    config, defaults, header = search.config_of(best), template["defaults"], []
    if best.oversubscription is not None:
        header = ["# @package _global_"]
        defaults = [entry if entry == "_self_" else f"/packing/{entry}@packing" for entry in defaults]
        config = {"packing": config, "cluster": {"oversubscription": best.oversubscription}}
    lines = [
        *header,
        f"# {search.objective.field} {best.value:.6g}, the best of {len(search.tried())} settings of:",
        f"#   {command}",
        "# Use it with:",
        f"#   orchestrator serve {' '.join(best.overrides())}",
        "defaults:",
        *(f"  - {entry}" for entry in defaults),
        "",
        yaml.safe_dump(config, sort_keys=False),
    ]
    return "\n".join(lines)


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _measure(name: str, value: float) -> str:
    if name == "utilisation":
        return f"{value:.1%}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
