"""Tags for moderators: rename one, merge some. `tags.py` does it and keeps the trail."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from composer.engine.errors import CommonsError
from hub_site.accounts.models import User
from modules.finding import tags
from modules.models import Tag, TagAlias


class MergeForm(forms.Form):
    into = forms.CharField(max_length=60, label="The tag that stays")
    reason = forms.CharField(max_length=500, required=False)

    def clean_into(self) -> Tag:
        tag = Tag.objects.named([self.cleaned_data["into"].strip()]).first()
        if tag is None:
            raise forms.ValidationError(
                "There is no tag of this name. To give a tag a new name, open it and rename it."
            )
        return tag


class NameForm(forms.ModelForm):
    """No complaint about a name that is taken: the tag is merged into that one."""

    class Meta:
        model = Tag
        fields = ["name"]
        help_texts = {
            "name": "The old name goes on meaning this tag. A name that another tag has merges "
            "the two."
        }

    def _post_clean(self) -> None:
        """The tag stays as it is until `save_model` renames it."""

    def clean_name(self) -> str:
        try:
            return tags.checked_name(self.cleaned_data["name"])
        except CommonsError as error:
            raise forms.ValidationError(error.user_message) from error


class TagAdmin(admin.ModelAdmin):
    form = NameForm
    list_display = ["name", "uses", "meant_by"]
    ordering = ["-uses", "name"]
    search_fields = ["name", "aliases__name"]
    actions = ["merge"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Tag]:
        found: QuerySet[Tag] = super().get_queryset(request).prefetch_related("aliases")
        return found

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False  # cards bring them

    def has_delete_permission(self, request: HttpRequest, obj: Tag | None = None) -> bool:
        return False  # modules would go on saying it

    @admin.display(description="merged names")
    def meant_by(self, tag: Tag) -> str:
        return ", ".join(alias.name for alias in tag.aliases.all())

    def save_model(self, request: HttpRequest, obj: Tag, form: Any, change: bool) -> None:
        kept = tags.rename(obj, form.cleaned_data["name"], actor=_moderator(request))
        obj.pk, obj.name = kept.pk, kept.name

    @admin.action(description="Merge into another tag", permissions=["change"])
    def merge(self, request: HttpRequest, queryset: QuerySet[Tag]) -> HttpResponse | None:
        form = MergeForm(request.POST if "is_sure" in request.POST else None)
        if not form.is_valid():
            context = {
                **self.admin_site.each_context(request),
                "opts": self.model._meta,
                "title": "Merge tags",
                "rows": queryset,
                "form": form,
                "action": "merge",
                "checkbox": ACTION_CHECKBOX_NAME,
            }
            return TemplateResponse(request, "admin/reason.html", context)
        done = 0
        for tag in queryset.exclude(pk=form.cleaned_data["into"].pk):
            try:
                tags.merge(
                    tag,
                    form.cleaned_data["into"],
                    actor=_moderator(request),
                    reason=form.cleaned_data["reason"],
                )
                done += 1
            except CommonsError as error:
                messages.error(request, f"{tag}: {error.user_message}")
        messages.success(request, f"{done} merged into {form.cleaned_data['into']}.")
        return None


class TagAliasAdmin(admin.ModelAdmin):
    list_display = ["name", "tag", "created_at"]
    list_select_related = ["tag"]
    search_fields = ["name", "tag__name"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: TagAlias | None = None) -> bool:
        return False


def _moderator(request: HttpRequest) -> User:
    assert isinstance(request.user, User)
    return request.user
