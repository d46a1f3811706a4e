"""The mean over several processes, of which CSC makes its losses."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cslib.objectives.base import global_mean

VALUES, CHOSEN = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0], [True, False, False, True, True, True]


SHARE = f"""
import sys
import torch
from cslib.objectives.base import global_mean

rank = int(sys.argv[1])
torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
part = slice(0, 2) if rank == 0 else slice(2, 6)
values, chosen = torch.tensor({VALUES}[part]), torch.tensor({CHOSEN}[part])
weight = torch.tensor(3.0, requires_grad=True)
mean = global_mean(weight * values, chosen)
mean.backward()
print(mean.item(), weight.grad.item(), global_mean(values, chosen & False).item())
"""


@pytest.mark.slow
def test_mean_over_two_processes_and_its_gradient_equal_those_of_one(tmp_path):
    root = Path(__file__).parents[3]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SHARE, str(rank), str(tmp_path / "meeting")],
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    found = [list(map(float, process.communicate(timeout=60)[0].split())) for process in processes]
    weight = torch.tensor(3.0, requires_grad=True)
    expected = global_mean(weight * torch.tensor(VALUES), torch.tensor(CHOSEN))
    expected.backward()
    assert expected.item() == pytest.approx(3 * (1 + 8 + 16 + 32) / 4)
    # What DistributedDataParallel does to gradients, and the log to figures: the mean over the processes.
    assert np.mean(found, axis=0) == pytest.approx([expected.item(), weight.grad.item(), 0.0])
