"""What a forkserver imports besides `experiments.preload` for studies of Hugging Face models: seconds a trial less.

    orchestrator run model=hf ... 'cluster.preload=[experiments.preload,experiments.preload_hf]'

Importing this module leaves the process with one thread and no CUDA context, as that one does.
"""

import importlib
import os

import experiments.preload  # noqa: F401 - first: it knows how

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

MODULES = (
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.models.qwen2.modeling_qwen2",
    "peft",
)

for _module in MODULES:
    importlib.import_module(_module)
