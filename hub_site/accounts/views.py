"""Signing in and up while being a guest, and the page of a user's tokens."""

from typing import Any

from allauth.account import views as allauth_views
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from hub_site.accounts import notices, tokens
from hub_site.accounts.forms import NoticesForm, ProfileForm, TokenForm
from hub_site.accounts.models import AccessToken, User


class _OpenToGuests:
    """allauth sends everybody who is signed in away; a guest is signed in and may come in."""

    request: HttpRequest

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if request.user.is_authenticated and not request.user.is_guest:
            # An address, never a name of one: `next` may be any word.
            return HttpResponseRedirect(self.get_authenticated_redirect_url())  # type: ignore[attr-defined]
        return super().dispatch(request, *args, **kwargs)  # type: ignore[misc]


class LoginView(_OpenToGuests, allauth_views.LoginView):
    pass


class SignupView(_OpenToGuests, allauth_views.SignupView):
    pass


def _tokens_page(
    request: HttpRequest, form: TokenForm, *, new: str = "", status: int = 200
) -> HttpResponse:
    context = {"form": form, "tokens": request.user.tokens.filter(revoked_at=None), "new": new}
    return render(request, "account/tokens.html", context, status=status)


@never_cache
@login_required
@require_http_methods(["GET", "HEAD", "POST"])
@sensitive_variables("plain")
def token_list(request: HttpRequest) -> HttpResponse:
    """The new token's text is in the answer to the POST and nowhere else."""
    if request.user.is_guest:
        return redirect("account_signup")
    if request.method != "POST":
        return _tokens_page(request, TokenForm())
    form = TokenForm(request.POST)
    if not form.is_valid():
        return _tokens_page(request, form, status=422)
    try:
        _, plain = tokens.create_token(request.user, **form.cleaned_data)
    except tokens.BadToken as error:
        form.add_error(None, error.user_message)
        return _tokens_page(request, form, status=422)
    return _tokens_page(request, TokenForm(), new=plain, status=201)


@login_required
@require_POST
def token_revoke(request: HttpRequest, pk: int) -> HttpResponse:
    tokens.revoke(get_object_or_404(AccessToken, pk=pk, user=request.user))
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
    }
    return render(request, "account/settings.html", context, status=status)


@never_cache
@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def settings_page(request: HttpRequest) -> HttpResponse:
    """One page, two small forms of its own, and the way to everything else."""
    if request.user.is_guest:
        return redirect("account_signup")
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
