"""The client of object stores, against a real S3 server."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from darec.common import objects
from darec.common.errors import TransientError, UserError
from darec.common.objects import Objects
from tests.buckets import S3, configured
from tests.processes import free_port


@pytest.fixture(scope="module")
def server():
    with S3().served() as server, configured(server):
        yield server


@pytest.fixture
def bucket(server):
    return Objects(server.new_bucket())


def test_what_is_written_is_read(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(objects, "_CHUNK", 2**20)
    assert bucket.read("a/b") is None
    (tmp_path / "file").write_bytes(b"x" * 6_000_000)  # more than one part

    bucket.put("a/b", b"1")
    bucket.put("a/c", tmp_path / "file")

    assert bucket.read("a/b")[0] == b"1"
    assert [len(chunk) for chunk in bucket.chunks("a/c")] == [2**20] * 5 + [6_000_000 - 5 * 2**20]
    assert b"".join(bucket.chunks("a/c")) == b"x" * 6_000_000
    assert [(each.name, each.bytes) for each in bucket.list("a/")] == [("a/b", 1), ("a/c", 6_000_000)]
    bucket.move("a/c", "d/c")
    bucket.delete(["a/b", "never/there"])
    assert [each.name for each in bucket.list("")] == ["d/c"]


def test_of_many_who_create_one_object_one_wins(bucket):
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda number: bucket.create("lease", b"%d" % number), range(8)))

    assert len([version for version in versions if version]) == 1
    winner = next(number for number, version in enumerate(versions) if version)
    assert bucket.read("lease") == (b"%d" % winner, versions[winner])


def test_a_swap_needs_the_version_that_is_there(bucket):
    first = bucket.create("pointer", b"1")
    second = bucket.swap("pointer", b"2", first)
    assert second
    assert bucket.swap("pointer", b"3", first) is None
    assert bucket.read("pointer")[0] == b"2"
    assert bucket.swap("not/there", b"3", first) is None


def test_a_write_that_was_done_before_its_answer_got_lost_is_no_conflict(bucket):
    version = bucket.create("lease", b"mine")
    assert bucket.create("lease", b"mine") == version
    assert bucket.swap("lease", b"mine", '"another"') == version


def test_no_bucket_no_rights_no_network_and_no_such_scheme_are_told_apart(server, bucket, monkeypatch):
    for use in (lambda store: store.put("a", b"1"), lambda store: list(store.list(""))):
        with pytest.raises(UserError, match="there is no such bucket") as nowhere:
            use(Objects("s3://nobody-made-it/prefix"))
        assert "create the bucket" in nowhere.value.hint

    monkeypatch.setattr(server, "refuses", True)
    with pytest.raises(UserError, match="refuses these credentials") as refused:
        bucket.read("a")
    assert "AWS_ACCESS_KEY_ID" in refused.value.hint

    monkeypatch.setitem(objects._RETRY, "max_retries", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(TransientError, match="does not answer"):
        Objects(bucket.url).read("a")

    with pytest.raises(UserError, match="cannot be used"):
        Objects("ftp2://somewhere/x")
