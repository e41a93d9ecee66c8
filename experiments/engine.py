"""The one place where `deepspeed.initialize` is called.

An `Engine` hides from the training loops what differs between ZeRO stages: a loss is this process's share of the
global batch's loss (shares add up over micro-batches and processes), the learning rate is set per step, and
`decoder()` is a plain model with the current weights, however DeepSpeed holds them.
"""

import copy
import logging
import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, cast

# Asking for GPUs through NVML leaves CUDA uninitialised, so that a process which imported this may still fork.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
import torch
import torch.distributed as dist
from torch import Tensor

from experiments.building import Model, layout_of
from experiments.fusion.decoder import StackedDecoder
from experiments.fusion.engine import StackEngine
from experiments.fusion.lora.engine import LoraEngine
from experiments.fusion.optimizer import MemberOptimizer
from experiments.gang import sum_over_processes
from experiments.models.moe import MixtureOfExperts
from experiments.parking import Parking
from experiments.parts import timed_as
from orchestrator.schema import Assignment, DeviceKind
from orchestrator.schema.training import DeepSpeedConfig, OptimizerConfig


def _import_deepspeed() -> ModuleType:
    """DeepSpeed without what costs seconds in every process, or prints, and serves nothing here.

    Its autotuner imports mlflow where there is one (2 s, and a thread that forbids forking). Its shared-memory
    collective is compiled on first use (100 s) and serves tensor-parallel inference only. Both are optional to it.
    """
    absent = cast(ModuleType, None)
    hide_mlflow = "mlflow" not in sys.modules
    if hide_mlflow:
        sys.modules["mlflow"] = absent
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import deepspeed
    finally:
        logging.disable(logging.NOTSET)
        if hide_mlflow:
            del sys.modules["mlflow"]
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # ZeRO's collectives have been renamed in torch: one warning a call, several calls a step.
    warnings.filterwarnings("ignore", ".*_tensor` is deprecated", FutureWarning, r"torch\.distributed\.")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    return deepspeed


deepspeed = _import_deepspeed()

from deepspeed.accelerator import set_accelerator  # noqa: E402 - DeepSpeed has to be imported as above first
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator  # noqa: E402
from deepspeed.accelerator.cuda_accelerator import CUDA_Accelerator  # noqa: E402


def open_device(assignment: Assignment) -> torch.device:
    """The device of an assignment, its threads limited to the share, and the process group joined.

    The processes of a bundle are on one node: gloo stays on the loopback interface, at ports that the kernel picks. A
    single process meets nobody and needs no rendezvous. On CUDA the device is the first visible one; whoever launched
    the process has limited its allocator.
    """
    torch.set_num_threads(assignment.threads)
    if assignment.device_kind is DeviceKind.CUDA:
        set_accelerator(CUDA_Accelerator())
        device = torch.device("cuda", 0)
        torch.cuda.set_device(device)
    else:
        set_accelerator(CPU_Accelerator())
        device = torch.device("cpu")
    # DeepSpeed reads its place from the environment. The launcher shows each process its own device only, as number 0.
    os.environ.update(RANK=str(assignment.rank), WORLD_SIZE=str(assignment.world_size), LOCAL_RANK="0")
    if not dist.is_initialized():
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
        alone = assignment.world_size == 1
        store = dist.HashStore() if alone else dist.FileStore(assignment.rendezvous, assignment.world_size)
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=assignment.rank, world_size=assignment.world_size)
    return device


def deepspeed_config(config: DeepSpeedConfig, items_per_step: int, world_size: int) -> dict[str, Any]:
    """DeepSpeed's own dict. The batch sizes are for its counters only: the loops slice their batches themselves."""
    micro = max(1, items_per_step // (world_size * config.gradient_accumulation_steps))
    zero: dict[str, Any] = {"stage": config.zero_optimization.stage}
    offload = config.zero_optimization.offload_optimizer
    if offload.device != "none":
        zero["offload_optimizer"] = {"device": offload.device, "pin_memory": offload.pin_memory}
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "gradient_clipping": config.gradient_clipping,
        "zero_optimization": zero,
        "bf16": {"enabled": config.bf16.enabled},
        "zero_allow_untested_optimizer": True,
        # DeepSpeedCPUAdam is compiled on first use (minutes); torch's fused AdamW does the same work.
        "zero_force_ds_cpu_optimizer": False,
        # It is the step's number; four collectives would ask whether it is the same everywhere.
        "checkpoint": {"tag_validation": "IGNORE"},
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }
    return _merged(settings, config.extra)


class Engine:
    """A model in training. Calling it is the forward pass; see `Decoder.forward`.

    `layout` is what a checkpoint depends on: an engine of another one can't load it. `learned` counts micro-batches.
    """

    def __init__(
        self,
        model: Model,
        config: DeepSpeedConfig,
        optimizer: OptimizerConfig,
        items_per_step: int,
        device: torch.device,
    ) -> None:
        self.device = device
        self.world_size, self.rank = dist.get_world_size(), dist.get_rank()
        self.accumulation = config.gradient_accumulation_steps
        self.learned = 0
        settings = deepspeed_config(config, items_per_step, self.world_size)
        stage = settings["zero_optimization"]["stage"]
        plain_fp32 = stage == 0 and not settings["bf16"]["enabled"]
        if plain_fp32 and not settings["gradient_clipping"]:
            settings["gradient_clipping"] = math.inf  # no clipping either, but the norm is computed
        self._partitioned = stage == 3
        self._max_norm = settings["gradient_clipping"]
        self._hyperparameters: dict[str, Any] = {
            "lr": optimizer.lr,
            "betas": (optimizer.beta1, optimizer.beta2),
            "eps": optimizer.eps,
            "weight_decay": optimizer.weight_decay,
        }
        self.layout: dict[str, Any] = {
            "model": layout_of(model),
            "deepspeed.zero_optimization.stage": stage,
            "deepspeed.bf16.enabled": settings["bf16"]["enabled"],
        }
        model.to(device)
        self._plain = copy.deepcopy(model) if self._partitioned else model
        self._grad_norm = torch.zeros(())
        adam = torch.optim.AdamW(model.parameters(), **self._hyperparameters, fused=True)
        self._adam, self._parking = adam, Parking(device)
        self._engine, *_ = deepspeed.initialize(model=model, optimizer=adam, config=settings)
        self._engine.train()
        if plain_fp32:
            self._use_foreach_clipping(self._max_norm)

    def _use_foreach_clipping(self, max_norm: float) -> None:
        """The same clipping without DeepSpeed's loops over parameters, and keeping the norm that it drops.

        Without ZeRO gradients are averaged over the processes already, so every process has the same norm.
        """
        if self.world_size == 1:
            self._engine.enable_backward_allreduce = False
        parameters = list(self._engine.module.parameters())

        def clip() -> None:
            self._grad_norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm, foreach=True)

        self._engine.clip_fp32_gradients = clip

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        return self._engine(*args, **kwargs)

    @timed_as("backward")
    def backward(self, loss: Tensor) -> None:
        """Accumulates the gradients of a loss that is normalised by the global batch.

        DeepSpeed averages over processes and would divide by the number of micro-batches; shares are to be summed. Of a
        loss that balances experts a micro-batch has its part, as if all had as many tokens. The loss is left as a
        number: its graph goes.
        """
        total = loss
        for experts in self._experts():
            auxiliary = experts.take_auxiliary_loss()
            if auxiliary is not None:
                total = total + auxiliary / (self.accumulation * self.world_size)
        self._engine.backward(total * self.world_size if self.world_size > 1 else total, scale_wrt_gas=False)
        loss.detach_()

    @timed_as("optimizer")
    def step(self, lr: float) -> None:
        """Ends a micro-batch; after the last of a batch, clips and updates at learning rate `lr`."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        ends = self._engine.is_gradient_accumulation_boundary()
        self._engine.step()
        self.learned += 1
        if ends:
            for experts in self._experts():
                experts.balance(sum_over_processes(experts.take_load()))

    def _experts(self) -> list[MixtureOfExperts]:
        """What of the model is to be balanced."""
        return getattr(self._engine.module, "experts", [])

    def grad_norm(self) -> Tensor:
        """Norm of the last step's global gradient before clipping, a scalar."""
        norm = self._engine.get_global_grad_norm()
        return self._grad_norm if norm is None else torch.as_tensor(norm, dtype=torch.float32)

    @contextmanager
    def unparked(self, parks: bool) -> Iterator[None]:
        """Around the steps of an engine that `parks`: the optimizer's state is on the device inside, and in host memory
        afterwards. One that doesn't has it on the device all the time."""
        if parks:
            self.unpark()
        yield
        if parks:
            self.park()

    def park(self) -> None:
        """Moves the optimizer's state to host memory, bit for bit, and gives the device's memory back, that of
        gradients too: no step leaves any behind. There must be none until `unpark`; all else goes on."""
        values = (value for state in self._adam.state.values() for value in state.values())
        self._parking.park(value for value in values if isinstance(value, Tensor))

    def unpark(self) -> None:
        """Moves it back to the device."""
        self._parking.unpark()

    def decoder(self) -> Model:
        """A model with the current weights, good for decoding until the next step. Collective under ZeRO 3.

        Under ZeRO 3 it is a gathered copy: forward passes of a partitioned model are collective, and decoding takes
        another number of them in each process.
        """
        if self._partitioned:
            parameters = list(self._engine.module.parameters())
            with torch.no_grad(), deepspeed.zero.GatheredParameters(parameters):
                for mine, theirs in zip(self._plain.parameters(), parameters, strict=True):
                    mine.data = mine.data.to(theirs.dtype).copy_(theirs)
            for buffer, now in zip(self._plain.buffers(), self._engine.module.buffers(), strict=True):
                buffer.copy_(now)
        return self._plain

    def save(self, folder: Path, tag: str) -> None:
        """Model and optimizer in DeepSpeed's layout, at `folder/tag`. Collective."""
        with _own_warnings():
            self._engine.save_checkpoint(str(folder), tag=tag, save_latest=False)

    def load(self, folder: Path, tag: str) -> None:
        """Weights and optimizer state that `save` wrote with the same `layout` and number of processes.

        Hyperparameters stay those of this engine: DeepSpeed restores the old ones, bit for bit the same unless a warm
        stage changed them. Raises FileNotFoundError if it cannot be read.
        """
        with _own_warnings():
            path, _ = self._engine.load_checkpoint(str(folder), tag=tag)
        if path is None:
            raise FileNotFoundError(f"no checkpoint of this engine at {folder / tag}")
        for group in self._engine.optimizer.param_groups:
            group.update(self._hyperparameters)
        if hasattr(self._engine.optimizer, "clip_grad"):  # a ZeRO optimizer's own; `_use_foreach_clipping` has its own
            self._engine.optimizer.clip_grad = self._max_norm


class DeepSpeedStack(StackEngine):
    """A stack of members under one DeepSpeed engine, in single precision and without ZeRO, in one process.

    Clipping and hyperparameters are each member's own, so they are the client optimizer's, and DeepSpeed's clipping is
    off. Members may come and go: DeepSpeed holds the stack's one parameter, whatever its number of rows.
    """

    def __init__(self, stack: StackedDecoder, members: Sequence[MemberOptimizer]) -> None:
        super().__init__(stack, members)
        settings = deepspeed_config(DeepSpeedConfig(gradient_clipping=0.0), items_per_step=1, world_size=1)
        self._engine, *_ = deepspeed.initialize(model=stack, optimizer=self.optimizer, config=settings)
        self._engine.enable_backward_allreduce = False
        self._engine.train()

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        return self._engine(*args, **kwargs)

    @timed_as("backward")
    def backward(self, losses: Tensor) -> None:
        """Gradients of each member's own loss, (M,)."""
        self._engine.backward(self._total(losses), scale_wrt_gas=False)
        losses.detach_()

    def _step(self) -> None:
        self._engine.step()


class DeepSpeedLoraStack(LoraEngine, DeepSpeedStack):
    """A stack of adapters under one DeepSpeed engine: whose rows they are of the one, the step of the other."""


@contextmanager
def _own_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _merged(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """`extra` over `base`, dicts merged key by key."""
    merged = dict(base)
    for key, value in extra.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
