"""Importing this looks like torch with a CUDA context, which no forkserver may have."""

import sys
from types import SimpleNamespace

sys.modules["torch"] = SimpleNamespace(cuda=SimpleNamespace(is_initialized=lambda: True))  # type: ignore[assignment]
