"""The columns of our own trace files: a CSV of stages and a CSV of nodes. Who writes and who reads them agree here.

The file of stages has one row per stage of a trial, in the order of its recipe; the rows of a trial follow one another.
What is the trial's own (study, tenant, priority, submitted_s) is the same in all of them. The file of nodes has one row
per node, or several for a node with different devices. Memory is in GiB (2**30 bytes), times are in seconds from the
start of the trace. Several models are separated by `|`, phases are written `rollout=40.0|learn=20.0`.
"""

from dataclasses import dataclass

SEPARATOR, ASSIGNED = "|", "="
GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """`default` stands for an empty cell and for a column that the file lacks; None: every row has to say it."""

    name: str
    about: str
    default: str | None = None


STAGE_COLUMNS: tuple[Column, ...] = (
    Column(name="study", about="the sweep that the trial belongs to"),
    Column(name="trial", about="the trial's id; no two trials of a file share one"),
    Column(name="tenant", about="whose quota and share it counts against", default="default"),
    Column(name="priority", about="a whole number; higher goes first where the ordering looks at it", default="0"),
    Column(name="submitted_s", about="when the trial was submitted [s]"),
    Column(name="stage", about="the stage's name, such as `sft` or `grpo`"),
    Column(name="stage_key", about="stages with equal keys are one shared run; empty: a run of its own", default=""),
    Column(name="kind", about="what the stage does, for those who learn what slows it down", default=""),
    Column(name="duration_s", about="how long it holds its devices when nothing slows it down [s]"),
    Column(name="devices", about="how many devices; 0 is work on the host alone"),
    Column(name="share", about="of each of them, above 0 and at most 1", default="1.0"),
    Column(name="memory_gib", about="device memory of each of them [GiB]", default="0.0"),
    Column(name="cpus", about="cores in all", default="0.0"),
    Column(name="host_memory_gib", about="host memory in all [GiB]", default="0.0"),
    Column(name="models", about="the device models that will do, separated by `|`; empty: any", default=""),
    Column(name="max_nodes", about="over how many nodes the devices may be spread", default="1"),
    Column(name="max_slowdown", about="how many times longer beside others it may take; 0: any", default="0.0"),
    Column(name="phases", about="the parts of its duration, such as `rollout=40.0|learn=20.0` [s]", default=""),
)

NODE_COLUMNS: tuple[Column, ...] = (
    Column(name="node", about="the node's id"),
    Column(name="devices", about="how many devices of this model it has"),
    Column(name="model", about="their model", default=""),
    Column(name="memory_gib", about="device memory of each of them [GiB]"),
    Column(name="cpus", about="cores of the node; 0: not known, and then no limit", default="0.0"),
    Column(name="host_memory_gib", about="its host memory [GiB]; 0: not known, and then no limit", default="0.0"),
    Column(name="kind", about="`cuda`, or `cpu` where cores stand in for GPUs", default="cuda"),
)
