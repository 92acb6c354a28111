"""The collectives, in two processes and in one."""

import numpy as np
import pytest
import torch
from torch import multiprocessing as mp

from evar.parallel import SINGLE_PROCESS, World


def collectives(world: World) -> dict:
    """What each collective gives this process."""
    rank = world.rank
    tensors = [torch.full((2, 3), float(rank)), torch.tensor(7 + rank), torch.zeros(3, 2).T]
    world.broadcast(tensors)
    sums = [torch.full((2, 2), 1.0 + rank), torch.tensor(10.0 * rank)]
    world.all_reduce(sums)
    world.barrier()
    return {
        "broadcast": tensors,
        "broadcast_object": world.broadcast_object({"rank": rank}),
        "all_reduce": sums,
        "all_gather": world.all_gather(torch.tensor([[rank, 5]])),
        "all_gather_rows": torch.from_numpy(world.all_gather_rows(np.full((1 + rank, 2), rank))),
        "shard": torch.from_numpy(world.shard(np.arange(5))),
    }


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    torch.save(collectives(World(rank, 2)), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_agree(tmp_path):
    mp.start_processes(_process, (str(tmp_path),), nprocs=2, start_method="fork")
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for of_rank in found:
        expected = [torch.zeros(2, 3), torch.tensor(7), torch.zeros(2, 3)]
        torch.testing.assert_close(of_rank["broadcast"], expected)
        assert of_rank["broadcast_object"] == {"rank": 0}
        expected = [torch.full((2, 2), 3.0), torch.tensor(10.0)]
        torch.testing.assert_close(of_rank["all_reduce"], expected)
        assert of_rank["all_gather"].tolist() == [[0, 5], [1, 5]]
        assert of_rank["all_gather_rows"].tolist() == [[0, 0], [1, 1], [1, 1]]
    assert [of_rank["shard"].tolist() for of_rank in found] == [[0, 1, 2], [3, 4]]


def test_a_single_process_keeps_its_own():
    found = collectives(SINGLE_PROCESS)
    assert SINGLE_PROCESS.first
    assert found["broadcast"][1] == 7
    assert found["broadcast_object"] == {"rank": 0}
    assert found["all_reduce"][0].tolist() == [[1, 1], [1, 1]]
    assert found["all_gather"].tolist() == [[0, 5]]
    assert found["shard"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shards_in_rank_order_are_the_items(size):
    shards = [World(rank, size).shard(np.arange(5)) for rank in range(size)]
    assert np.concatenate(shards).tolist() == [0, 1, 2, 3, 4]
