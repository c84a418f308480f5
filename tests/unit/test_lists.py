"""The lists of all users: the same as for one user, in every format, whole or not there at all."""

import signal
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from darec.artifacts.store import Store
from darec.common.errors import UserError
from darec.common.objects import Objects
from darec.evaluation.rerankers import build, write
from darec.serving import index, lists
from darec.serving.bundle import Bundle, Contents, read_report, vectors_of, write_without
from darec.serving.lists import MANIFEST, follow_by_hand, write_lists, written
from darec.serving.recommend import recommend_many
from schemas.lists import ListsConfig
from schemas.release import ExportConfig
from schemas.rerank import MMRConfig
from schemas.rules import RulesConfig
from schemas.tables import LISTS
from stages.plan import plan
from stages.prepare import prepare
from stages.registry import TASKS
from stages.walk import run as run_pipeline
from tests.buckets import S3, configured
from tests.disks import small_disk
from tests.release_samples import contents, export
from tests.report_samples import FAKES, recipe

READERS = {"parquet": pl.read_parquet, "csv": pl.read_csv, "jsonl": pl.read_ndjson}
USERS, ITEMS = 40, 300


@cache
def bundle(kind="flat", reranker=False) -> Bundle:
    folder = Path(mkdtemp())
    sample = contents(USERS, ITEMS, seed=6, cold_users=5)
    brands = pl.DataFrame(
        {"item_index": range(ITEMS), "name": "brand", "value": [f"b{item % 60}" for item in range(ITEMS)]}
    )
    if reranker:
        vectors = {"interactions": torch.tensor(vectors_of(sample.items))}
        write(build(MMRConfig(similarity="interactions", weight=0.6), vectors), folder / "reranker")
    sample = Contents(
        sample.users,
        sample.items,
        sample.seen.with_columns(disliked=pl.col("item_index") % 3 == 0),
        reranker=folder / "reranker" if reranker else None,
        attributes=brands.cast({"item_index": pl.Int32}),
    )
    config = ExportConfig(index=kind, attributes=("brand",), effort=ITEMS)
    return Bundle.open(export(Store(folder / "store"), sample, config=config).path)


def all_users(folder: Path) -> pl.DataFrame:
    """All that the files of a folder hold, in the order of the files."""
    manifest = written(folder)
    assert manifest is not None
    files = sorted(folder.glob("part-*"))
    assert len(files) == manifest.config.partitions
    assert {path.name for path in folder.iterdir()} == {MANIFEST, *(path.name for path in files)}
    tables = [READERS[manifest.config.format](path) for path in files if path.stat().st_size]
    table = pl.concat([table.cast(dict(LISTS)) for table in tables if table.height])  # pyright: ignore
    assert table.height == manifest.rows
    return table.select(list(LISTS))


def check_same(table: pl.DataFrame, expected: pl.DataFrame) -> None:
    columns = ["user_id", "rank", "item_id", "source"]
    assert table.select(columns).rows() == expected.select(columns).rows()
    np.testing.assert_allclose(table["score"], expected["score"], rtol=1e-4, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(
    rules=st.fixed_dictionaries(
        {},
        optional={
            "only": st.just([f"i{item}" for item in range(0, ITEMS, 2)]),
            "blocked": st.just(["i7", "i8", "i20"]),
            "at_most": st.sampled_from([{"brand": 1}, {"brand": 2}]),
            "seen": st.booleans(),
        },
    ),
    k=st.sampled_from([1, 7, 400]),
    file_format=st.sampled_from(list(READERS)),
    partitions=st.sampled_from([1, 3, 50]),
    reranker=st.booleans(),
    block=st.sampled_from([8, 4096]),
)
def test_every_user_gets_the_list_that_recommend_gives(rules, k, file_format, partitions, reranker, block):
    chosen, release = RulesConfig.model_validate(rules), bundle(reranker=reranker)
    config = ListsConfig(k=k, format=file_format, partitions=partitions)
    out = Path(mkdtemp()) / "lists"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lists, "_BLOCK", block)
        patch.setattr(lists, "_READ", 0)
        manifest = write_lists(release, out, config, chosen)
    assert (manifest.users, manifest.release) == (USERS, release.folder.name)
    check_same(all_users(out), recommend_many(release, release.user_ids().to_list(), k, chosen))


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_the_product_is_taken_where_the_index_would_look_at_all_that_is_allowed(kind, tmp_path, monkeypatch):
    made, product = [], lists._Product
    monkeypatch.setattr(lists, "_Product", lambda *arguments: made.append(kind) or product(*arguments))
    monkeypatch.setattr(index, "FEW_LISTS", 1.0)
    release, half = bundle(kind), RulesConfig(only=tuple(f"i{item}" for item in range(0, ITEMS, 2)))
    for name, rules, products in (("all", RulesConfig(), int(kind == "flat")), ("half", half, 1)):
        made.clear()
        write_lists(release, tmp_path / name, ListsConfig(k=10), rules)
        assert len(made) == products
        check_same(all_users(tmp_path / name), recommend_many(release, release.user_ids().to_list(), 10, rules))


def test_the_product_is_taken_where_the_index_searches_many_lists(tmp_path, monkeypatch):
    release = bundle("ivf")
    expected = recommend_many(release, release.user_ids().to_list(), 10)
    monkeypatch.setattr(index, "FEW_LISTS", 0.0)
    monkeypatch.setattr(index, "search", None)
    write_lists(release, tmp_path / "lists", ListsConfig(k=10))
    check_same(all_users(tmp_path / "lists"), expected)


def test_parquet_needs_no_knowledge_of_darec(tmp_path):
    write_lists(bundle(), tmp_path / "lists", ListsConfig(partitions=4))
    table = pl.scan_parquet(tmp_path / "lists" / "*.parquet").collect()
    assert table.schema == pl.Schema(dict(LISTS))
    assert table["user_id"].unique(maintain_order=True).to_list() == bundle().user_ids().to_list()


def test_new_lists_replace_old_ones_and_nothing_else(tmp_path):
    out = tmp_path / "lists"
    write_lists(bundle(), out, ListsConfig(partitions=9))
    write_lists(bundle(), out, ListsConfig(partitions=2, format="csv"))
    assert {path.name for path in out.iterdir()} == {MANIFEST, "part-00000.csv", "part-00001.csv"}
    assert [path.name for path in tmp_path.iterdir()] == ["lists"]

    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    for place in ("photos", "photos/cat.jpg"):
        with pytest.raises(UserError, match="contains other files than lists"):
            write_lists(bundle(), tmp_path / place, ListsConfig())
    assert (tmp_path / "photos" / "cat.jpg").exists()


def test_old_lists_that_cannot_be_deleted_stop_no_new_ones(tmp_path, monkeypatch, caplog):
    """A folder of another user, or one that a reader on a network file system has open."""
    out = tmp_path / "lists"
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *_, **__: None)
        for k in (3, 4, 5):
            write_lists(bundle(), out, ListsConfig(k=k))
            assert all_users(out)["rank"].max() == k
    assert "old lists could not be deleted" in caplog.text
    write_lists(bundle(), out, ListsConfig(k=6))
    assert [path.name for path in tmp_path.iterdir()] == ["lists"]


def test_lists_behind_a_link_are_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "disk").mkdir()
    out = tmp_path / "lists"
    out.symlink_to(tmp_path / "disk" / "real")
    for k in (3, 4, 5):
        write_lists(bundle(), out, ListsConfig(k=k))
        assert out.is_symlink() and all_users(tmp_path / "disk" / "real")["rank"].max() == k
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["real"]


def test_a_folder_of_lists_that_cannot_be_replaced_is_told(tmp_path, monkeypatch):
    with small_disk(tmp_path / "lists", 1) as mounted, pytest.raises(UserError, match="mount point.*a folder inside"):
        write_lists(bundle(), mounted, ListsConfig(k=3))

    def refuse(path: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(UserError, match=r"the folder of the lists cannot be written .*lists.out or --out"):
        write_lists(bundle(), tmp_path / "other", ListsConfig(k=3))


KILLED = """
import sys, time
from pathlib import Path
from darec.serving import lists
from darec.serving.bundle import Bundle
from schemas.lists import ListsConfig
ranked, count = lists._ranked, 0
def slow(*arguments):
    global count
    if (count := count + 1) > 3:
        print("half", flush=True)
        time.sleep(600)
    return ranked(*arguments)
lists._ranked, lists._BLOCK, lists._READ = slow, 8, 0
lists.write_lists(Bundle.open(Path(sys.argv[1])), Path(sys.argv[2]), ListsConfig(k=3, partitions=2))
"""


@pytest.mark.parametrize("before", [False, True])
def test_a_killed_process_leaves_the_old_lists_or_none(before, tmp_path):
    out = tmp_path / "lists"
    if before:
        write_lists(bundle(), out, ListsConfig(k=5))
    command = [sys.executable, "-c", KILLED, str(bundle().folder), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        with pytest.raises(UserError, match="another process is writing these lists"):
            write_lists(bundle(), out, ListsConfig(k=4))
        process.send_signal(signal.SIGKILL)
    assert out.exists() == before
    assert (all_users(out)["rank"].max() if before else None) == (5 if before else None)

    write_lists(bundle(), out, ListsConfig(k=4, partitions=3))
    assert all_users(out)["rank"].max() == 4
    assert [path.name for path in tmp_path.iterdir()] == ["lists"]


def test_memory_is_that_of_a_block(tmp_path, monkeypatch):
    heights = []
    ranked = lists._ranked

    def measured(bundle, users, *others):
        heights.append(users.height)
        return ranked(bundle, users, *others)

    monkeypatch.setattr(lists, "_ranked", measured)
    monkeypatch.setattr(lists, "_BLOCK", 16)
    monkeypatch.setattr(lists, "_READ", 32 * bundle().report.width)
    write_lists(bundle(), tmp_path / "lists", ListsConfig())
    assert heights == [16, 16, 8]


def test_lists_in_an_object_store_are_those_of_a_folder_and_whole_at_any_moment(tmp_path, monkeypatch):
    with S3().served() as server, configured(server):
        out, config = server.new_bucket(), ListsConfig(k=5, partitions=2)
        write_lists(bundle(), tmp_path / "lists", config)
        write_lists(bundle(), out, config)

        def remote() -> pl.DataFrame:
            manifest = written(out)
            assert manifest is not None and len(manifest.files) == 2
            return pl.concat([pl.read_parquet(Objects(out).read(name)[0]) for name in manifest.files])

        check_same(remote(), all_users(tmp_path / "lists"))
        first = written(out)

        def break_at_the_second(path: str) -> None:
            if "part-00001" in path:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
            put = Objects.put
            patch.setattr(Objects, "put", lambda self, name, it: (break_at_the_second(name), put(self, name, it)))
            write_lists(bundle(), out, config)
        assert written(out) == first and remote().height
        write_lists(bundle(), out, config)
        names = {each.name for each in Objects(out).list("")}
        assert written(out) != first and names == {MANIFEST, *written(out).files}
        write_lists(bundle(), out, config)

        other = server.new_bucket()
        Objects(other).put("something", b"else")
        with pytest.raises(UserError, match="contains other files than lists"):
            write_lists(bundle(), other, config)
        with pytest.raises(UserError, match="there is no such bucket"):
            write_lists(bundle(), "s3://nowhere/lists", config)
    assert ListsConfig(out="s3://shop/lists").out == "s3://shop/lists"
    assert ListsConfig(out="data/lists").out == Path("data/lists")


def test_somebody_who_was_forgotten_has_no_list_and_takes_nobody_elses(tmp_path):
    store = Store(tmp_path / "store")
    whole = Bundle.open(export(store, contents(users=10, seed=3)).path)
    (tmp_path / "without").mkdir()
    write_without(whole.folder, tmp_path / "without", "u4")
    left = Bundle(tmp_path / "without", read_report(tmp_path / "without"))
    for name, bundle in (("before", whole), ("after", left)):
        write_lists(bundle, tmp_path / name, ListsConfig(k=5, partitions=2))
    before, after = all_users(tmp_path / "before"), all_users(tmp_path / "after")
    check_same(after, before.filter(pl.col("user_id") != "u4"))


def test_a_vector_of_zeros_ranks_nothing_and_gives_the_popular_items_in_both_ways(tmp_path):
    sample = contents(users=12, seed=3, cold_users=2)
    vectors = vectors_of(sample.users).copy()
    vectors[[4, 11]] = 0  # a user with train interactions, and one whose text predicts nothing
    users = sample.users.with_columns(vector=pl.Series(vectors, dtype=sample.users.schema["vector"]))
    zero = replace(sample, users=users, cold_vectors="text")
    release = Bundle.open(export(Store(tmp_path / "store"), zero).path)
    write_lists(release, tmp_path / "lists", ListsConfig(k=5))
    lists = all_users(tmp_path / "lists")
    check_same(lists, recommend_many(release, release.user_ids().to_list(), 5))

    source = dict(lists.select("user_id", "source").iter_rows())
    assert {user for user, each in source.items() if each == "popularity"} == {"u4", "u11"}
    assert (source["u3"], source["u10"]) == ("model", "text")
    popular = release.items.sort("train_count", descending=True, maintain_order=True)["item_id"].to_list()
    for user in (4, 11):
        seen = {f"i{item}" for item in sample.seen.filter(user_index=user)["item_index"]}
        expected = [item for item in popular if item not in seen][:5]
        assert lists.filter(user_id=f"u{user}")["item_id"].to_list() == expected


def test_a_run_whose_lists_cannot_be_written_does_no_work(tmp_path):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "notes.txt").touch()
    (tmp_path / "file").touch()
    for out, said in ((tmp_path / "lists", "contains other files"), (tmp_path / "file" / "lists", "cannot be written")):
        chosen = recipe(tmp_path, lists={"out": str(out)})
        with pytest.raises(UserError, match=f"the folder .*{said}") as found:
            prepare(chosen)
        assert found.value.where == str(out)


def test_a_run_ends_with_the_lists_of_the_current_release(tmp_path, monkeypatch):
    for name, fake in FAKES.items():
        monkeypatch.setitem(TASKS, name, fake)
    chosen = recipe(tmp_path, lists={"out": str(tmp_path / "lists"), "k": 3})
    first = run_pipeline(chosen)
    assert [(result.stage, result.state) for result in first[-2:]] == [("publish", "published"), ("lists", "written")]
    manifest = written(tmp_path / "lists")
    assert manifest is not None and manifest.release == first[-3].artifact.key

    assert [step.state for step in plan(chosen, Store(chosen.runtime.store))][-2:] == ["hit", "hit"]
    assert run_pipeline(chosen)[-1].cached
    longer = chosen.model_copy(update={"lists": chosen.lists.model_copy(update={"k": 4})})
    assert plan(longer, Store(longer.runtime.store))[-1].why == ("to be written",)
    assert run_pipeline(longer)[-1].state == "written"
    assert run_pipeline(chosen.model_copy(update={"lists": None}))[-1].stage == "publish"


def test_lists_that_were_written_follow_a_rollback(tmp_path):
    before, now = bundle().folder, bundle("ivf").folder
    config, rules = ListsConfig(out=tmp_path / "lists", k=3), RulesConfig(blocked=("i7",))
    assert follow_by_hand(now, config, rules) is None, "none were written before"
    write_lists(Bundle.open(before), config.out, config, rules)
    assert follow_by_hand(now, None, rules) is None
    assert follow_by_hand(now, config, rules) == written(config.out) and written(config.out).release == now.name
    assert follow_by_hand(now, config, rules) is None
