"""The library for moderators. Files and versions are shown, never edited; what a moderator does
goes through `community/moderation.py`, which keeps the trail and tells whom it concerns."""

from typing import Any

from django.contrib import admin
from django.db.models import F, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from composer.engine.errors import CommonsError
from hub_site.accounts.models import User
from hub_site.admin_reason import PerhapsReasonForm, asks_first
from modules import services
from modules.community import moderation
from modules.finding.tag_admin import TagAdmin, TagAliasAdmin
from modules.models import (
    BaseModel,
    Collection,
    Commit,
    LoraModule,
    ModerationEvent,
    Repo,
    Report,
    Tag,
    TagAlias,
)


def _reported(report: Report) -> Repo:
    if report.path:
        raise CommonsError(
            f"{report.repo_name} is no module. Its own page leads to what can be done."
        )
    if report.repo is None:
        raise CommonsError(f"{report.repo_name} was deleted. Close the report.")
    return report.repo


def _owner(repo: Repo) -> User:
    if repo.owner.user is None:
        raise CommonsError(f"{repo} belongs to nobody who could be banned.")
    return repo.owner.user


def _hide_reported(report: Report, **said: Any) -> None:
    moderation.hide(_reported(report), **said)


def _close(report: Report, *, moderator: User, reason: str) -> None:
    moderation.close_report(report, moderator=moderator, outcome=reason)


def _ban_owner(repo: Repo, **said: Any) -> None:
    moderation.ban_uploads(_owner(repo), **said)


def _unban_owner(repo: Repo, **said: Any) -> None:
    moderation.unban(_owner(repo), **said)


def _ban_reported(report: Report, **said: Any) -> None:
    _ban_owner(_reported(report), **said)


class Visible(admin.ModelAdmin):
    """Moderators see here what they see on the site: what is hidden, and nobody's private things.
    Superusers see everything."""

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        found = super().get_queryset(request)
        return found if request.user.is_superuser else found.visible_to(request.user)


@admin.register(Repo)
class RepoAdmin(Visible):
    list_display = ["__str__", "kind", "visibility", "hidden_at", "downloads", "updated_at"]
    list_filter = ["kind", "visibility", ("hidden_at", admin.EmptyFieldListFilter)]
    list_select_related = ["owner__user"]
    search_fields = ["name", "owner__name"]
    fields = readonly_fields = [
        "owner", "name", "kind", "visibility", "gated", "hidden_at", "hidden_reason", "downloads",
        "created_at", "updated_at",
    ]  # fmt: skip
    actions = ["hide", "restore", "ban_uploads", "unban", "take_down"]
    hide = asks_first("Hide", moderation.hide)
    restore = asks_first("Restore", moderation.restore, form=PerhapsReasonForm)
    ban_uploads = asks_first("Ban the owner's uploads", _ban_owner)
    unban = asks_first("Allow the owner's uploads again", _unban_owner, form=PerhapsReasonForm)
    take_down = asks_first("Delete for good", moderation.take_down, permission="take_down")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Repo | None = None) -> bool:
        return False  # `take_down` asks for a reason and leaves a line in the trail

    def has_take_down_permission(self, request: HttpRequest) -> bool:
        return request.user.is_superuser


class IsOpen(admin.SimpleListFilter):
    title, parameter_name = "state", "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("open", "open"), ("closed", "closed")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Report]) -> QuerySet[Report]:
        if self.value() is None:
            return queryset
        return queryset.filter(closed_at__isnull=self.value() == "open")


@admin.register(Report)
class ReportAdmin(admin.ModelAdmin):
    """The moderators' queue: open reports first, the oldest of them on top."""

    list_display = ["repo_name", "page", "state", "reason", "short_text", "reporter", "created_at"]
    ordering = [F("closed_at").desc(nulls_first=True), "created_at"]
    list_filter = [IsOpen, "reason"]
    list_select_related = ["repo__owner__user", "reporter"]
    search_fields = ["repo_name", "text", "reporter__username"]
    fields = readonly_fields = [
        "repo_name", "page", "reason", "text", "reporter", "created_at", "closed_at", "closed_by",
        "outcome",
    ]  # fmt: skip
    actions = ["hide", "close", "ban_uploads"]
    hide = asks_first("Hide what was reported", _hide_reported)
    close = asks_first("Close, saying what came of it", _close)
    ban_uploads = asks_first("Ban the owner's uploads", _ban_reported)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Report | None = None) -> bool:
        return False  # a report is closed, saying what came of it

    @admin.display(description="page")
    def page(self, report: Report) -> SafeString | str:
        if report.path:
            return format_html('<a href="{}">{}</a>', report.path, "look at it")
        if report.repo is None:
            return "deleted"
        if report.repo.is_private:
            return "private now"
        return format_html('<a href="{}">{}</a>', report.repo.get_absolute_url(), "look at it")

    @admin.display(description="text")
    def short_text(self, report: Report) -> str:
        return report.text[:80] + ("…" if len(report.text) > 80 else "")

    @admin.display(description="state", ordering="closed_at")
    def state(self, report: Report) -> str:
        return report.outcome or "closed" if report.closed_at else "OPEN"


@admin.register(Collection)
class CollectionAdmin(Visible):
    list_display = ["title", "owner", "visibility", "hidden_at", "updated_at"]
    list_filter = ["visibility", ("hidden_at", admin.EmptyFieldListFilter)]
    list_select_related = ["owner__user"]
    search_fields = ["title", "name", "owner__name"]
    fields = readonly_fields = [
        "owner", "name", "title", "description", "visibility", "hidden_at", "created_at",
    ]  # fmt: skip
    actions = ["hide", "restore"]
    hide = asks_first("Hide", moderation.hide_collection)
    restore = asks_first("Restore", moderation.restore_collection, form=PerhapsReasonForm)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Collection | None = None) -> bool:
        return False  # hidden, with a reason


@admin.register(ModerationEvent)
class ModerationEventAdmin(admin.ModelAdmin):
    """The audit trail: read, never written here."""

    list_display = ["created_at", "actor", "action", "subject", "reason"]
    list_filter = ["action"]
    list_select_related = ["actor"]
    search_fields = ["subject", "reason", "actor__username"]
    date_hierarchy = "created_at"

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False


@admin.register(LoraModule)
class LoraModuleAdmin(Visible):
    list_display = ["__str__", "status", "base_model_name", "r", "weights_size", "published_at"]
    list_filter = ["status", "base_model"]
    list_select_related = ["repo__owner"]
    search_fields = ["repo__name", "repo__owner__name", "base_model_name"]
    fields = [
        "repo", "commit", "status", "rejected_reason", "base_model", "base_model_name", "summary",
        "licence", "language", "tag_names", "checks",
    ]  # fmt: skip
    readonly_fields = ["repo", "commit", "base_model_name", "tag_names", "checks"]

    def save_model(self, request: HttpRequest, obj: LoraModule, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        services.update_listed(obj)
        if form.changed_data:
            said = "; ".join(f"{name}: {form.cleaned_data[name]}" for name in form.changed_data)
            moderation.record(request.user, "edit module", str(obj), said)

    def has_delete_permission(self, request: HttpRequest, obj: LoraModule | None = None) -> bool:
        return False  # its repo would stay without it; what should go is hidden, with a reason

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


admin.site.register(Tag, TagAdmin)
admin.site.register(TagAlias, TagAliasAdmin)


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
