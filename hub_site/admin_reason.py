"""Actions of the admin that ask for a reason first, on a page of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from composer.engine.errors import CommonsError


class ReasonForm(forms.Form):
    reason = forms.CharField(
        max_length=500,
        widget=forms.Textarea({"rows": 3, "cols": 70}),
        help_text="Kept in the audit trail, and shown to whom it concerns.",
    )


class PerhapsReasonForm(ReasonForm):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["reason"].required = False


def asks_first(
    title: str,
    act: Callable[..., object],
    *,
    form: type[forms.Form] = ReasonForm,
    permission: str = "change",
) -> Callable[[Any, HttpRequest, QuerySet], HttpResponse | None]:
    """An action that shows the form, then calls `act(row, moderator=…, **what was said)`.

    What cannot be done to a row is told, and the others are done all the same.
    """

    @admin.action(description=f"{title}…", permissions=[permission])
    def action(
        model_admin: admin.ModelAdmin, request: HttpRequest, queryset: QuerySet
    ) -> HttpResponse | None:
        said = form(request.POST if "is_sure" in request.POST else None)
        if not said.is_valid():
            context = {
                **model_admin.admin_site.each_context(request),
                "opts": model_admin.model._meta,
                "title": title,
                "rows": queryset,
                "form": said,
                "action": request.POST.get("action", ""),
                "checkbox": ACTION_CHECKBOX_NAME,
            }
            return TemplateResponse(request, "admin/reason.html", context)
        done = 0
        for row in queryset:
            try:
                act(row, moderator=request.user, **said.cleaned_data)
                done += 1
            except CommonsError as error:
                messages.error(request, f"{row}: {error.user_message}")
        messages.success(request, f"{title}: {done} done.")
        return None

    return action
