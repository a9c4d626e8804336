"""What clients rely on and the specification does not say: prefixes, lenient bodies, waits, retries, hints."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from replicate_in_thread import PNG_URL, VERSION, Model, Replicate, replicate
from replicate_processes import until
from sqlalchemy import Connection

from harness.replicate.settings import Rehearsals
from harness.replicate.tables import JsonValue


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicate]:
    """A local Replicate for tests that leave no trace."""
    with replicate(tmp_path_factory.mktemp("shared")) as server:
        yield server


@pytest.mark.parametrize("prefix", ["", "/v1", "/v1/v1"])
def test_every_base_url_that_clients_make_works(shared: Replicate, prefix: str) -> None:
    made = shared.post(f"{prefix}/predictions", json={"version": VERSION, "input": {"img": PNG_URL}})
    assert made.status_code == 201
    assert shared.get(f"{prefix}/predictions/{made.json()['id']}").json()["id"] == made.json()["id"]


def test_urls_name_the_host_that_the_client_used(shared: Replicate) -> None:
    port = shared.base_url.port
    made = shared.create(headers={"Host": f"localhost:{port}"}).json()
    assert all(url.startswith(f"http://localhost:{port}/v1/") for url in made["urls"].values())


def test_a_public_url_is_used_instead(tmp_path: Path) -> None:
    with replicate(tmp_path, public_url="https://photos.example") as server:
        assert server.create().json()["urls"]["get"].startswith("https://photos.example/v1/predictions/")


def test_every_key_is_there_from_the_start(tmp_path: Path) -> None:
    with replicate(tmp_path, Model(holds=True)) as server:
        made = server.create().json()
        assert made["status"] == "starting"
        assert made["logs"] == ""
        assert made["metrics"] == {}
        nulls = ("output", "error", "started_at", "completed_at", "deadline", "deployment", "webhook")
        assert [made[key] for key in nulls] == [None] * len(nulls)


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", "application/json", None])
def test_json_is_taken_under_any_content_type(shared: Replicate, content_type: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    body = f'{{"version": "{VERSION}", "input": {{"img": "{PNG_URL}"}}, "webhook": null}}'
    assert shared.post("/v1/predictions", content=body, headers=headers).status_code == 201


@pytest.mark.parametrize("content", [b"", b"{}"])
def test_a_cancel_may_have_any_empty_body(shared: Replicate, content: bytes) -> None:
    made = shared.create(headers={"Prefer": "wait"}).json()
    headers = {"Content-Type": "application/json"}
    cancelled = shared.post(f"/v1/predictions/{made['id']}/cancel", content=content, headers=headers)
    assert cancelled.json()["status"] == "succeeded"


@pytest.mark.parametrize("query", ["gfpgan", '"gfpgan"', '  "gfpgan"\n'])
def test_a_search_takes_plain_and_quoted_text(shared: Replicate, query: str) -> None:
    found = shared.request("QUERY", "/v1/models", content=query).json()
    assert [model["name"] for model in found["results"]] == ["gfpgan"]


def test_wait_answers_as_soon_as_there_is_an_output(shared: Replicate) -> None:
    answer = shared.create(headers={"Prefer": "wait=30"})
    assert answer.status_code == 201
    assert answer.headers["preference-applied"] == "wait=30"
    assert answer.headers["location"] == answer.json()["urls"]["get"]
    assert answer.json()["status"] == "succeeded"


def test_a_wait_that_was_too_short_says_starting(tmp_path: Path) -> None:
    """The clients take "processing" for an end and return nothing."""
    model = Model(holds=True)
    with replicate(tmp_path, model) as server:
        answer = server.create(headers={"Prefer": "wait=1"})
        assert model.ran
        assert answer.status_code == 202
        assert (answer.json()["status"], answer.json()["started_at"]) == ("starting", None)
        assert server.prediction(answer.json()["id"])["status"] == "processing"


def test_a_wait_ends_before_the_client_would_send_again(tmp_path: Path) -> None:
    with replicate(tmp_path, Model(holds=True)) as server:
        answer = server.create(headers={"Prefer": "wait", "x-stainless-read-timeout": "2"})
        assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=1")


def test_a_retry_joins_the_prediction_of_its_first_try(shared: Replicate) -> None:
    first = shared.create(headers={"x-stainless-retry-count": "0"}).json()
    again = shared.create(headers={"x-stainless-retry-count": "1"})
    assert again.json()["id"] == first["id"]
    assert "joined" in again.headers["x-local-warning"]
    other = shared.create(headers={"x-stainless-retry-count": "1", "Authorization": "Bearer somebody-else"})
    assert other.json()["id"] != first["id"]
    assert shared.create().json()["id"] != first["id"]  # the same request again, but no retry


def test_both_published_versions_are_the_local_model(shared: Replicate) -> None:
    own, *aliases = shared.service.served.versions
    for version in (own, *aliases, f"tencentarc/gfpgan:{aliases[0]}"):
        assert shared.create(version=version).json()["version"] == version.rpartition(":")[2]
    newest = shared.get("/v1/models/tencentarc/gfpgan").json()["latest_version"]
    assert newest["id"] == own


@pytest.mark.parametrize("version", ["0" * 64, "somebody/else", f"somebody/else:{VERSION}", "no version", ""])
def test_an_unknown_version_is_refused_with_a_hint(shared: Replicate, version: str) -> None:
    refused = shared.create(version=version)
    assert refused.status_code == 422
    assert refused.json()["title"] == "Invalid version or not permitted"
    assert "tencentarc/gfpgan" in refused.json()["hint"]


def test_the_short_form_works_and_warns(shared: Replicate) -> None:
    answer = shared.post("/v1/models/tencentarc/gfpgan/predictions", json={"input": {"img": PNG_URL}})
    assert answer.status_code == 201
    assert "official" in answer.headers["x-local-warning"]
    missing = shared.post("/v1/models/some/body/predictions", json={"input": {"img": PNG_URL}})
    assert (missing.status_code, missing.json()["status"]) == (404, 404)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/predictions/nothing"),
        ("GET", "/v1/no/such/route"),
        ("DELETE", "/v1/predictions"),
        ("POST", "/v1/trainings/x"),
        ("GET", "/v1/predictions?cursor=%F0"),
        ("GET", "/v1/predictions?created_after=yesterday"),
    ],
)
def test_every_refusal_is_a_problem_in_json(shared: Replicate, method: str, path: str) -> None:
    refused = shared.request(method, path)
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["status"] == refused.status_code >= 400
    assert refused.json()["detail"]


@pytest.mark.parametrize("body", [b"{", b"[]", b'"text"', b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_no_object_is_refused(shared: Replicate, body: bytes) -> None:
    assert shared.post("/v1/predictions", content=body).status_code == 400


def test_head_and_options_are_answered(shared: Replicate) -> None:
    assert shared.head("/v1/predictions").status_code == 200
    options = shared.options("/v1/predictions")
    assert options.status_code == 204
    assert {"GET", "POST"} <= set(options.headers["allow"].split(", "))


def test_pages_of_this_machine_may_call_and_others_may_not(shared: Replicate) -> None:
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    own = shared.options("/v1/predictions", headers={"Origin": "http://localhost:3000", **asks})
    assert own.headers["access-control-allow-origin"] == "http://localhost:3000"
    foreign = shared.options("/v1/predictions", headers={"Origin": "https://evil.example", **asks})
    assert "access-control-allow-origin" not in foreign.headers


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80"])
def test_a_name_that_a_stranger_pointed_here_is_refused(shared: Replicate, host: str) -> None:
    assert shared.get("/v1/predictions", headers={"Host": host}).status_code == 403


@pytest.mark.parametrize(("given", "status"), [("Bearer x", 200), ("Token x", 200), ("Bearer", 401), ("x", 401)])
def test_any_token_will_do_but_none_will_not(shared: Replicate, given: str, status: int) -> None:
    answer = httpx.get(shared.base_url.join("/v1/account"), headers={"Authorization": given}, trust_env=False)
    assert answer.status_code == status
    if status == 401:
        assert answer.json()["title"] == "Unauthenticated"


def test_a_fixed_token_is_the_only_one(tmp_path: Path) -> None:
    with replicate(tmp_path, token="s3cret") as server:
        assert server.get("/v1/account").status_code == 401
        assert server.get("/v1/account", headers={"Authorization": "Token s3cret"}).status_code == 200


def test_lists_go_forth_and_back_through_every_row_once(tmp_path: Path) -> None:
    with replicate(tmp_path, Model(holds=True), page=3) as server:
        made = [server.create().json()["id"] for _ in range(8)]
        seen, page = [], server.get("/v1/predictions").json()
        assert page["previous"] is None
        while True:
            seen += [row["id"] for row in page["results"]]
            if page["next"] is None:
                break
            page = server.get(page["next"]).json()
        assert seen == made[::-1]
        back: list[str] = []
        while page["previous"]:
            page = server.get(page["previous"]).json()
            back = [row["id"] for row in page["results"]] + back
        assert back == seen[: len(back)] == seen[:6]


def test_lists_can_be_limited_in_time(tmp_path: Path) -> None:
    with replicate(tmp_path) as server:
        _, second, third = (server.create().json() for _ in range(3))
        limits = {"created_after": second["created_at"], "created_before": third["created_at"]}
        assert [row["id"] for row in server.get("/v1/predictions", params=limits).json()["results"]] == [second["id"]]
        assert server.get("/v1/predictions", params={"source": "web"}).json()["results"] == []


def test_what_this_server_does_and_the_service_does_not_is_told(shared: Replicate) -> None:
    answer = shared.create(webhook="http://localhost:9/hook", input={"img": PNG_URL, "inptu": 1})
    assert answer.status_code == 201
    assert "public https" in answer.headers["x-local-warning"]
    assert "'inptu'" in answer.headers["x-local-warning"]


def test_a_warning_cannot_break_the_header(shared: Replicate) -> None:
    answer = shared.create(input={"img": PNG_URL, "a\r\nSet-Cookie: b\u2028ü": 1})
    assert answer.status_code == 201
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "request_of",
    [
        lambda c: c.post("/v1/models/tencentarc/gfpgan/predictions", json={"input": {"img": PNG_URL}}),
        lambda c: c.create(version="tencentarc/gfpgan"),
        lambda c: c.create(webhook="http://localhost:3000/hook"),
        lambda c: c.create(headers={"Prefer": "wait=61"}),
        lambda c: c.create(headers={"Authorization": "Bearer not-a-real-token"}),
    ],
)
def test_strict_refuses_what_the_service_would_refuse(tmp_path: Path, request_of: JsonValue) -> None:
    with replicate(tmp_path, strict=True) as server:
        assert 400 <= request_of(server).status_code < 500
        assert server.create().status_code == 201


def test_a_rehearsed_rate_limit_answers_as_the_service_does(tmp_path: Path) -> None:
    with replicate(tmp_path, rehearsals=Rehearsals(rate_limit_per_min=2)) as server:
        assert server.create().headers["ratelimit-remaining"] == "1"
        server.create()
        refused = server.create()
        assert refused.status_code == 429
        assert refused.json()["detail"].startswith("Request was throttled. Your rate limit resets in ~")
        assert int(refused.headers["retry-after"]) == refused.json()["retry_after"] > 0
        assert server.get("/v1/predictions").status_code == 200


def _pages(limit: int) -> JsonValue:
    def change(connection: Connection) -> int:
        used: int = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count={used + limit}")
        return used

    return change


def _limit_store(server: Replicate, pages: int) -> None:
    """Let the store grow by no more than so many pages, as a full disk would."""

    async def limit() -> None:
        await server.service.database.write(_pages(pages))

    asyncio.run(limit())


def test_a_full_disk_is_an_error_for_the_client_and_loses_nothing(tmp_path: Path) -> None:
    model = Model(holds=True, output="long " * 100_000)
    with replicate(tmp_path, model) as server:
        running = server.create().json()["id"]
        until(lambda: model.ran)
        _limit_store(server, 0)
        refused = server.create(input={"img": f"http://localhost/{'x' * 20_000}"})
        assert (refused.status_code, refused.json()["title"]) == (507, "Insufficient storage")
        model.released.set()  # and its output finds no room
        _limit_store(server, 100_000)
        assert server.ended(running)["status"] == "succeeded"
        assert server.create(headers={"Prefer": "wait"}).json()["status"] == "succeeded"
        assert len(server.get("/v1/predictions").json()["results"]) == 2
