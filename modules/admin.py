"""The library for moderators. Files and versions are shown, never edited."""

from django.contrib import admin
from django.http import HttpRequest

from modules.models import BaseModel, Commit, LoraModule, Repo, Tag


@admin.register(Repo)
class RepoAdmin(admin.ModelAdmin):
    list_display = ["__str__", "kind", "visibility", "downloads", "updated_at"]
    list_filter = ["kind", "visibility"]
    list_select_related = ["owner"]
    search_fields = ["name", "owner__name"]
    readonly_fields = ["owner", "kind", "downloads", "created_at", "updated_at"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False


@admin.register(LoraModule)
class LoraModuleAdmin(admin.ModelAdmin):
    list_display = ["__str__", "status", "base_model_name", "r", "weights_size", "published_at"]
    list_filter = ["status", "base_model"]
    list_select_related = ["repo__owner"]
    search_fields = ["repo__name", "repo__owner__name", "base_model_name"]
    filter_horizontal = ["tags"]
    fields = [
        "repo", "commit", "status", "rejected_reason", "base_model", "base_model_name", "summary",
        "licence", "language", "tags", "checks",
    ]  # fmt: skip
    readonly_fields = ["repo", "commit", "base_model_name", "checks"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False


@admin.register(BaseModel)
class BaseModelAdmin(admin.ModelAdmin):
    list_display = ["name", "source", "revision", "parameters", "max_tokens"]
    search_fields = ["name"]
    fields = ["name", "source", "revision", "folder", "aliases", "summary", "max_tokens"]
    readonly_fields = ["name", "source", "revision", "folder"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False  # `manage.py add_base_model` reads the files


@admin.register(Tag)
class TagAdmin(admin.ModelAdmin):
    search_fields = ["name"]


@admin.register(Commit)
class CommitAdmin(admin.ModelAdmin):
    list_display = ["sha", "repo", "title", "author", "created_at"]
    list_select_related = ["repo__owner", "author"]
    search_fields = ["sha", "repo__name", "title"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Commit | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Commit | None = None) -> bool:
        return False
