"""Places in a recipe: which are taken, and that no password is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darec.common.errors import UserError
from darec.common.recipes import configure
from darec.dataset.addresses import place_of
from schemas.data import DataConfig
from schemas.recipe import Recipe
from schemas.section import hashed

QUERY = {"query": "SELECT * FROM events"}


def data(interactions: object, **more: object) -> DataConfig:
    section = {"source": "csv", "interactions": interactions, "interaction_columns": {"timestamp": "at"}, **more}
    return configure(Recipe, {"data": section}, where="test").data


@pytest.mark.parametrize(
    "place",
    [
        "s3://shop/log/*.csv",
        "gs://shop/log",
        "az://shop/log.csv",
        "https://example.com:8080/a@b/log.csv",
        "https://${USER}:${PASSWORD}@example.com/log.csv?token=${TOKEN}",
        "http://127.0.0.1:8000/log.csv",
        "http://localhost/log.csv",
        "log=1.csv",
        ["a.csv", "s3://shop/b.csv"],
        {"train": "s3://shop/a.csv", "test": ["b.csv"]},
        {"kind": "postgresql", **QUERY},
        {"kind": "postgresql", "url": "${SHOP_DATABASE}", "watermark": "id", "key": ["id"], "lag": 3, **QUERY},
        {"kind": "adbc", "driver": "adbc_driver_x", "options": {"password": "${P}", "adbc.x.region": "eu"}, **QUERY},
        {"kind": "duckdb", "file": "shop.duckdb", **QUERY},
        {"kind": "delta", "table": "s3://lake/events", "version": 3},
        {"kind": "iceberg", "table": "shop.events", "catalog": "prod"},
    ],
)
def test_places_are_taken_and_stay_out_of_the_key(place):
    config = data(place)
    assert hashed(config) == hashed(data("log.csv"))
    again = DataConfig.model_validate_json(config.model_dump_json(exclude_defaults=True))
    assert again.interactions == config.interactions


SECRET = "hunter2"


@pytest.mark.parametrize(
    "place",
    [
        f"https://me:{SECRET}@example.com/log.csv",
        f"https://me:a/{SECRET}@example.com/log.csv",
        f"https://example.com/log.csv?access_token={SECRET}",
        f"https://example.com/log.csv?x=1&X-Amz-Signature={SECRET}",
        f"https://account.blob.core.windows.net/shop/log.csv?sv=2024&sig={SECRET}",
        ["a.csv", f"s3://key:{SECRET}@shop/log.csv"],
        {"train": f"https://me:{SECRET}@example.com/log.csv"},
        {"kind": "postgresql", "url": f"postgresql://me:{SECRET}@db/shop", **QUERY},
        {"kind": "postgresql", "url": f"postgresql://db/shop?password={SECRET}", **QUERY},
        {"kind": "adbc", "driver": "d", "url": f"host=db password={SECRET}", **QUERY},
        {"kind": "adbc", "driver": "d", "options": {"adbc.x.auth_token": SECRET}, **QUERY},
    ],
)
def test_a_password_in_a_recipe_is_refused_and_not_shown(place):
    with pytest.raises(UserError, match=r"put \$\{NAME\} in its place") as found:
        data(place)
    assert SECRET not in str(found.value)


@given(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=4))
def test_no_password_is_shown_whatever_it_is(password):
    with pytest.raises(UserError) as found:
        data({"kind": "postgresql", "url": f"postgresql://u:{password}@db.example/x", **QUERY})
    shown = str(found.value).replace("postgresql", "").replace("data.interactions.url", "")
    assert password not in shown or password in "a password or token is written in it NAME environment config schema"


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("http://example.com/log.csv", "data.interactions: http:// is not encrypted"),
        ("ftp://example.com/log.csv", "known: s3://, gs://, az://, https://"),
        ("postgresql://db/shop", "a database needs a query"),
        ({"kind": "oracle"}, "unknown kind of table; known: postgresql, adbc"),
        ({"kind": "postgresql"}, "data.interactions.query: Field required"),
        ({"kind": "postgresql", "qery": "x", **QUERY}, "data.interactions.qery: unknown key, did you mean 'query'"),
        ({"kind": "delta", "table": "lake", "key": ["id"]}, "key needs watermark"),
        ({"kind": "delta", "table": "lake", "lag": "soon"}, "data.interactions.lag"),
        ({"kind": "iceberg", "table": "events"}, "data.interactions.table"),
    ],
)
def test_what_is_wrong_with_a_place_is_told_with_its_field(place, words):
    with pytest.raises(UserError) as found:
        data(place)
    assert words in str(found.value)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("log.csv", "log.csv"),
        ("s3://shop/log#1.csv", "s3://shop/log#1.csv"),
        ("postgresql://db/shop#events", {"kind": "postgresql", "url": "postgresql://db/shop", **QUERY}),
        ("shop.duckdb#SELECT 1 AS a", {"kind": "duckdb", "file": "shop.duckdb", "query": "SELECT 1 AS a"}),
        ("adbc_driver_x:a:b#events", {"kind": "adbc", "driver": "adbc_driver_x", "url": "a:b", **QUERY}),
        ("delta:s3://lake/events", {"kind": "delta", "table": "s3://lake/events"}),
        ("iceberg:shop.events", {"kind": "iceberg", "table": "shop.events"}),
        ("iceberg:prod/shop.events", {"kind": "iceberg", "table": "shop.events", "catalog": "prod"}),
    ],
)
def test_tables_have_addresses_on_the_command_line(text, place):
    assert place_of(text) == place


def test_a_database_without_a_table_is_refused():
    with pytest.raises(UserError, match="address#TABLE"):
        place_of("postgresql://db/shop")
