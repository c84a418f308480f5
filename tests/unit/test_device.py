import pytest
import torch

from darec.common.device import pick
from darec.common.errors import UserError
from schemas.recipe import Recipe
from stages.prepare import check_device, models_here


@pytest.mark.parametrize(
    ("wanted", "there", "found"),
    [("auto", True, "cuda"), ("auto", False, "cpu"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_a_gpu_is_taken_if_there_is_one_and_it_is_wanted(wanted, there, found, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert pick(wanted, "train.device") == torch.device(found)


def test_a_gpu_that_is_wanted_and_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="train.device"):
        pick("cuda", "train.device")


@pytest.mark.parametrize("section", ["train", "evaluate"])
def test_a_run_that_wants_a_gpu_is_refused_before_its_first_stage(section, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=f"{section}.device"):
        check_device(Recipe.model_validate({section: {"device": "cuda"}}))
    check_device(Recipe())


def test_a_run_needs_what_its_last_stage_needs(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    recipe = Recipe.model_validate({"evaluate": {"device": "cuda"}, "train": {"alignment": [{"name": "darec"}]}})
    check_device(recipe, "train")
    assert not list(models_here(recipe, "split"))
    assert list(models_here(recipe, "profile_items")) == [recipe.llm]
    assert list(models_here(recipe, "train")) == [recipe.llm, recipe.embed]
