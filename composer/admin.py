"""What operators see of compositions. Private texts stay out of lists; results are not edited."""

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse

from composer.models import Example, FewShotTask, Ingredient, Recipe, Search
from hub_site.admin_reason import with_reason
from modules.community import moderation


class ExampleRows(admin.TabularInline):
    model = Example
    extra = 0


@admin.register(FewShotTask)
class FewShotTaskAdmin(admin.ModelAdmin):
    list_display = ["name", "owner", "demo_key", "base_model", "created_at"]
    list_select_related = ["owner", "base_model"]
    search_fields = ["name", "owner__username", "demo_key"]
    raw_id_fields = ["owner"]
    inlines = [ExampleRows]


class Unchanged(admin.ModelAdmin):
    """Made by searches, named by its content: looked at, taken down, never edited."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False


class IngredientRows(admin.TabularInline):
    model = Ingredient
    extra = 0
    can_delete = False


@admin.register(Recipe)
class RecipeAdmin(Unchanged):
    list_display = ["title", "digest", "base_model", "published_by", "published_at", "created_at"]
    list_select_related = ["base_model", "published_by"]
    search_fields = ["title", "digest", "published_by__username"]
    inlines = [IngredientRows]
    actions = ["withdraw", "allow_adapter", "refuse_adapter"]

    @admin.action(
        description="Hand its adapter out though a module is hidden", permissions=["delete"]
    )
    def allow_adapter(self, request: HttpRequest, queryset: QuerySet) -> HttpResponse | None:
        return self._set_allowed(request, queryset, "Allow the adapter", True)

    @admin.action(
        description="No longer hand it out while a module is hidden", permissions=["delete"]
    )
    def refuse_adapter(self, request: HttpRequest, queryset: QuerySet) -> HttpResponse | None:
        return self._set_allowed(request, queryset, "Refuse the adapter", False)

    def _set_allowed(
        self, request: HttpRequest, queryset: QuerySet, title: str, is_allowed: bool
    ) -> HttpResponse | None:
        def act(recipe: Recipe, reason: str) -> None:
            Recipe.objects.filter(pk=recipe.pk).update(adapter_allowed=is_allowed)
            moderation.record(request.user, title.lower(), recipe.get_absolute_url(), reason)

        return with_reason(self, request, queryset, title=title, act=act)

    @admin.action(description="Withdraw from the public", permissions=["delete"])
    def withdraw(self, request: HttpRequest, queryset: QuerySet) -> None:
        count = queryset.update(published_at=None, published_by=None, published_search=None)
        self.message_user(request, f"{count} recipes are no longer public.")


@admin.register(Search)
class SearchAdmin(Unchanged):
    list_display = ["title", "job", "preset", "base_model", "recipe"]
    list_select_related = ["job", "base_model", "recipe"]
    search_fields = ["title", "job__user__username"]
    exclude = ["examples", "evidence"]
