"""An admin action that asks for a reason first, on a page of its own."""

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


def with_reason(
    model_admin: admin.ModelAdmin,
    request: HttpRequest,
    queryset: QuerySet,
    *,
    title: str,
    act: Callable[[Any, str], None],
    is_needed: bool = True,
) -> HttpResponse | None:
    """The page that asks, or None when `act(row, reason)` was done for every row."""
    form = ReasonForm(request.POST if "is_sure" in request.POST else None)
    form.fields["reason"].required = is_needed
    if not form.is_valid():
        context = {
            **model_admin.admin_site.each_context(request),
            "opts": model_admin.model._meta,
            "title": title,
            "rows": queryset,
            "form": form,
            "action": request.POST.get("action", ""),
            "checkbox": ACTION_CHECKBOX_NAME,
        }
        return TemplateResponse(request, "admin/reason.html", context)
    done = 0
    for row in queryset:
        try:
            act(row, form.cleaned_data["reason"])
            done += 1
        except CommonsError as error:
            messages.error(request, f"{row}: {error.user_message}")
    messages.success(request, f"{title}: {done} done.")
    return None
