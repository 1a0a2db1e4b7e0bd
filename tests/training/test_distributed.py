import pytest
import torch

from drhn_cli.errors import DrhnError
from drhn_cli.training.distributed import World


def test_torchrun_tells_the_rank(monkeypatch):
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "here"}.items():
        assert World.from_environment() == World()
        monkeypatch.setenv(name, value)
    assert World.from_environment() == World(rank=3, size=4, local_rank=1)
    assert (World.from_environment().is_main, World().is_main) == (False, True)


@pytest.mark.parametrize(("n", "size"), [(16, 4), (15, 4), (8, 4), (7, 1), (500, 3)])
def test_shares_are_the_whole_batch_and_almost_equal(n, size):
    shares = [list(range(n))[World(rank=rank, size=size).share_of(n)] for rank in range(size)]
    assert [image for share in shares for image in share] == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_share_of_one_image_is_refused():
    with pytest.raises(DrhnError, match=r"too few images a step .*expected 8 or more, found 7"):
        World(size=4).share_of(7)


def test_each_process_draws_numbers_of_its_own():
    def draw(world):
        return torch.rand(3, generator=world.own_generator(torch.Generator().manual_seed(5))).tolist()

    draws = [draw(World(rank=rank, size=2)) for rank in range(2)]
    assert draws[0] != draws[1]
    assert draws == [draw(World(rank=rank, size=2)) for rank in range(2)]
    assert draw(World()) == torch.rand(3, generator=torch.Generator().manual_seed(5)).tolist()
