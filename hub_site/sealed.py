"""Secrets of others that must be used again, such as tokens: kept so that a copy of the database
alone gives none away. The key is made from SECRET_KEY."""

from __future__ import annotations

import base64
import hashlib

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings

PURPOSE = b"lora-commons sealed 1\0"


def seal(text: str) -> str:
    return _box().encrypt(text.encode()).decode()


def unseal(sealed: str) -> str | None:
    """The text, or None when it was sealed with a key that is no longer known."""
    try:
        return _box().decrypt(sealed.encode()).decode()
    except InvalidToken:
        return None


def _box() -> MultiFernet:
    keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    return MultiFernet([Fernet(_key(each)) for each in keys])


def _key(secret: str) -> bytes:
    """SECRET_KEY is long and random, so one round of a hash is enough."""
    return base64.urlsafe_b64encode(hashlib.sha256(PURPOSE + secret.encode()).digest())
