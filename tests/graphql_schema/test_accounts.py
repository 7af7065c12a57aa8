"""Registering, signing in and out, and what a token is worth."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest

from app.auth import Tokens, derived_key
from app.passwords import Passwords
from tests.client import PASSWORD, Account, Client, Json
from tests.footprint import fetch
from tests.pictures import photograph
from tests.server import Server

PAYLOAD = "{ accessToken expiresAt refreshToken user { id displayName role createdAt } errors { code message path } }"
REGISTER = f"mutation($input: RegisterInput!) {{ register(input: $input) {PAYLOAD} }}"
LOGIN = f"mutation($input: LoginInput!) {{ login(input: $input) {PAYLOAD} }}"
REFRESH = f"mutation($input: RefreshSessionInput!) {{ refreshSession(input: $input) {PAYLOAD} }}"
LOGOUT = "mutation { logout { errors { code message path } } }"
VIEWER = "{ viewer { email user { id } } }"
STORAGE = "{ viewer { storage { mediaCount originalBytes variantBytes trashBytes quotaBytes } } }"
NOTHING = {"accessToken": None, "expiresAt": None, "refreshToken": None, "user": None}
WRONG = {"code": "UNAUTHENTICATED", "message": "No account has this e-mail and password.", "path": None}
USED_UP = {
    "code": "UNAUTHENTICATED",
    "message": "This refresh token is used up, and its session has ended. Sign in again.",
    "path": ["input", "refreshToken"],
}


def refused(*errors: Json) -> Json:
    return {**NOTHING, "errors": list(errors)}


def unused_email() -> str:
    return f"ada-{secrets.token_hex(6)}@example.org"


async def accounts_of(server: Server, email: str) -> list[dict[str, Any]]:
    return await fetch(server, "SELECT * FROM user_account WHERE lower(email) = lower($1)", email)


async def sessions_of(server: Server, user: str) -> list[dict[str, Any]]:
    return await fetch(server, 'SELECT * FROM session WHERE "user" = $1', uuid.UUID(user))


async def refused_at_the_door(client: Client, token: str, message: str) -> None:
    """401, GraphQL-shaped, whatever is asked."""
    response = await client.http.post(
        "/graphql", json={"query": "{ viewer { email } }"}, headers={"authorization": f"Bearer {token}"}
    )
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    assert response.json() == {"errors": [{"message": message, "extensions": {"code": "UNAUTHENTICATED"}}]}


# ---------------------------------------------------------------- register


async def test_who_registers_is_signed_in(server: Server, client: Client) -> None:
    email, before = f"Ada.{unused_email()}", datetime.now(UTC)
    payload = await client.ask(
        REGISTER, input={"email": f" {email} ", "password": PASSWORD, "displayName": " Ada  Lovelace "}
    )
    after = datetime.now(UTC)

    (row,) = await accounts_of(server, email)
    expires_at = datetime.fromisoformat(payload["expiresAt"])
    assert payload == {
        "accessToken": payload["accessToken"],
        "expiresAt": payload["expiresAt"],
        "refreshToken": payload["refreshToken"],
        "user": {
            "id": str(row["id"]),
            "displayName": "Ada Lovelace",
            "role": "USER",
            "createdAt": row["created_at"].isoformat().replace("+00:00", "Z"),
        },
        "errors": [],
    }
    assert before <= row["created_at"] <= after
    assert before + timedelta(minutes=15, seconds=-1) <= expires_at <= after + timedelta(minutes=15)
    assert (row["email"], row["role"], row["quota_bytes"]) == (email, "USER", None)
    assert row["password_hash"].startswith("$argon2id$")
    async with Client(server.url, payload["accessToken"]) as ada:
        assert await ada.ask(VIEWER) == {"email": email, "user": {"id": str(row["id"])}}


async def test_an_email_is_taken_in_any_case(server: Server, client: Client, ada: Account) -> None:
    given = {"email": ada.email.upper(), "password": PASSWORD, "displayName": "Another"}
    taken = {"code": "CONFLICT", "message": "There is an account with this e-mail.", "path": ["input", "email"]}
    assert await client.ask(REGISTER, input=given) == refused(taken)
    assert [str(row["id"]) for row in await accounts_of(server, ada.email)] == [ada.id]
    assert len(await sessions_of(server, ada.id)) == 1


async def test_of_two_who_register_at_once_one_does(server: Server, client: Client) -> None:
    email = unused_email()
    answers = await asyncio.gather(
        *(
            client.ask(REGISTER, input={"email": written, "password": PASSWORD, "displayName": "Ada"})
            for written in (email, email.upper())
        )
    )
    assert sorted(len(answer["errors"]) for answer in answers) == [0, 1]
    assert [error["code"] for answer in answers for error in answer["errors"]] == ["CONFLICT"]
    assert len(await accounts_of(server, email)) == 1


@pytest.mark.parametrize(("length", "taken"), [(9, False), (10, True), (200, True), (201, False)])
async def test_a_password_has_10_to_200_characters(server: Server, client: Client, length: int, taken: bool) -> None:
    email, password = unused_email(), "é" * length
    payload = await client.ask(REGISTER, input={"email": email, "password": password, "displayName": "Ada"})
    if taken:
        assert payload["errors"] == []
        assert (await client.ask(LOGIN, input={"email": email, "password": password}))["errors"] == []
        return
    message = "A password has 10 to 200 characters."
    assert payload == refused({"code": "BAD_INPUT", "message": message, "path": ["input", "password"]})
    assert await accounts_of(server, email) == []


@pytest.mark.parametrize(
    "email",
    [
        "",
        "ada",
        "ada@",
        "@example.org",
        "ada@example",
        "ada lovelace@example.org",
        "ada@exam ple.org",
        "ada@@example.org",
        "ada\x00@example.org",
        "ada@example.org\x00",
        "ada\x1f@example.org",
        "ada\x7f@example.org",
        "ada\n@example.org",
        f"{'a' * 65}@example.org",
        f"ada@{'a' * 247}.org",
    ],
)
async def test_what_is_no_email_is_refused(server: Server, client: Client, email: str) -> None:
    (before,) = await fetch(server, "SELECT count(*) FROM user_account")
    given = {"email": email, "password": PASSWORD, "displayName": "Ada"}
    message = "This is no e-mail address."
    assert await client.ask(REGISTER, input=given) == refused(
        {"code": "BAD_INPUT", "message": message, "path": ["input", "email"]}
    )
    # And nobody has it who would sign in.
    assert await client.ask(LOGIN, input={"email": email, "password": PASSWORD}) == refused(WRONG)
    assert await fetch(server, "SELECT count(*) FROM user_account") == [before]


async def test_the_longest_email_is_taken(client: Client) -> None:
    email = f"{secrets.token_hex(32)}@{'a' * 185}.org"
    assert len(email) == 254
    payload = await client.ask(REGISTER, input={"email": email, "password": PASSWORD, "displayName": "Ada"})
    assert payload["errors"] == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "This takes 1 to 200 characters."),
        (" \n ", "This takes 1 to 200 characters."),
        ("a" * 201, "This takes 1 to 200 characters."),
        ("Ada\x00", "Control characters have no place here."),
        ("Ada\x1b[31m", "Control characters have no place here."),
        ("Ada\x80", "Control characters have no place here."),
    ],
)
async def test_what_is_no_name_is_refused(server: Server, client: Client, name: str, message: str) -> None:
    email = unused_email()
    payload = await client.ask(REGISTER, input={"email": email, "password": PASSWORD, "displayName": name})
    assert payload == refused({"code": "BAD_INPUT", "message": message, "path": ["input", "displayName"]})
    assert await accounts_of(server, email) == []


async def test_a_password_may_hold_any_character(client: Client) -> None:
    email, password = unused_email(), "\x00\n\u200f𝔸 nul and more"
    given = {"email": email, "password": password, "displayName": "Ada"}
    assert (await client.ask(REGISTER, input=given))["errors"] == []
    assert (await client.ask(LOGIN, input={"email": email, "password": password}))["errors"] == []
    assert await client.ask(LOGIN, input={"email": email, "password": password[1:]}) == refused(WRONG)


@pytest.mark.parametrize("field", ["email", "password", "displayName"])
async def test_half_a_character_is_no_json(server: Server, client: Client, field: str) -> None:
    email = unused_email()
    given = {"email": email, "password": PASSWORD, "displayName": "Ada", field: "half \ud800@example.org"}
    body = json.dumps({"query": REGISTER, "variables": {"input": given}})
    response = await client.http.post("/graphql", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    (error,) = response.json()["errors"]
    assert error["extensions"] == {"code": "BAD_REQUEST"}
    assert await accounts_of(server, email) == []


# ---------------------------------------------------------------- login


async def test_login_gives_a_session_of_its_own(server: Server, client: Client, ada: Account) -> None:
    given = {"email": f" {ada.email.upper()} ", "password": PASSWORD}
    payload = await client.ask(LOGIN, input=given)
    assert payload == {**payload, "errors": []}
    assert (payload["user"]["id"], payload["user"]["displayName"], payload["user"]["role"]) == (ada.id, "Ada", "USER")
    assert payload["accessToken"] != ada.token
    assert payload["refreshToken"] != ada.refresh_token
    assert len(await sessions_of(server, ada.id)) == 2
    async with Client(server.url, payload["accessToken"]) as again:
        assert await again.ask(VIEWER) == {"email": ada.email, "user": {"id": ada.id}}


async def test_a_wrong_password_and_an_unknown_email_are_answered_alike(
    server: Server, client: Client, ada: Account
) -> None:
    answers = [
        await client.post(LOGIN, input={"email": email, "password": password})
        for email, password in (
            (ada.email, "wrong horse battery staple"),
            (unused_email(), PASSWORD),
            (ada.email, ""),
            (unused_email(), ""),
            (ada.email, "a" * 201),
            (unused_email(), "a" * 201),
        )
    ]
    assert answers == [{"data": {"login": refused(WRONG)}}] * 6
    assert len(await sessions_of(server, ada.id)) == 1


async def test_an_unknown_email_costs_the_work_of_a_known_one() -> None:
    passwords = Passwords()
    known = await passwords.hash(PASSWORD)

    async def work(password_hash: str | None) -> float:
        before = time.process_time()  # of all threads, and nothing of what else the machine does
        assert not await passwords.matches(password_hash, "wrong horse battery staple")
        return time.process_time() - before

    unknown_work, known_work = await work(None), await work(known)
    assert unknown_work > known_work / 2


async def test_an_endless_email_holds_nobody_up(client: Client) -> None:
    began = time.monotonic()
    given = {"email": f"a@{'.' * 500_000} a", "password": PASSWORD}
    assert await client.ask(LOGIN, input=given) == refused(WRONG)
    assert time.monotonic() - began < 10


# ---------------------------------------------------------------- refresh


async def test_refreshing_gives_the_next_pair(server: Server, client: Client, ada: Account) -> None:
    (before,) = await sessions_of(server, ada.id)
    payload = await client.ask(REFRESH, input={"refreshToken": ada.refresh_token})
    assert payload["errors"] == []
    assert payload["user"]["id"] == ada.id
    assert payload["refreshToken"] != ada.refresh_token
    async with Client(server.url, payload["accessToken"]) as again:
        assert await again.ask(VIEWER) == {"email": ada.email, "user": {"id": ada.id}}
    (after,) = await sessions_of(server, ada.id)
    assert after == {**before, "generation": 1, "expires_at": after["expires_at"]}
    assert after["expires_at"] > before["expires_at"]
    # And that pair is good for the next.
    assert (await client.ask(REFRESH, input={"refreshToken": payload["refreshToken"]}))["errors"] == []


async def test_a_refresh_token_used_again_ends_its_session(server: Server, client: Client, ada: Account) -> None:
    second = await client.ask(REFRESH, input={"refreshToken": ada.refresh_token})
    elsewhere = await client.ask(LOGIN, input={"email": ada.email, "password": PASSWORD})

    assert await client.ask(REFRESH, input={"refreshToken": ada.refresh_token}) == refused(USED_UP)

    await refused_at_the_door(client, ada.token or "", "This session has ended.")
    await refused_at_the_door(client, second["accessToken"], "This session has ended.")
    assert await client.ask(REFRESH, input={"refreshToken": second["refreshToken"]}) == refused(USED_UP)
    # Her other session is another matter.
    async with Client(server.url, elsewhere["accessToken"]) as other:
        assert await other.ask(VIEWER) == {"email": ada.email, "user": {"id": ada.id}}


async def test_of_two_refreshes_at_once_one_succeeds_and_the_session_ends(client: Client, ada: Account) -> None:
    given = {"refreshToken": ada.refresh_token}
    answers = await asyncio.gather(*(client.ask(REFRESH, input=given) for _ in range(4)))
    (winner,) = [answer for answer in answers if not answer["errors"]]
    assert [answer for answer in answers if answer["errors"]] == [refused(USED_UP)] * 3
    await refused_at_the_door(client, winner["accessToken"], "This session has ended.")
    assert await client.ask(REFRESH, input={"refreshToken": winner["refreshToken"]}) == refused(USED_UP)


async def test_what_is_no_refresh_token_is_refused(server: Server, client: Client, ada: Account) -> None:
    session = (await sessions_of(server, ada.id))[0]["id"]
    expired = tokens_of(server).refresh(session, 0, datetime.now(UTC) - timedelta(seconds=1))
    unsigned = jwt.encode({"typ": "refresh", "sid": str(session), "gen": 0, "exp": 2**33}, "", algorithm="none")
    for token, message in (
        ("", "This token is not valid."),
        ("garbage", "This token is not valid."),
        (nested(100_000), "This token is not valid."),
        (ada.token, "This token is not valid."),
        (unsigned, "This token is not valid."),
        (expired, "This token has expired."),
    ):
        answer = await client.ask(REFRESH, input={"refreshToken": token})
        assert answer == refused({"code": "UNAUTHENTICATED", "message": message, "path": None})
    # None of which has harmed the session.
    assert await ada.ask(VIEWER) == {"email": ada.email, "user": {"id": ada.id}}
    assert (await sessions_of(server, ada.id))[0]["generation"] == 0


# ---------------------------------------------------------------- logout


async def test_logout_ends_this_session_and_no_other(server: Server, client: Client, ada: Account) -> None:
    elsewhere = await client.ask(LOGIN, input={"email": ada.email, "password": PASSWORD})
    async with ada.socket() as socket:
        assert [answer async for answer in socket.subscribe(VIEWER)] == [
            {"viewer": {"email": ada.email, "user": {"id": ada.id}}}
        ]
        assert await ada.ask(LOGOUT) == {"errors": []}

        await refused_at_the_door(client, ada.token or "", "This session has ended.")
        operation = await socket.start(VIEWER)
        ended = {"message": "This session has ended.", "extensions": {"code": "UNAUTHENTICATED"}}
        assert await socket.receive() == {"type": "error", "id": operation, "payload": [ended]}
    assert await client.ask(REFRESH, input={"refreshToken": ada.refresh_token}) == refused(USED_UP)
    async with Client(server.url, elsewhere["accessToken"]) as other:
        assert await other.ask(VIEWER) == {"email": ada.email, "user": {"id": ada.id}}


async def test_nobody_has_no_session_to_end(client: Client) -> None:
    error = {"code": "UNAUTHENTICATED", "message": "Sign in first.", "path": None}
    assert await client.ask(LOGOUT) == {"errors": [error]}


# ---------------------------------------------------------------- tokens


def tokens_of(server: Server) -> Tokens:
    return Tokens(server.environment["HEIRLOOM_SECRET_KEY"], timedelta(minutes=15))


def nested(depth: int) -> str:
    """A token whose header is brackets in brackets."""
    return f"{base64.urlsafe_b64encode(b'[' * depth).rstrip(b'=').decode()}.e30.x"


def claims_of(ada: Account) -> Json:
    claims: Json = jwt.decode(ada.token or "", options={"verify_signature": False})
    return claims


def _with_claims(
    server: Server, purpose: str = "access", key: str | None = None, **changes: Any
) -> Callable[[Account], str]:
    secret = key or server.environment["HEIRLOOM_SECRET_KEY"]

    def make(ada: Account) -> str:
        claims = claims_of(ada) | changes
        kept = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(kept, derived_key(secret, purpose), algorithm="HS256")

    return make


INVALID = "This token is not valid."
BAD_TOKENS: dict[str, tuple[Callable[[Server, Account], str], str]] = {
    "expired": (lambda server, ada: _with_claims(server, exp=int(time.time()) - 1)(ada), "This token has expired."),
    "no expiry": (lambda server, ada: _with_claims(server, exp=None)(ada), INVALID),
    "another key": (lambda server, ada: _with_claims(server, key="x" * 32)(ada), INVALID),
    "the key of another purpose": (lambda server, ada: _with_claims(server, purpose="refresh")(ada), INVALID),
    "another purpose": (lambda server, ada: _with_claims(server, typ="refresh")(ada), INVALID),
    "a refresh token": (lambda _, ada: ada.refresh_token, INVALID),
    "unsigned": (
        lambda _, ada: jwt.encode(claims_of(ada), "", algorithm="none"),
        INVALID,
    ),
    "signature cut off": (lambda _, ada: (ada.token or "").rpartition(".")[0] + ".", INVALID),
    "tampered": (lambda _, ada: f"{(ada.token or '')[:-10]}{'A' * 10}", INVALID),
    "another user's claims": (
        lambda _, ada: ".".join(
            [(ada.token or "").split(".")[0], base64.urlsafe_b64encode(b'{"typ":"access"}').decode().rstrip("="), "x"]
        ),
        INVALID,
    ),
    "a session that never was": (
        lambda server, ada: _with_claims(server, sid=str(uuid.uuid4()))(ada),
        "This session has ended.",
    ),
    "garbage": (lambda *_: "garbage", INVALID),
    "dots": (lambda *_: "..", INVALID),
    "brackets in brackets": (lambda *_: nested(20_000), INVALID),
}


async def test_a_token_of_no_use_is_401(server: Server, client: Client, ada: Account) -> None:
    for make, message in BAD_TOKENS.values():
        await refused_at_the_door(client, make(server, ada), message)
    assert await ada.ask(VIEWER) == {"email": ada.email, "user": {"id": ada.id}}


@pytest.mark.parametrize("header", ["Basic YWRhOmFkYQ==", "Bearer", "bearer"])
async def test_another_authorization_is_401(client: Client, header: str) -> None:
    response = await client.http.post("/graphql", json={"query": VIEWER}, headers={"authorization": header})
    message = "The authorization must be “Bearer” and a token."
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    assert response.json() == {"errors": [{"message": message, "extensions": {"code": "UNAUTHENTICATED"}}]}


# ---------------------------------------------------------------- viewer


async def test_nobody_has_no_viewer(client: Client) -> None:
    assert await client.post(VIEWER) == {"data": {"viewer": None}}


async def test_the_viewer_sees_what_is_their_own(ada: Account, eve: Account) -> None:
    people = [await ada.person(name) for name in ("Ada", "Byron", "Charles")]
    profiles = [await ada.profile(person["id"]) for person in people[:2]]
    await eve.profile((await eve.person())["id"])
    query = """{ viewer {
        email user { id displayName role }
        people(first: 2) { nodes { id name } edges { node { id } } pageInfo { hasNextPage hasPreviousPage } }
        profiles { nodes { id name person { id } } pageInfo { hasNextPage hasPreviousPage } }
    } }"""
    assert await ada.ask(query) == {
        "email": ada.email,
        "user": {"id": ada.id, "displayName": "Ada", "role": "USER"},
        "people": {
            "nodes": [{"id": people[2]["id"], "name": "Charles"}, {"id": people[1]["id"], "name": "Byron"}],
            "edges": [{"node": {"id": people[2]["id"]}}, {"node": {"id": people[1]["id"]}}],
            "pageInfo": {"hasNextPage": True, "hasPreviousPage": False},
        },
        "profiles": {
            "nodes": [
                {"id": profiles[1]["id"], "name": "Byron", "person": {"id": people[1]["id"]}},
                {"id": profiles[0]["id"], "name": "Ada", "person": {"id": people[0]["id"]}},
            ],
            "pageInfo": {"hasNextPage": False, "hasPreviousPage": False},
        },
    }


async def test_storage_is_counted_to_the_byte(server: Server, ada: Account) -> None:
    nothing = {"mediaCount": 0, "originalBytes": 0, "variantBytes": 0, "trashBytes": 0, "quotaBytes": None}
    assert await ada.ask(STORAGE) == {"storage": nothing}

    pictures = [photograph(500, 400), photograph(300, 200)]
    kept, gone = [await ada.settled((await ada.uploaded(picture))["id"]) for picture in pictures]
    rendered = [sum(variant["sizeBytes"] for variant in media["variants"]) for media in (kept, gone)]
    assert [media["sizeBytes"] for media in (kept, gone)] == [len(picture) for picture in pictures]
    assert await ada.ask(STORAGE) == {
        "storage": {**nothing, "mediaCount": 2, "originalBytes": sum(map(len, pictures)), "variantBytes": sum(rendered)}
    }

    await ada.ask("mutation($ids: [ID!]!) { deleteMedia(input: {ids: $ids}) { errors { code } } }", ids=[gone["id"]])
    assert await ada.ask(STORAGE) == {
        "storage": {
            "mediaCount": 1,
            "originalBytes": len(pictures[0]),
            "variantBytes": rendered[0],
            "trashBytes": len(pictures[1]) + rendered[1],
            "quotaBytes": None,
        }
    }
