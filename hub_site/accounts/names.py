"""Which names may own repos, the first part of their addresses; and who may give a mail address."""

import re

from django.core.exceptions import ValidationError
from django.db.models.functions import Lower

LONGEST = 96
ALLOWED = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)
GUEST_PREFIX = "guest-"
# Signing in with an address tries the password of everybody who gave it, unless one confirmed it.
MOST_CLAIMS = 5

# A test walks the URLconf and holds that every first segment of ours stands here.
OURS = {
    "about", "accounts", "admin", "api", "collections", "docs", "favicon.ico", "healthz", "help",
    "home", "import", "jobs", "lfs", "media", "metrics", "modules", "operate", "privacy", "recipes",
    "robots.txt", "search", "static", "tags", "tasks", "terms", "try", "upload", "v1", "xet",
}  # fmt: skip
OF_THE_HUB = {
    "blog", "chat", "datasets", "enterprise", "inference", "join", "login",
    "logout", "models", "new", "oauth", "organizations", "papers", "posts", "pricing", "resolve",
    "settings", "signup", "spaces", "storage", "v2", "welcome",
}  # fmt: skip
NOBODYS = {
    "administrator", "anonymous", "guest", "lora-commons", "me", "moderator", "none",
    "null", "official", "operator", "root", "support", "system", "undefined",
}  # fmt: skip
RESERVED = frozenset(OURS | OF_THE_HUB | NOBODYS)


def problem(name: str) -> str | None:
    """Why nobody may choose this name, or None."""
    if len(name) > LONGEST:
        return f"This name has {len(name)} characters; {LONGEST} are the most."
    if not ALLOWED.fullmatch(name):
        return (
            "Use letters from a to z, digits, and inside the name also dots, hyphens and "
            "underscores. It begins and ends with a letter or digit."
        )
    if "--" in name or ".." in name:
        return 'Two hyphens or two dots in a row are not allowed. Use "-" or "." once.'
    lower = name.lower()
    if lower.endswith(".git"):
        return 'A name cannot end in ".git", which programs take for a repository. Leave it out.'
    if lower in RESERVED or lower.startswith(GUEST_PREFIX):
        return f'The name "{name}" is kept for the site itself. Choose another one.'
    return None


def check(name: str) -> None:
    if why := problem(name):
        raise ValidationError(why, code="bad_name")


def check_free(name: str) -> None:
    """Names differ by more than upper and lower case."""
    from hub_site.accounts.models import Namespace, User

    lower = name.lower()
    taken = (
        Namespace.objects.alias(lower=Lower("name")).filter(lower=lower).exists()
        or User.objects.alias(lower=Lower("username")).filter(lower=lower).exists()
    )
    if taken:
        raise ValidationError(
            f'The name "{name}" is taken. Choose another one.', code="username_taken"
        )


def check_address(email: str) -> str:
    """An address may be given by several accounts; the first that confirms it has it."""
    from allauth.account.models import EmailAddress

    if EmailAddress.objects.filter(email=email, verified=False).count() >= MOST_CLAIMS:
        raise ValidationError(
            f"{MOST_CLAIMS} accounts gave {email} and did not confirm it. Confirm one of them by "
            "the link in its mail, or give another address.",
            code="address_claimed",
        )
    return email
