"""Settings shared by all tests."""

from __future__ import annotations

import matplotlib as mpl
import torch
from hypothesis import settings

mpl.use("agg")
torch.set_num_threads(1)
settings.register_profile("kdlib", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("kdlib")
