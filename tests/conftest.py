"""One torch thread: on small models several threads cost ten times what they save."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_configure() -> None:
    """Runs before any test module is imported."""
    import torch

    torch.set_num_threads(1)
