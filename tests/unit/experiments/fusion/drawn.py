"""Hyperparameters as hypothesis draws them for members of a stack."""

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

OPTIMIZER = {
    "lr": st.floats(-4.0, -2.0).map(lambda power: 10.0**power),
    "schedule": st.sampled_from(["constant", "linear", "cosine"]),
    "warmup_steps": st.integers(0, 20),
    "weight_decay": st.floats(0.0, 0.5),
    "beta1": st.floats(0.5, 0.95),
    "beta2": st.floats(0.9, 0.999),
    "eps": st.sampled_from([1e-8, 1e-6, 1e-4]),
    "clip": st.one_of(st.just(0.0), st.floats(0.05, 5.0)),
}
POLICY = {
    "temperature": st.floats(0.6, 1.4),
    "clip_low": st.floats(0.05, 0.4),
    "clip_high": st.floats(0.05, 0.4),
    "kl_weight": st.one_of(st.just(0.0), st.floats(0.01, 1.0)),
    "aggregation": st.sampled_from(["sequence", "token", "constant"]),
    "importance_level": st.sampled_from(["token", "sequence"]),
    "baseline": st.sampled_from(["group", "leave_one_out"]),
    "advantage_scale": st.sampled_from(["std", "none"]),
    "max_sampling_rounds": st.integers(1, 3),
    "overlong_buffer": st.integers(0, 3),
    "mask_truncated": st.booleans(),
    "length_penalty": st.one_of(st.just(0.0), st.floats(0.01, 0.5)),
}
# A run of stages takes seconds: the same few examples every time, and one that fails isn't shrunk, for many minutes.
DRAWN = settings(
    derandomize=True,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def knobs(algorithm: str, **more: st.SearchStrategy) -> st.SearchStrategy[dict[str, object]]:
    """All that members of one stack may differ in, and what is given beside it."""
    return st.fixed_dictionaries({**OPTIMIZER, **(POLICY if algorithm == "grpo" else {}), **more})


# Where a policy collapses, or Adam steps out of rounding, fifty steps lead elsewhere on another processor as in a stack
# (see `fused_runs.variants`): the whole range is compared update by update.
CALM = {"lr": st.floats(-4.0, -3.5).map(lambda power: 10.0**power), "eps": st.just(1e-4), "clip": st.floats(0.05, 1.0)}


def calm_knobs(algorithm: str, **more: st.SearchStrategy) -> st.SearchStrategy[dict[str, object]]:
    """`knobs` of runs that can be compared after fifty steps."""
    return knobs(algorithm, **CALM, **more)
