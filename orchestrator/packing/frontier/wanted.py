"""What demands ask for, as arrays, so that the places of many of them are looked at together."""

from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from orchestrator.packing.frontier.company import Company
from orchestrator.schema import Demand
from orchestrator.snapshot import Counts, Mask, Room, milli_cpus, share_units

Index = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What demands ask for, as arrays [demands]. `models` [demands, models + 1] says which they accept; devices that
    don't exist have the last one."""

    devices: Counts
    units: Counts
    memory_bytes: Counts
    milli_cpus: Counts
    host_memory_bytes: Counts
    models: Mask
    barred: Counts
    company: Company | None

    def of(self, numbers: Index) -> "Wanted":
        """Of some of them."""
        arrays = {field.name: getattr(self, field.name)[numbers] for field in fields(self) if field.name != "company"}
        return Wanted(**arrays, company=self.company and self.company.take(numbers))

    def and_also(self, other: "Wanted") -> "Wanted":
        """These, then the other's, both of one room."""
        arrays = {
            field.name: np.concatenate([getattr(self, field.name), getattr(other, field.name)])
            for field in fields(self)
            if field.name != "company"
        }
        company = self.company
        if company is not None and other.company is not None:
            felt = np.concatenate([company.felt, other.company.felt])
            company = replace(company, felt=felt, done=np.concatenate([company.done, other.company.done]))
        return Wanted(**arrays, company=company)


def all_wanted(room: Room, asked: list[Demand]) -> Wanted:
    """What these ask for in this room."""
    models = np.zeros((len(asked), len(room.models) + 1), np.bool_)
    barred = np.zeros(len(asked), np.int64)
    for number, demand in enumerate(asked):
        models[number, :-1] = [not demand.models or model in demand.models for model in room.models]
        for kind in {*room.conflicts.get(demand.kind, ())}:
            barred[number] |= room.kind_bit(kind)
    return Wanted(
        devices=np.array([demand.devices for demand in asked], np.int64),
        units=np.array([max(1, share_units(demand.share)) for demand in asked], np.int64),
        memory_bytes=np.array([demand.memory_bytes for demand in asked], np.int64),
        milli_cpus=np.array([milli_cpus(demand.cpus) for demand in asked], np.int64),
        host_memory_bytes=np.array([demand.host_memory_bytes for demand in asked], np.int64),
        models=models,
        barred=barred,
        company=Company.of(room, asked),
    )
