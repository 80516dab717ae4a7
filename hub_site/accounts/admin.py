from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin
from django.db.models import QuerySet
from django.http import HttpRequest

from hub_site.accounts import leaving, names, services
from hub_site.accounts.models import AccessToken, Namespace, User
from hub_site.admin_reason import PerhapsReasonForm, asks_first

FIELDS = ["is_guest", "bio", "uploads_banned_at", "uploads_banned_reason"]


def _ban(user: User, **said: Any) -> None:
    from modules.community import moderation

    moderation.ban_uploads(user, **said)


def _unban(user: User, **said: Any) -> None:
    from modules.community import moderation

    moderation.unban(user, **said)


@admin.register(User)
class CommonsUserAdmin(UserAdmin):
    list_display = ["username", "email", "is_guest", "is_staff", "date_joined"]
    list_filter = [
        "is_guest", "is_staff", "is_active", ("uploads_banned_at", admin.EmptyFieldListFilter),
    ]  # fmt: skip
    readonly_fields = ["uploads_banned_at", "uploads_banned_reason"]
    actions = ["ban_uploads", "unban"]
    ban_uploads = asks_first("Ban uploads", _ban)
    unban = asks_first("Allow uploads again", _unban, form=PerhapsReasonForm)
    fieldsets = [*(UserAdmin.fieldsets or []), ("LoRA Commons", {"fields": FIELDS})]

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> list[str]:
        """A name is the first part of many addresses, so it stays."""
        return [*super().get_readonly_fields(request, obj), *(["username"] if obj else [])]

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        """Whoever is made here owns the name, as after signing up."""
        super().save_model(request, obj, form, change)
        if not obj.is_guest and names.problem(obj.username) is None:
            services.own_namespace(obj)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> tuple[Any, ...]:
        """The account goes as when its owner deletes it: jobs too, which the admin lets nobody
        delete alone."""
        listed, counts, _, _ = super().get_deleted_objects(objs, request)
        return listed, counts, set(), []

    def delete_model(self, request: HttpRequest, obj: User) -> None:
        leaving.delete_account(obj, keep_public=False)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        for user in queryset:
            leaving.delete_account(user, keep_public=False)


@admin.register(Namespace)
class NamespaceAdmin(admin.ModelAdmin):
    list_display = ["name", "kind", "user", "created_at"]
    list_select_related = ["user"]
    search_fields = ["name"]
    raw_id_fields = ["user"]

    def has_delete_permission(self, request: HttpRequest, obj: Namespace | None = None) -> bool:
        return False  # its modules would go unseen; it goes, or stays, with its account


@admin.register(AccessToken)
class AccessTokenAdmin(admin.ModelAdmin):
    """To see and to remove; a token is made by its owner or by `create_token`."""

    list_display = ["name", "user", "scope", "hint", "created_at", "last_used_at", "revoked_at"]
    list_select_related = ["user"]
    readonly_fields = ["user", "scope", "hint", "created_at", "last_used_at"]
    exclude = ["digest"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False
