"""never: what runs stays where it is."""

from orchestrator.packing import BestFit
from orchestrator.sharing.defragmentation import DEFRAGMENTATIONS
from tests.unit.orchestrator.sharing.defragmentation.scattered import gang, scattered


def test_nobody_moves() -> None:
    never = DEFRAGMENTATIONS["never"]({"name": "never"})
    assert never(scattered(), gang(), BestFit()) is None
