"""Tags for moderators: rename one, merge some. `tags.py` does it and keeps the trail."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from composer.engine.errors import CommonsError
from hub_site.accounts.models import User
from hub_site.admin_reason import asks_first
from modules.finding import tags
from modules.models import Tag, TagAlias


class MergeForm(forms.Form):
    into = forms.CharField(max_length=60, label="The tag that stays")
    reason = forms.CharField(max_length=500, required=False)

    def clean_into(self) -> Tag:
        tag = Tag.objects.in_use().named([self.cleaned_data["into"].strip()]).first()
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


def _merge(tag: Tag, *, moderator: User, into: Tag, reason: str) -> None:
    if tag != into:  # chosen along with the others
        tags.merge(tag, into, actor=moderator, reason=reason)


class TagAdmin(admin.ModelAdmin):
    form = NameForm
    list_display = ["name", "uses", "meant_by"]
    ordering = ["-uses", "name"]
    search_fields = ["name", "aliases__name"]
    actions = ["merge"]
    merge = asks_first("Merge into another tag", _merge, form=MergeForm)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Tag]:
        """A name that only private or hidden modules carry is not for moderators either."""
        return Tag.objects.in_use().prefetch_related("aliases")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False  # cards bring them

    def has_delete_permission(self, request: HttpRequest, obj: Tag | None = None) -> bool:
        return False  # modules would go on saying it

    @admin.display(description="merged names")
    def meant_by(self, tag: Tag) -> str:
        return ", ".join(alias.name for alias in tag.aliases.all())

    def save_model(self, request: HttpRequest, obj: Tag, form: Any, change: bool) -> None:
        kept = tags.rename(obj, form.cleaned_data["name"], actor=request.user)
        obj.pk, obj.name = kept.pk, kept.name


class TagAliasAdmin(admin.ModelAdmin):
    list_display = ["name", "tag", "created_at"]
    list_select_related = ["tag"]
    search_fields = ["name", "tag__name"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[TagAlias]:
        return super().get_queryset(request).filter(tag__in=Tag.objects.in_use())

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: TagAlias | None = None) -> bool:
        return False
