"""What operators see of compositions. Private texts stay out of lists; results are not edited."""

from typing import Any

from django.contrib import admin
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest

from composer import sharing
from composer.engine.errors import CommonsError
from composer.models import Example, FewShotTask, Ingredient, Recipe, Search
from hub_site.accounts.models import User
from hub_site.accounts.notices import notify
from hub_site.admin_reason import PerhapsReasonForm, asks_first
from modules.community import moderation


class Unchanged(admin.ModelAdmin):
    """Made by searches, named by its content: looked at, taken down, never edited."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False


class ExampleRows(admin.TabularInline):
    model = Example
    extra = 0
    can_delete = False


def _ban_owner(task: FewShotTask, **said: Any) -> None:
    if task.owner is None:
        raise CommonsError(f"{task} belongs to nobody who could be banned.")
    moderation.ban_uploads(task.owner, **said)


@admin.register(FewShotTask)
class FewShotTaskAdmin(Unchanged):
    list_display = ["name", "owner", "demo_key", "base_model", "published_at", "hidden_at"]
    list_filter = [("hidden_at", admin.EmptyFieldListFilter)]
    list_select_related = ["owner", "base_model"]
    search_fields = ["name", "owner__username", "demo_key"]
    exclude = ["salt"]
    inlines = [ExampleRows]
    actions = ["hide", "restore", "ban_uploads"]
    hide = asks_first("Hide", sharing.hide, permission="moderate")
    restore = asks_first("Restore", sharing.restore, form=PerhapsReasonForm, permission="moderate")

    ban_uploads = asks_first("Ban the owner's uploads", _ban_owner, permission="moderate")

    def get_queryset(self, request: HttpRequest) -> QuerySet[FewShotTask]:
        """Moderators see what is shared, superusers everything."""
        found: QuerySet[FewShotTask] = super().get_queryset(request)
        return found if request.user.is_superuser else found.filter(published_at__isnull=False)

    def has_moderate_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("composer.change_fewshottask")


class IngredientRows(admin.TabularInline):
    model = Ingredient
    extra = 0
    can_delete = False


@transaction.atomic
def _withdraw(recipe: Recipe, *, moderator: User, reason: str) -> None:
    row = Recipe.objects.filter(pk=recipe.pk)
    row.update(published_at=None, published_by=None, published_search=None)
    moderation.record(moderator, "withdraw recipe", recipe.get_absolute_url(), reason)
    notify(recipe.published_by, f"A moderator has withdrawn “{recipe}”. Reason: {reason}")


def _allow_adapter(recipe: Recipe, *, moderator: User, reason: str) -> None:
    Recipe.objects.filter(pk=recipe.pk).update(adapter_allowed=True)
    moderation.record(moderator, "allow the adapter", recipe.get_absolute_url(), reason)


def _refuse_adapter(recipe: Recipe, *, moderator: User, reason: str) -> None:
    Recipe.objects.filter(pk=recipe.pk).update(adapter_allowed=False)
    moderation.record(moderator, "refuse the adapter", recipe.get_absolute_url(), reason)


@admin.register(Recipe)
class RecipeAdmin(Unchanged):
    list_display = ["title", "digest", "base_model", "published_by", "published_at", "created_at"]
    list_select_related = ["base_model", "published_by"]
    search_fields = ["title", "digest", "published_by__username"]
    inlines = [IngredientRows]
    actions = ["withdraw", "allow_adapter", "refuse_adapter"]
    withdraw = asks_first("Withdraw from the public", _withdraw, permission="moderate")
    allow_adapter = asks_first(
        "Hand its adapter out though a module is hidden", _allow_adapter, permission="moderate"
    )
    refuse_adapter = asks_first(
        "No longer hand it out while a module is hidden", _refuse_adapter, permission="moderate"
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Recipe]:
        """Moderators see what is published, superusers everything."""
        found: QuerySet[Recipe] = super().get_queryset(request)
        return found if request.user.is_superuser else found.filter(published_at__isnull=False)

    def has_moderate_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("composer.change_recipe")


@admin.register(Search)
class SearchAdmin(Unchanged):
    list_display = ["title", "job", "preset", "base_model", "recipe"]
    list_select_related = ["job", "base_model", "recipe"]
    search_fields = ["title", "job__user__username"]
    exclude = ["examples", "evidence"]
