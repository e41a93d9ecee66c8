"""What lies in the artifacts folder and may be made room with."""

from dataclasses import dataclass
from enum import StrEnum


class CacheKind(StrEnum):
    """output: of a stage, by its key. kept: a checkpoint that warm stages start from, by its name. checkpoint: a
    stage's own, by study and stage key. shared: data that any stage may use. unfinished: an output that is, or was,
    being written, by its bundle's id."""

    OUTPUT = "output"
    KEPT = "kept"
    CHECKPOINT = "checkpoint"
    SHARED = "shared"
    UNFINISHED = "unfinished"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """One thing that is removed whole or not at all. `files` are (file id, bytes): entries that share a file by hard
    links have its id in common. `made_at`, `used_at` [s since the epoch]."""

    kind: CacheKind
    name: str
    files: frozenset[tuple[str, int]]
    made_at: float
    used_at: float

    @property
    def bytes(self) -> int:
        """As if nobody shared its files."""
        return sum(size for _, size in self.files)

    @property
    def study_id(self) -> str:
        """Of a checkpoint."""
        return self.name.split("/")[0] if self.kind is CacheKind.CHECKPOINT else ""

    @property
    def stage_key(self) -> str:
        """Of the stage whose output or checkpoint it is; "" for what is no stage's."""
        match self.kind:
            case CacheKind.OUTPUT:
                return self.name
            case CacheKind.CHECKPOINT:
                return self.name.split("/")[1]
            case CacheKind.KEPT:
                return self.name.split("-")[0]
        return ""
