"""What processes of one run tell each other."""

import torch
from torch import multiprocessing as mp

from evar.parallel import SINGLE_PROCESS, World


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    tensors = [torch.full((2, 3), float(rank)), torch.tensor(7 + rank), torch.zeros(3, 2).T]
    World(rank, 2).broadcast(tensors)
    torch.save(tensors, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_all_have_the_tensors_of_the_first(tmp_path):
    mp.start_processes(_process, (str(tmp_path),), nprocs=2, start_method="fork")
    expected = [torch.zeros(2, 3), torch.tensor(7), torch.zeros(2, 3)]
    for rank in (0, 1):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), expected)


def test_one_alone_keeps_its_own():
    tensor = torch.ones(2)
    SINGLE_PROCESS.broadcast([tensor])
    assert tensor.tolist() == [1, 1]
