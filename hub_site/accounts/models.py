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
    notify_by_email = models.BooleanField(default=False)
    # A moderator's decision: the account may do everything but upload.
    uploads_banned_at = models.DateTimeField(null=True, blank=True)
    uploads_banned_reason = models.CharField(max_length=500, blank=True)

    objects = Users()

    class Meta(AbstractUser.Meta):
        constraints = [models.UniqueConstraint(Lower("username"), name="user_username_ci")]


class Namespace(models.Model):
    """The first segment of a repo's address: a user's name, or an organisation's."""

    USER, ORGANISATION, FORMER = "user", "organisation", "former"

    name = models.CharField(max_length=96)
    # FORMER keeps the modules of somebody who deleted the account and left them to the public.
    kind = models.CharField(
        max_length=16,
        choices=[(USER, "user"), (ORGANISATION, "organisation"), (FORMER, "former user")],
    )
    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, models.CASCADE, null=True, blank=True, related_name="namespace"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(Lower("name"), name="namespace_name_ci"),
            models.CheckConstraint(
                condition=~models.Q(kind="user") | models.Q(user__isnull=False),
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


class Notice(models.Model):
    """A line for a user: something of theirs came to an end, or a moderator acted."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="notices")
    text = models.CharField(max_length=300)
    address = models.CharField(max_length=300, blank=True)  # a path of this site
    created_at = models.DateTimeField(auto_now_add=True)
    read_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at", "-id"]
        indexes = [
            models.Index("user", condition=models.Q(read_at__isnull=True), name="notice_unread")
        ]

    def __str__(self) -> str:
        return self.text
