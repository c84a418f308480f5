import pytest
import torch

from darec.device import pick
from darec.errors import UserError


@pytest.mark.parametrize(
    ("wanted", "there", "found"),
    [("auto", True, "cuda"), ("auto", False, "cpu"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_a_gpu_is_taken_if_there_is_one_and_it_is_wanted(wanted, there, found, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert pick(wanted) == torch.device(found)


def test_a_gpu_that_is_wanted_and_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="CUDA"):
        pick("cuda")
