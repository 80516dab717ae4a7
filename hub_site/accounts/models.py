"""Who is here: users, the names they own, and the tokens of their programs."""

from typing import Any

from django.conf import settings
from django.contrib.auth.models import AbstractUser, UserManager
from django.db import models, transaction
from django.db.models.functions import Lower

from hub_site.accounts import names


class Users(UserManager):
    """`create_user` also makes the user's namespace, unless the name is kept for the site.

    So a superuser may be called "admin"; such an account owns no repos.
    """

    use_in_migrations = False

    def _create_user(
        self, username: str, email: str | None, password: str | None, **extra: Any
    ) -> "User":
        with transaction.atomic():
            user: User = super()._create_user(username, email, password, **extra)
            if names.problem(username) is None and not user.is_guest:
                Namespace.objects.create(name=username, kind=Namespace.USER, user=user)
        return user


class User(AbstractUser):
    """A person, or a guest: somebody who tried the site before signing up.

    A guest owns a task and a job like anybody else; signing up turns the same row into an account.
    """

    is_guest = models.BooleanField(default=False)
    bio = models.TextField(blank=True, max_length=500)

    objects = Users()

    class Meta(AbstractUser.Meta):
        constraints = [models.UniqueConstraint(Lower("username"), name="user_username_ci")]


class Namespace(models.Model):
    """The first segment of a repo's address: a user's name, or an organisation's."""

    USER, ORGANISATION = "user", "organisation"

    name = models.CharField(max_length=96)
    kind = models.CharField(max_length=16, choices=[(USER, "user"), (ORGANISATION, "organisation")])
    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, models.CASCADE, null=True, blank=True, related_name="namespace"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(Lower("name"), name="namespace_name_ci"),
            models.CheckConstraint(
                condition=models.Q(kind="organisation") | models.Q(user__isnull=False),
                name="namespace_of_a_user_has_one",
            ),
        ]

    def __str__(self) -> str:
        return self.name


class AccessToken(models.Model):
    """What a program shows instead of a password. Only its hash is kept."""

    READ, WRITE = "read", "write"

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="tokens")
    name = models.CharField(max_length=80)
    scope = models.CharField(max_length=8, choices=[(READ, "read"), (WRITE, "write")])
    digest = models.CharField(max_length=64, unique=True)
    hint = models.CharField(max_length=12)
    created_at = models.DateTimeField(auto_now_add=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.name} ({self.hint}…)"
