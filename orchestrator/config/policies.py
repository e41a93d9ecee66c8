"""The configs of whoever decides: who goes next, onto which device, with whom, and when is enough."""

from dataclasses import dataclass, field

from omegaconf import MISSING


@dataclass
class PolicyConfig:
    """The name of one policy of a family: `packing`, or `stopping` where nothing is stopped."""

    name: str = MISSING


@dataclass
class BestFitConfig(PolicyConfig):
    """`cpu_weight`: how much free cores count beside free devices when the fullest node is looked for, from 0 (only
    devices do) to 1 (only cores do)."""

    cpu_weight: float = 0.5


@dataclass
class DotProductConfig(PolicyConfig):
    """`largest`: take the node that has most of what is asked for, as Tetris does, and not the one that has least."""

    largest: bool = False


@dataclass
class FragmentationConfig(PolicyConfig):
    """`popularity`: fragments are counted over the most frequent demands that together make up this part of all."""

    popularity: float = 0.95


@dataclass
class FrontierConfig(PolicyConfig):
    """`look_ahead`: how many of those that wait are looked at together. `hold`: how many may be left waiting for better
    company, in studies where nothing ends; null is all but one of a trace's window, and none on a live cluster.
    `spread`: a part of a device goes to a free one as long as the rests of those in use are worth less than this part
    of the free ones. `tries`: in how many more orders a queue is served where somebody is left out.
    `apart`: whether free devices are taken to have no company; null is yes, but in simulations where nobody slows
    anybody down."""

    look_ahead: int = 64
    hold: int | None = None
    spread: float = 0.06
    tries: int = 24
    apart: bool | None = None


@dataclass
class OptimalConfig(PolicyConfig):
    """`limit_s`: how long the solver may take for one cycle."""

    limit_s: float = 60.0


@dataclass
class RandomConfig(PolicyConfig):
    """`seed`: of what is drawn."""

    seed: int = 0


@dataclass
class FusionConfig:
    """Whether variants that differ in numbers only train as one program. `max_width`: how many at most; how many it
    will be is measured. `refill`: seats that members have left go to others of their kind at once. `patience_s`: for
    how long whoever waits may be overtaken by those."""

    name: str = MISSING
    max_width: int = 16
    refill: bool = True
    patience_s: float = 300.0


@dataclass
class PhasesConfig:
    """Whether programs that share a device take turns in what they do: one decodes while the other learns."""

    name: str = MISSING


@dataclass
class SearchConfig:
    """Which of a sweep's combinations are tried. `grid`, which has nothing but its name: every one."""

    name: str = MISSING


@dataclass
class SamplerConfig(SearchConfig):
    """Points are drawn one by one, by what those that are over have shown, while others run.

    trials: how many trials there may be in all, a point's trials being as many as its `seeds`: from the variant's own
    seed on, or those that the sweep lists under `seed`. metric: of the last stage, a mean over a point's seeds; it must
    not be measured on test problems. direction: maximize or minimize it. seed: of what is drawn. ahead: points are
    drawn while fewer trials than this wait; 0 is twice the devices.
    """

    trials: int = 32
    metric: str = "dev_accuracy"
    direction: str = "maximize"
    seed: int = 0
    seeds: int = 1
    ahead: int = 0


@dataclass
class ModelSamplerConfig(SamplerConfig):
    """`startup`: so many points are drawn at random, before what they showed says where to look."""

    startup: int = 10


@dataclass
class OrderingConfig:
    """Who goes next. Whoever has waited for `max_wait_s` goes first, by arrival, under every policy."""

    name: str = MISSING
    max_wait_s: float = 21600.0


@dataclass
class FairShareConfig(OrderingConfig):
    """`half_life_s`: after this time what a tenant used counts half."""

    half_life_s: float = 86400.0


@dataclass
class PreemptionConfig:
    """Who makes room. A trial is preempted at most `max_preemptions` times, and not before it held its devices for
    `min_hold_s`."""

    name: str = MISSING
    max_preemptions: int = 3
    min_hold_s: float = 10.0


@dataclass
class DefragmentationConfig:
    """Who moves so that a blocked request finds its devices together. A trial that made room or moved `max_moves` times
    is not moved, nor is one that has held its devices for less than `min_hold_s`. `restart_s`: what leaving and going
    on elsewhere costs [s]. `margin`: how many times what is lost the wait that is saved must be worth."""

    name: str = MISSING
    max_moves: int = 2
    min_hold_s: float = 60.0
    restart_s: float = 30.0
    margin: float = 2.0


@dataclass
class EarlyStoppingConfig(PolicyConfig):
    """resource: what trials are compared by, `device_seconds`, `tokens` or `steps` of their last stage. min_resource:
    the first rung, in units of it; each rung lies `rung_factor` times further than the one before, and the best
    1/`reduction_factor` go on where the rule has such a part. grace: by algorithm (`others`: those not named), how long
    a trial is left alone, as a fraction of its budget of steps (`grace_unit=budget`) or in units of the resource
    (`resource`). min_trials: nobody is judged on a rung before so many have reached it. confidence: no verdict is given
    that is less sure. finish_share: the part of the stopped trials that is trained to its end all the same, drawn by
    `seed`, to measure what stopping costs."""

    resource: str = "device_seconds"
    min_resource: float = 1.0
    rung_factor: int = 2
    reduction_factor: int = 3
    grace: dict[str, float] = field(default_factory=dict)
    grace_unit: str = "budget"
    min_trials: int = 4
    confidence: float = 0.9
    finish_share: float = 0.1
    seed: int = 0


@dataclass
class HyperbandConfig(EarlyStoppingConfig):
    """`brackets`: settings are dealt into so many; those of bracket b are not judged on their first b rungs."""

    brackets: int = 3
