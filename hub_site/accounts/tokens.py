"""What programs show instead of a password. Only the hash is kept, so a token is shown once."""

import hashlib
import secrets
from datetime import timedelta

from django.db.models import Q
from django.db.models.functions import Now
from django.http import HttpRequest
from django.utils import timezone
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from composer.engine.errors import CommonsError
from hub_site.accounts.models import AccessToken, User

PREFIX = "lc_"
MOST_TOKENS = 50
SCOPES = [AccessToken.READ, AccessToken.WRITE]


class BadToken(CommonsError):
    code = "bad_token"


def digest(plain: str) -> str:
    """The token has 256 random bits, so one round of a plain hash is enough."""
    return hashlib.sha256(plain.encode()).hexdigest()


def create_token(user: User, *, name: str, scope: str) -> tuple[AccessToken, str]:
    """The new token's row, and its text for the only time."""
    if scope not in SCOPES:
        raise BadToken(f'"{scope}" is no scope. Use "read" or "write".')
    if user.is_guest:
        raise BadToken("A guest cannot have tokens. Sign up first; your work stays.")
    if user.tokens.filter(revoked_at=None).count() >= MOST_TOKENS:
        raise BadToken(f"You have {MOST_TOKENS} tokens. Revoke one that you no longer use.")
    plain = PREFIX + secrets.token_urlsafe(32)
    token = AccessToken.objects.create(
        user=user, name=name, scope=scope, digest=digest(plain), hint=plain[:7]
    )
    return token, plain


def revoke(token: AccessToken) -> None:
    AccessToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=Now())


def find(plain: str) -> AccessToken | None:
    """The valid token with this text; notes its use, at most once a minute."""
    tokens = AccessToken.objects.select_related("user")
    token = tokens.filter(digest=digest(plain), revoked_at=None, user__is_active=True).first()
    if token is not None:
        a_minute_ago = timezone.now() - timedelta(minutes=1)
        if token.last_used_at is None or token.last_used_at < a_minute_ago:
            stale = Q(last_used_at=None) | Q(last_used_at__lt=a_minute_ago)
            AccessToken.objects.filter(stale, pk=token.pk).update(last_used_at=Now())
    return token


def sent_with(request: HttpRequest) -> str | None:
    """The text of the token that came along, outside of the API."""
    scheme, _, plain = request.headers.get("Authorization", "").partition(" ")
    return plain.strip() if scheme.lower() == "bearer" else None


class TokenAuthentication(BaseAuthentication):
    """Authorization: Bearer lc_…"""

    def authenticate(self, request: Request) -> tuple[User, AccessToken] | None:
        words = get_authorization_header(request).split()
        if not words or words[0].lower() != b"bearer":
            return None
        if len(words) != 2:
            raise AuthenticationFailed('Send the token as "Authorization: Bearer lc_…".')
        token = find(words[1].decode("latin-1"))
        if token is None:
            raise AuthenticationFailed("This token is not known, or it was revoked.")
        return token.user, token

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class TokenScheme(OpenApiAuthenticationExtension):
    """How the OpenAPI document describes it."""

    target_class = TokenAuthentication
    name = "token"

    def get_security_definition(self, auto_schema: object) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer"}
