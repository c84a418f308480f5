"""A password in the address of the LLM server reaches the server and nothing else."""

import json
import pickle
from pathlib import Path

import pytest
from typer.testing import CliRunner

from darec.common.errors import TransientError, UserError
from darec.common.recipes import load_recipe
from pipelines.cli import app
from schemas.recipe import Recipe
from schemas.secret import redacted
from schemas.section import hashed
from schemas.semantic import LLMConfig

URL = "https://bob:p4ssw0rd@llm.example:8443/v1?api_key=t0ken&v=1"
SHOWN = "https://***@llm.example:8443/v1?***"


def secrets_in(text: str) -> list[str]:
    return [secret for secret in ("bob", "p4ssw0rd", "t0ken") if secret in text]


def test_no_form_of_a_configuration_shows_it_and_the_client_gets_it() -> None:
    recipe = Recipe.model_validate({"llm": {"server_url": URL}})
    shown = (
        str(recipe),
        repr(recipe),
        f"{recipe.llm.server_url}",
        json.dumps(recipe.model_dump(mode="json")),
        recipe.model_dump_json(),
        str(recipe.model_dump()),
        str(hashed(recipe)),
    )
    assert [secrets_in(text) for text in shown] == [[]] * len(shown)
    assert recipe.model_dump(mode="json")["llm"]["server_url"] == str(recipe.llm.server_url) == SHOWN
    assert pickle.loads(pickle.dumps(recipe)).llm.server_url.get_secret_value() == URL
    assert recipe.llm.server_url.get_secret_value() == URL


def test_an_address_without_secrets_is_shown_whole_and_reads_back() -> None:
    assert str(LLMConfig().server_url) == "http://127.0.0.1:8000/v1"
    assert Recipe.model_validate(Recipe().model_dump(mode="json")) == Recipe()
    assert LLMConfig.model_json_schema()["properties"]["server_url"]["default"] == "http://127.0.0.1:8000/v1"


def test_the_command_line_shows_the_recipe_without_it(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"llm: {{engine: server, server_url: '{URL}'}}\n")
    shown = CliRunner().invoke(app, ["config", "show", "--recipe", str(path)])
    assert shown.exit_code == 0 and SHOWN in shown.output and secrets_in(shown.output) == []
    (tmp_path / "copied.yaml").write_text(shown.output)
    with pytest.raises(UserError, match="password was left out where it was printed"):
        load_recipe(tmp_path / "copied.yaml")


@pytest.mark.parametrize(
    "given",
    [
        "http://bob:p4ssw0rd",
        "bob:p4ssw0rd@host/v1",
        "ftp://bob:p4ssw0rd@host",
        "http://bob:p4ss w0rd@host",
        "http://bob:p4ssw0rd@host:99999/v1",
        "http://bob:p4ssw0rd@host/v1\x1b[31m",
        {"p4ssw0rd": 1},
        None,
    ],
)
def test_a_wrong_address_is_refused_without_being_shown(given: object) -> None:
    with pytest.raises(UserError, match=r"llm\.server_url.*http://HOST") as caught:
        load_recipe(None, [f"llm.server_url={json.dumps(given)}"])
    assert secrets_in(str(caught.value)) == []


def test_a_recipe_that_cannot_be_read_is_not_quoted_with_its_password(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"llm: {{server_url: {URL}, : ]\n")
    with pytest.raises(UserError) as caught:
        load_recipe(path)
    assert secrets_in(str(caught.value)) == []


def test_no_error_shows_a_password_wherever_its_words_come_from() -> None:
    error = TransientError(f"no answer of {URL}", where=URL, hint=f"curl '{URL}'")
    assert secrets_in(f"{error!r} {error} {error.what} {error.where} {error.hint} {error.args}") == []
    assert redacted("mail bob@example.org, see https://example.org/a?b=c") == (
        "mail bob@example.org, see https://example.org/a?b=c"
    )


def test_a_flow_is_not_given_it_as_a_parameter(tmp_path: Path) -> None:
    command = ["run", "--prefect", "--set", f"llm.server_url={URL}", "--set", f"runtime.store={tmp_path}"]
    refused = CliRunner().invoke(app, command)
    assert isinstance(refused.exception, UserError) and "Prefect would keep the password" in str(refused.exception)
    assert secrets_in(str(refused.exception)) == []
