from django.contrib import admin
from django.contrib.auth.admin import UserAdmin
from django.http import HttpRequest

from hub_site.accounts.models import AccessToken, Namespace, User


@admin.register(User)
class CommonsUserAdmin(UserAdmin):
    list_display = ["username", "email", "is_guest", "is_staff", "date_joined"]
    list_filter = ["is_guest", "is_staff", "is_active"]
    fieldsets = [*(UserAdmin.fieldsets or []), ("LoRA Commons", {"fields": ["is_guest", "bio"]})]


@admin.register(Namespace)
class NamespaceAdmin(admin.ModelAdmin):
    list_display = ["name", "kind", "user", "created_at"]
    list_select_related = ["user"]
    search_fields = ["name"]
    raw_id_fields = ["user"]


@admin.register(AccessToken)
class AccessTokenAdmin(admin.ModelAdmin):
    """To see and to remove; a token is made by its owner or by `create_token`."""

    list_display = ["name", "user", "scope", "hint", "created_at", "last_used_at", "revoked_at"]
    list_select_related = ["user"]
    readonly_fields = ["user", "scope", "hint", "created_at", "last_used_at"]
    exclude = ["digest"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False
