"""What a forkserver imports before it forks, so that a child starts training within tenths of a second.

Importing this module leaves the process with one thread and no CUDA context: either would make forking unsafe.
"""

import importlib
import os

# One thread each, set before the libraries read it: numpy's BLAS starts its pool while it is imported.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

MODULES = (
    "experiments.engine",  # first: it knows how to import DeepSpeed quietly and without threads
    "experiments.stages.dpo",
    "experiments.stages.fused",
    "experiments.stages.grpo",
    "experiments.stages.quantization_aware_sft",
    "experiments.stages.quantize",
    "experiments.stages.rejection_sft",
    "experiments.stages.sft",
    "torch._dynamo",  # torch.optim imports it when an optimizer is made (2 s)
    "deepspeed.runtime.zero.muon.muon_optimizer",  # looked for by every ZeRO optimizer (2 s)
    "safetensors.torch",  # imported late, when weights are read or written
    "reasoning_gym",  # imported by a verifier at its first use (1 s)
)

for _module in MODULES:
    importlib.import_module(_module)
importlib.import_module("torch").set_num_threads(1)
