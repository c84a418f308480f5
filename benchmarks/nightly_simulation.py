"""`darec bench nights`: runs the pipeline for several nights on growing data, and compares it with training from
scratch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.nights import History, Night, finished, note
from darec.common.errors import UserError
from darec.common.progress import Progress
from schemas.recipe import Recipe
from stages.execute import Result
from stages.walk import run

LOG = "nights.jsonl"


def simulate(
    recipe: Recipe,
    files_in: Callable[[Path], Mapping[str, Path]],
    folder: Path,
    nights: int,
    growth: float,
    scratch_every: int,
    progress: Progress | None = None,
) -> Iterator[Night]:
    """Simulates a first night and `nights` more with `growth` new interactions each, so that the last night has all
    interactions.

    Every night starts from the previous release; every `scratch_every`-th night also trains from scratch, on the same
    data and text vectors. Finished nights are read from `folder`. `files_in` returns the files of the data set, by
    role, in the folder of the recipe.

    Raises:
        UserError: the recipe's data is not MovieLens-100K.
    """
    if recipe.data.source != "movielens-100k":
        raise UserError("the nights are cut from MovieLens-100K", where="data.source", hint="use its recipe")

    history, log = History(files_in(recipe.data.folder)), folder / LOG
    done = finished(log)
    yield from done
    for number, count in list(enumerate(history.counts(nights, growth)))[len(done) :]:
        data = history.until(count, folder / "data")
        results = run(_recipe_for_night(recipe, data, folder, warm=True), progress=progress)
        scratch = number % scratch_every == 0 and number > 0
        retrained = (
            run(_recipe_for_night(recipe, data, folder, warm=False), "evaluate", progress=progress) if scratch else ()
        )
        night = _night(number, count, results, retrained)
        note(log, night)
        yield night


def _recipe_for_night(recipe: Recipe, data: Path, folder: Path, *, warm: bool) -> Recipe:
    """The recipe with the data of the night and the store of the simulation, with or without a warm start."""
    changes = {
        "data": recipe.data.model_copy(update={"folder": data}),
        "train": recipe.train.model_copy(update={"warm_start": warm}),
        "runtime": recipe.runtime.model_copy(update={"store": folder / "store"}),
    }
    return recipe.model_copy(update=changes)


def _night(number: int, count: int, results: Sequence[Result], retrained: Sequence[Result]) -> Night:
    by_stage = {result.stage: result for result in results}
    split, items, users, train = (by_stage[name] for name in ("split", "profile_items", "profile_users", "train"))
    again = {result.stage: result for result in retrained}

    return Night(
        number=number,
        interactions=count,
        users=split.report.users,
        items=split.report.items,
        new_users=_generated(users),
        new_items=_generated(items),
        tokens=_tokens(users) + _tokens(items),
        llm_seconds=users.seconds + items.seconds,
        seconds=round(sum(result.seconds for result in results), 1),
        epochs=train.report.epochs,
        train_seconds=train.seconds,
        recall=by_stage["evaluate"].report.test["recall@20"],
        published=by_stage["publish"].report.state == "published",
        scratch_epochs=again["train"].report.epochs if again else None,
        scratch_seconds=again["train"].seconds if again else None,
        scratch_recall=again["evaluate"].report.test["recall@20"] if again else None,
    )


def _generated(result: Result) -> int:
    return 0 if result.cached else result.report.generated


def _tokens(result: Result) -> int:
    return 0 if result.cached else result.report.tokens
