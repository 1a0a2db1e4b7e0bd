import pytest
import torch

from drhn_cli.errors import DrhnError
from drhn_cli.training.distributed import ALONE, Team, find_team


def test_torchrun_tells_the_place(monkeypatch):
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "here"}.items():
        assert find_team() == ALONE
        monkeypatch.setenv(name, value)
    assert find_team() == Team(rank=3, size=4, local_rank=1)
    assert (find_team().leads, ALONE.leads) == (False, True)


@pytest.mark.parametrize(("n", "size"), [(16, 4), (15, 4), (8, 4), (7, 1), (500, 3)])
def test_shares_are_the_whole_batch_and_almost_equal(n, size):
    shares = [list(range(n))[Team(rank=rank, size=size).share_of(n)] for rank in range(size)]
    assert [image for share in shares for image in share] == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_share_of_one_image_is_refused():
    with pytest.raises(DrhnError, match=r"too few images a step .*expected 8 or more, found 7"):
        Team(size=4).share_of(7)


def test_each_process_draws_numbers_of_its_own():
    def draw(team):
        return torch.rand(3, generator=team.own_generator(torch.Generator().manual_seed(5))).tolist()

    draws = [draw(Team(rank=rank, size=2)) for rank in range(2)]
    assert draws[0] != draws[1]
    assert draws == [draw(Team(rank=rank, size=2)) for rank in range(2)]
    assert draw(ALONE) == torch.rand(3, generator=torch.Generator().manual_seed(5)).tolist()
