"""A user's own pages: tokens, notices, settings, export, and deleting the account."""

import time
from typing import Any

from allauth.account.internal.flows.login import get_authentication_records
from allauth.core import ratelimit
from django.contrib import messages
from django.contrib.auth import logout
from django.contrib.auth.decorators import login_required
from django.forms import ModelForm
from django.http import (
    FileResponse,
    HttpRequest,
    HttpResponse,
    HttpResponseRedirect,
)
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from hub_site import throttles
from hub_site.accounts import export, leaving, notices, tokens
from hub_site.accounts.forms import DeleteForm, NoticesForm, ProfileForm, TokenForm
from hub_site.accounts.models import User
from hub_site.accounts.views import account_only, hugging_face
from hub_site.pages import site_address

FRESH_SECONDS = 600


def _tokens_page(
    request: HttpRequest, form: TokenForm, *, new: str = "", status: int = 200
) -> HttpResponse:
    context = {"form": form, "tokens": request.user.tokens.filter(revoked_at=None), "new": new}
    return render(request, "account/tokens.html", context, status=status)


@never_cache
@account_only
@require_http_methods(["GET", "HEAD", "POST"])
@sensitive_variables("plain")
def token_list(request: HttpRequest) -> HttpResponse:
    """The new token's text is in the answer to the POST and nowhere else."""
    if request.method != "POST":
        return _tokens_page(request, TokenForm())
    throttles.count(request, "token")
    form = TokenForm(request.POST)
    if not form.is_valid():
        return _tokens_page(request, form, status=422)
    try:
        _, plain = tokens.create_token(request.user, **form.cleaned_data)
    except tokens.BadToken as error:
        form.add_error(None, error.user_message)
        return _tokens_page(request, form, status=422)
    return _tokens_page(request, TokenForm(), new=plain, status=201)


@never_cache
@account_only
@require_http_methods(["GET", "HEAD", "POST"])
def token_revoke(request: HttpRequest, pk: int) -> HttpResponse:
    token = get_object_or_404(request.user.tokens.filter(revoked_at=None), pk=pk)
    if request.method != "POST":
        return render(request, "account/token_revoke.html", {"token": token})
    tokens.revoke(token)
    messages.success(request, f"{token.name} is revoked.")
    return redirect("account_tokens")


@never_cache
@login_required
@require_safe
def notice_list(request: HttpRequest) -> HttpResponse:
    newest = list(request.user.notices.all()[: notices.SHOWN + 1])
    context = {
        "notices": newest[: notices.SHOWN],
        "there_are_more": len(newest) > notices.SHOWN,
        "any_unread": notices.unread(request.user).exists(),
    }
    return render(request, "account/notices.html", context)


@login_required
@require_POST
def notices_read(request: HttpRequest) -> HttpResponse:
    notices.mark_read(request.user.notices.all())
    return redirect("account_notices")


@login_required
@require_safe
def notice(request: HttpRequest, pk: int) -> HttpResponse:
    """Following a notice's link is reading it."""
    found = get_object_or_404(request.user.notices, pk=pk)
    notices.mark_read(request.user.notices.filter(pk=found.pk))
    is_ours = url_has_allowed_host_and_scheme(found.address, allowed_hosts=None)
    return HttpResponseRedirect(found.address if is_ours else reverse("account_notices"))


def _settings_page(request: HttpRequest, forms: dict[str, Any], status: int = 200) -> HttpResponse:
    user = User.objects.get(pk=request.user.pk)
    context = {
        "profile_form": forms.get("profile") or ProfileForm(instance=user),
        "notices_form": forms.get("notices") or NoticesForm(instance=user),
        "email": notices.confirmed_address(user),
        "addresses": user.emailaddress_set.order_by("-primary", "pk"),
        "tokens_count": user.tokens.filter(revoked_at=None).count(),
        "has_password": user.has_usable_password(),
        "hugging_face": hugging_face(),
        "hub_account": getattr(user, "hub_account", None),
        "connected": list(user.socialaccount_set.all()) if hugging_face() else [],
    }
    return render(request, "account/settings.html", context, status=status)


@never_cache
@account_only
@require_http_methods(["GET", "HEAD", "POST"])
def settings_page(request: HttpRequest) -> HttpResponse:
    """One page, two small forms of its own, and the way to everything else."""
    if request.method != "POST":
        return _settings_page(request, {})
    kind = "notices" if "notices" in request.POST else "profile"
    form_class: type[ModelForm] = {"notices": NoticesForm, "profile": ProfileForm}[kind]
    form = form_class(request.POST, instance=User.objects.get(pk=request.user.pk))
    if not form.is_valid():
        return _settings_page(request, {kind: form}, status=422)
    form.save()
    messages.success(request, "Saved.")
    return redirect("account_settings")


def _signed_in_just_now(request: HttpRequest) -> bool:
    records = get_authentication_records(request, request.user)
    return bool(records) and time.time() - records[-1]["at"] < FRESH_SECONDS


@never_cache
@account_only
@require_http_methods(["GET", "HEAD", "POST"])
@sensitive_variables()
def delete_account(request: HttpRequest) -> HttpResponse:
    user = User.objects.get(pk=request.user.pk)
    owned = leaving.belongings(user)
    form = DeleteForm(
        request.POST or None,
        user=user,
        has_modules=bool(owned.public_modules),
        is_fresh=_signed_in_just_now(request),
    )
    if request.method == "POST":
        if limited := ratelimit.consume_or_429(request, action="reauthenticate", user=user):
            return limited
        if form.is_valid():
            keep = form.cleaned_data.get("modules") == DeleteForm.KEEP
            leaving.delete_account(user, keep_public=keep)
            logout(request)
            messages.success(request, "Your account is deleted.")
            return redirect("home")
    context = {"form": form, "owned": owned}
    status = 422 if request.method == "POST" else 200
    return render(request, "account/delete.html", context, status=status)


@never_cache
@account_only
@require_safe
def export_account(request: HttpRequest) -> FileResponse:
    user = User.objects.get(pk=request.user.pk)
    name = f"lora-commons-{user.username}.zip"
    return FileResponse(
        export.as_zip(user, site_address(request)), as_attachment=True, filename=name
    )
