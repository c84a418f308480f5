"""`darec serve`: recommendations of the current release over HTTP."""

import inspect
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from darec.common.errors import DarecError, UnknownIdError, UserError
from darec.serving.bundle import Bundle
from darec.serving.recommend import recommend_histories, recommend_many, similar
from darec.serving.releases import Releases
from schemas import columns as c
from schemas.rules import RulesConfig

_MOST = 1_000  # maximum number of items per answer, and of users per request
_Users = Annotated[list[str] | None, Query(max_length=_MOST, description="External user id. May be repeated.")]
_Histories = Annotated[
    list[str] | None, Query(max_length=_MOST, description="Items of an unknown user: ITEM,ITEM. May be repeated.")
]
_Item = Annotated[str, Query(description="External item id.")]
_Rule = Annotated[list[str] | None, Query(max_length=_MOST, description="As the option of `darec recommend`.")]
_Count = Annotated[int, Query(ge=1, le=_MOST, description="Number of items.")]

_logger = logging.getLogger(__name__)


class Failure(BaseModel):
    """The answer to a request that fails."""

    error: str
    """What is wrong, and how to fix it."""


_FAILURES: dict[int | str, dict[str, Any]] = {status: {"model": Failure} for status in (404, 422, 500, 503)}


@dataclass(frozen=True)
class Served:
    """A release whose files are open and loaded."""

    release: str
    bundle: Bundle
    since: datetime


class NotServedError(DarecError):
    """No release could be opened yet. The log has the reason once, and not for each request."""


class LiveRelease:
    """Serves the current release. A new release is served once it is loaded; until then the old one is."""

    def __init__(self, store: Path, refresh: float, announce: Callable[[str], None]) -> None:
        self._releases, self._refresh, self._announce = Releases(store), refresh, announce
        self._served: Served | None = None
        self._ended = threading.Event()
        self._failure: DarecError | None = None

    @property
    def served(self) -> Served:
        """The release that is served. Raises NotServedError if there is none."""
        if self._served is None:
            failure = self._failure or DarecError("no release is open yet")
            raise NotServedError(failure.what, where=failure.where, hint=failure.hint)
        return self._served

    @property
    def trouble(self) -> str | None:
        """Why the current release is not served, without the paths of the machine; None if it is."""
        return _message(self._failure) if self._failure else None

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Checks the store every `refresh` seconds in a thread."""
        self.look()
        thread = threading.Thread(target=self._follow, daemon=True)
        thread.start()
        yield
        self._ended.set()
        thread.join()

    def look(self) -> None:
        """Opens the current release if it has changed. If it cannot be opened, the old one is kept."""
        try:
            self._releases.refresh()
            folder = self._releases.serving().resolve()
            if self._served is None or self._served.bundle.folder != folder:
                bundle = Bundle.open(folder)
                _warm(bundle)
                record = self._releases.of_bundle(folder)
                self._served = Served(record.id if record else folder.name, bundle, datetime.now(UTC))
                self._announce(f"serving release {self._served.release}")
            self._failure = None
        except (DarecError, OSError) as error:
            failure = error if isinstance(error, DarecError) else _unreadable(error)
            if str(failure) != str(self._failure):
                _logger.warning("the current release cannot be opened: %s", failure)
            self._failure = failure

    def _follow(self) -> None:
        while not self._ended.wait(self._refresh):
            self.look()


def _unreadable(error: OSError) -> DarecError:
    return DarecError(f"its files cannot be read ({error.strerror})", where=str(error.filename or ""))


def _warm(bundle: Bundle) -> None:
    """Loads the data that the first request would have to wait for."""
    first = bundle.user_ids().head(1).to_list()
    if first:
        recommend_many(bundle, first, 1)
    if bundle.items.height:
        with suppress(UnknownIdError):  # this item has no vector
            similar(bundle, bundle.items[c.ITEM][0], 1)


@dataclass(frozen=True)
class _Measures:
    """The metrics of `/metrics`."""

    registry: CollectorRegistry
    requests: Counter
    seconds: Histogram
    since: Gauge

    @classmethod
    def new(cls) -> "_Measures":
        registry = CollectorRegistry()
        return cls(
            registry,
            Counter("darec_requests", "Requests by path and status.", ["path", "status"], registry=registry),
            Histogram("darec_request_seconds", "Duration of a request in seconds.", ["path"], registry=registry),
            Gauge(
                "darec_release_since_timestamp_seconds",
                "Time since which the release has been served.",
                ["release"],
                registry=registry,
            ),
        )


def make_app(
    store: Path, rules: Callable[..., RulesConfig], refresh: float = 5.0, announce: Callable[[str], None] = _logger.info
) -> FastAPI:
    """The HTTP service of the current release, which is checked every `refresh` seconds.

    `rules` merges the rules of a request into those of the recipe (`pipelines.cli.rules.requested`). Requests cannot
    name files. `announce` is told of every release that is served.
    """
    live = LiveRelease(store, refresh, announce)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with live.followed():
            yield

    app = FastAPI(title="darec", description="Recommendations of the current release.", lifespan=lifespan)
    _answer(app, live, rules)
    _observe(app, live)
    return app


def _answer(app: FastAPI, live: LiveRelease, rules: Callable[..., RulesConfig]) -> None:
    """Adds the queries: items for users and histories, and items similar to an item."""

    @app.get("/recommend", dependencies=[Depends(_check_names)], responses=_FAILURES)
    def recommend(
        user: _Users = None,
        history: _Histories = None,
        k: _Count = 10,
        block: _Rule = None,
        category: _Rule = None,
        block_category: _Rule = None,
        at_most: _Rule = None,
        seen: bool | None = None,
        min_diversity: float | None = None,
        only_new: bool | None = None,
        new_share: float | None = None,
        new_up_to: int | None = None,
    ) -> dict[str, Any]:
        """The best items of each user and for each history, under the rules of the recipe and the request, best first.

        A history is ITEM,ITEM,... of a user who is not in the release; its list contains none of them.
        """
        if not user and not history:
            raise UserError("name users or histories", where="rules", hint="give user=ID or history=ITEM,ITEM")
        served = live.served
        given = {"category": category, "block_category": block_category, "at_most": at_most}
        given |= {"only_new": only_new, "new_share": new_share, "new_up_to": new_up_to}
        asked = rules(block=block, seen=seen, min_diversity=min_diversity, **given)
        return _lists(served, user or [], history or [], k, asked)

    @app.get("/similar", dependencies=[Depends(_check_names)], responses=_FAILURES)
    def neighbours(
        item: _Item, k: _Count = 10, block: _Rule = None, category: _Rule = None, block_category: _Rule = None
    ) -> dict[str, Any]:
        """The items most similar to one item, of those that the rules of the recipe and the request allow."""
        served = live.served
        asked = rules(block=block, category=category, block_category=block_category)
        return {"release": served.release, "items": similar(served.bundle, item, k, asked).to_dicts()}


def _check_names(request: Request) -> None:
    """Refuses parameters that the query does not have: a misspelt rule would be ignored."""
    known = inspect.signature(request.scope["route"].endpoint).parameters
    unknown = sorted(set(request.query_params) - set(known))
    if unknown:
        raise UserError(f"there is no parameter {unknown[0]!r}", where="rules", hint=f"known: {', '.join(known)}")


def _lists(served: Served, users: list[str], histories: list[str], k: int, rules: RulesConfig) -> dict[str, Any]:
    """The lists of users by id, and of histories in their order."""
    of_users: dict[str, list[dict[str, Any]]] = {name: [] for name in users}
    if users:
        for row in recommend_many(served.bundle, list(of_users), k, rules).iter_rows(named=True):
            of_users[row.pop(c.USER)].append(row)

    of_histories: list[list[dict[str, Any]]] = [[] for _ in histories]
    if histories:
        known = [each.split(",") for each in histories]
        for row in recommend_histories(served.bundle, known, k, rules).iter_rows(named=True):
            of_histories[row.pop("history")].append(row)

    return {"release": served.release, "users": of_users, "histories": of_histories}


def _observe(app: FastAPI, live: LiveRelease) -> None:
    """Adds health, metrics, and answers to errors."""
    measures = _Measures.new()

    @app.get("/health")
    def health() -> Response:
        """200 if a release is served. `trouble` says why a newer one cannot be opened."""
        try:
            served = live.served
        except DarecError as error:
            return JSONResponse({"healthy": False, "trouble": _message(error)}, 503)
        facts = {"healthy": True, "release": served.release, "since": served.since.isoformat(timespec="seconds")}
        return JSONResponse(facts | {"trouble": live.trouble})

    @app.get("/metrics")
    def metrics() -> Response:
        """Requests, their seconds and the release, in the text format of Prometheus."""
        measures.since.clear()
        with suppress(DarecError):  # no release is served yet
            measures.since.labels(live.served.release).set(live.served.since.timestamp())
        return Response(generate_latest(measures.registry), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(DarecError)
    def failed(request: Request, error: DarecError) -> Response:
        """404: unknown id, or item without a vector. 422: rules that cannot be applied. 503: no release, or a file of
        the recipe's rules.
        """
        if isinstance(error, UnknownIdError):
            return _told(error, 404)
        if isinstance(error, UserError) and error.where.startswith("rules"):
            return _told(error, 422)
        if not isinstance(error, NotServedError):
            _logger.warning("a request failed: %s", error)
        return _told(error, 503)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        """422: a parameter is missing, or its value is of another type or out of range."""
        faults = "; ".join(f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in error.errors())
        return _told(UserError(faults, hint="/docs describes every parameter"), 422)

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: HTTPException) -> Response:
        """An unknown path or method."""
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.middleware("http")
    async def measured(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        began = time.perf_counter()
        try:
            response = await answer(request)
        except Exception:  # a fault of this program: its traceback is for the log
            _logger.exception("a request failed unexpectedly")
            hint = "the log of the server says why"
            response = _told(DarecError("the request failed unexpectedly", hint=hint), 500)
        known = request.scope.get("route")
        path = known.path if known else "other"  # unknown paths share one label
        measures.seconds.labels(path).observe(time.perf_counter() - began)
        measures.requests.labels(path, response.status_code).inc()
        return response


def _told(error: DarecError, status: int) -> Response:
    return JSONResponse({"error": _message(error)}, status)


def _message(error: DarecError) -> str:
    """What is wrong and how to fix it, without the paths of the machine."""
    return f"{error.what} -> {error.hint}" if error.hint else error.what
