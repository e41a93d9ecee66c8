import torch
from hypothesis import settings

# Deadlines are wall time, and the first example of a test pays for imports and the allocator's warm-up.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")

# Tensors here are tiny: a second thread costs more than it computes, above all on a machine that is busy.
torch.set_num_threads(1)
