"""A small OpenID Connect provider on 127.0.0.1: what Hugging Face is to the site."""

import base64
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt

SCOPES = {"manage-repos"}
CLIENT = {"client_id": "commons", "client_secret": "a secret of the site"}


class Provider(ThreadingHTTPServer):
    """Whoever comes to the authorisation page is `person`, and agrees."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.person: dict[str, Any] = {}
        self.codes: dict[str, dict[str, Any]] = {}
        self.tokens: dict[str, dict[str, Any]] = {}
        self.is_down = False


class Handler(BaseHTTPRequestHandler):
    server: Provider

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        here = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(here.query).items()}
        if self.server.is_down:
            self._say(503, {"error": "down"})
        elif here.path == "/.well-known/openid-configuration":
            url = self.server.url
            self._say(
                200,
                {
                    "issuer": url,
                    "authorization_endpoint": f"{url}/oauth/authorize",
                    "token_endpoint": f"{url}/oauth/token",
                    "userinfo_endpoint": f"{url}/oauth/userinfo",
                    "jwks_uri": f"{url}/oauth/jwks",
                    "token_endpoint_auth_methods_supported": [
                        "client_secret_basic",
                        "client_secret_post",
                    ],
                },
            )
        elif here.path == "/oauth/authorize":
            assert query["client_id"] == CLIENT["client_id"]
            asked = set(query["scope"].split())
            assert asked - SCOPES == {"openid", "profile", "email"}
            code = secrets.token_hex(8)
            self.server.codes[code] = {
                "person": self.server.person,
                "to": query["redirect_uri"],
                "may_push": asked >= SCOPES,
            }
            answer = urlencode({"code": code, "state": query["state"]})
            self.send_response(302)
            self.send_header("Location", f"{query['redirect_uri']}?{answer}")
            self.end_headers()
        elif here.path == "/oauth/userinfo":
            token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
            person = self.server.tokens.get(token)
            self._say(200 if person else 401, person or {"error": "invalid_token"})
        elif here.path == "/api/whoami-v2":
            token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
            person = self.server.tokens.get(token)
            name = person["preferred_username"] if person else ""
            self._say(200 if person else 401, {"name": name, "auth": {"type": "oauth"}})
        else:
            self._say(404, {})

    def do_POST(self) -> None:
        size = int(self.headers["Content-Length"])
        given = {k: v[0] for k, v in parse_qs(self.rfile.read(size).decode()).items()}
        if basic := (self.headers["Authorization"] or "").removeprefix("Basic "):
            name, _, secret = base64.b64decode(basic).decode().partition(":")
            given |= {"client_id": name, "client_secret": secret}
        if given.get("grant_type") == "refresh_token":
            self._renew(given)
            return
        grant = self.server.codes.pop(given.get("code", ""), None)  # good for one time
        known = all(given.get(key) == value for key, value in CLIENT.items())
        if not known or grant is None or grant["to"] != given["redirect_uri"]:
            self._say(400, {"error": "invalid_grant"})
            return
        token = secrets.token_hex(8)
        self.server.tokens[token] = grant["person"]
        now = int(time.time())
        claims = {"iss": self.server.url, "aud": CLIENT["client_id"], "iat": now, "exp": now + 600}
        signed = jwt.encode(claims | grant["person"], "k" * 32, algorithm="HS256")
        said = {"access_token": token, "token_type": "bearer", "id_token": signed}
        if grant["may_push"]:
            said |= {"refresh_token": f"renew-{token}", "expires_in": 60}
        self._say(200, said)

    def _renew(self, given: dict[str, str]) -> None:
        old = given["refresh_token"].removeprefix("renew-")
        person = self.server.tokens.pop(old, None)
        if person is None or given["client_secret"] != CLIENT["client_secret"]:
            self._say(400, {"error": "invalid_grant"})
            return
        token = secrets.token_hex(8)
        self.server.tokens[token] = person
        self._say(200, {"access_token": token, "refresh_token": f"renew-{token}", "expires_in": 60})

    def _say(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def running() -> Iterator[Provider]:
    with Provider() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
