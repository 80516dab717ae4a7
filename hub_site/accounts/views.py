"""Signing in and up while being a guest, and the page of a user's tokens."""

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlsplit

from allauth.account import views as allauth_views
from allauth.socialaccount import views as social_views
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import redirect_to_login
from django.forms import ModelForm
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST, require_safe
from requests import RequestException

from hub_site.accounts import notices, tokens
from hub_site.accounts.adapter import name_problem
from hub_site.accounts.forms import NoticesForm, ProfileForm, TokenForm
from hub_site.accounts.models import AccessToken, User
from hub_site.headers import POLICY

logger = logging.getLogger(__name__)


class _OpenToGuests:
    """allauth sends everybody who is signed in away; a guest is signed in and may come in."""

    request: HttpRequest

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if request.user.is_authenticated and not request.user.is_guest:
            # An address, never a name of one: `next` may be any word.
            return HttpResponseRedirect(self.get_authenticated_redirect_url())  # type: ignore[attr-defined]
        return super().dispatch(request, *args, **kwargs)  # type: ignore[misc]


class _OffersHuggingFace:
    """The button is there when the operator named an OAuth app; then forms may lead there."""

    def get_context_data(self, **options: Any) -> dict[str, Any]:
        found: dict[str, Any] = super().get_context_data(**options)  # type: ignore[misc]
        return found | {"hugging_face": _hugging_face(), "registration": settings.REGISTRATION_OPEN}

    def render_to_response(self, context: dict[str, Any], **options: Any) -> HttpResponse:
        response: HttpResponse = super().render_to_response(context, **options)  # type: ignore[misc]
        return _may_lead_to_hugging_face(response)


def _hugging_face() -> dict[str, Any] | None:
    """The OAuth app at Hugging Face, if there is one."""
    apps = settings.SOCIALACCOUNT_PROVIDERS["openid_connect"]["APPS"]
    return apps[0] if apps else None


def _may_lead_to_hugging_face(response: HttpResponse) -> HttpResponse:
    """Chromium holds a form to the policy even where the answer to it leads elsewhere."""
    if app := _hugging_face():
        there = urlsplit(app["settings"]["server_url"])
        here = "form-action 'self'"
        policy = POLICY.replace(here, f"{here} {there.scheme}://{there.netloc}")
        response.headers["Content-Security-Policy"] = policy
    return response


class LoginView(_OffersHuggingFace, _OpenToGuests, allauth_views.LoginView):
    pass


class SignupView(_OffersHuggingFace, _OpenToGuests, allauth_views.SignupView):
    pass


class ConfirmEmailView(allauth_views.ConfirmEmailView):
    def logout_other_user(self, confirmation: Any) -> None:
        """A guest stays: signing out would delete what they made, and they only followed a link."""
        if not getattr(self.request.user, "is_guest", False):
            super().logout_other_user(confirmation)


class SocialSignupView(social_views.SignupView):
    """Choosing a name here, when the one at Hugging Face is not free."""

    def get_context_data(self, **options: Any) -> dict[str, Any]:
        name = self.sociallogin.user.username
        why = name_problem(name) if name else ""
        return super().get_context_data(**options) | {"their_name": name, "why": why}


def when_reachable(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """allauth takes a provider that is down for a bug."""

    @wraps(view)
    def patient(request: HttpRequest, *args: Any, **options: Any) -> HttpResponseBase:
        try:
            return view(request, *args, **options)
        except RequestException:
            logger.exception("The other site could not be reached")
            return render(request, "socialaccount/authentication_error.html", status=502)

    return patient


def account_only(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """For pages of an account: a guest has none yet, and is led to where one is made."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **options: Any) -> HttpResponseBase:
        if not request.user.is_authenticated:
            return redirect_to_login(request.get_full_path())
        if request.user.is_guest:
            return redirect("account_signup")
        return view(request, *args, **options)

    return guarded


@account_only
def connections(request: HttpRequest) -> HttpResponseBase:
    if _hugging_face() is None:
        raise Http404
    return ConnectionsView.as_view()(request)


class ConnectionsView(_OffersHuggingFace, social_views.ConnectionsView):
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
        "hugging_face": _hugging_face(),
        "connected": list(user.socialaccount_set.all()) if _hugging_face() else [],
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
