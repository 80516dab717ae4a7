"""Signing in and up: while being a guest, and with an account of Hugging Face."""

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlsplit

from allauth.account import views as allauth_views
from allauth.socialaccount import views as social_views
from allauth.socialaccount.providers.openid_connect import views as oidc
from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.contrib.auth.views import redirect_to_login
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseRedirect,
)
from django.shortcuts import redirect, render
from requests import RequestException

from hub_site import throttles
from hub_site.accounts.adapter import ASKED_FOR_MORE, address_problem, name_problem
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
        return found | {"hugging_face": hugging_face()}

    def render_to_response(self, context: dict[str, Any], **options: Any) -> HttpResponse:
        response: HttpResponse = super().render_to_response(context, **options)  # type: ignore[misc]
        return may_lead_to_hugging_face(response)


def hugging_face() -> dict[str, Any] | None:
    """The OAuth app at Hugging Face, if there is one."""
    apps = settings.SOCIALACCOUNT_PROVIDERS["openid_connect"]["APPS"]
    return apps[0] if apps else None


def may_lead_to_hugging_face(response: HttpResponse) -> HttpResponse:
    """Chromium holds a form to the policy even where the answer to it leads elsewhere."""
    if app := hugging_face():
        there = urlsplit(app["settings"]["server_url"])
        here = "form-action 'self'"
        policy = POLICY.replace(here, f"{here} {there.scheme}://{there.netloc}")
        response.headers["Content-Security-Policy"] = policy
    return response


class _Throttled:
    """By address, whoever is signed in: what is sent is a name that somebody claims."""

    throttled: str

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        throttles.count(request, self.throttled, AnonymousUser())
        return super().post(request, *args, **kwargs)  # type: ignore[misc]


class LoginView(_Throttled, _OffersHuggingFace, _OpenToGuests, allauth_views.LoginView):
    throttled = "sign_in"


class SignupView(_Throttled, _OffersHuggingFace, _OpenToGuests, allauth_views.SignupView):
    throttled = "sign_up"


class ConfirmEmailView(allauth_views.ConfirmEmailView):
    def logout_other_user(self, confirmation: Any) -> None:
        """A guest stays: signing out would delete what they made, and they only followed a link."""
        if not getattr(self.request.user, "is_guest", False):
            super().logout_other_user(confirmation)


class SocialSignupView(_Throttled, social_views.SignupView):
    """Choosing a name here, when the name or the address at Hugging Face is not free."""

    throttled = "sign_up"

    def get_context_data(self, **options: Any) -> dict[str, Any]:
        name = self.sociallogin.user.username
        why = address_problem(self.sociallogin) or (name_problem(name) if name else "")
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


def connect_at_hugging_face(request: HttpRequest, scope: str) -> HttpResponseBase:
    """To the other site's page, to be asked for one right more than signing in needs. What comes
    back is looked at by `SocialAccountAdapter.pre_social_login`."""
    request.GET = request.GET.copy()  # where allauth looks for more scopes
    request.GET["scope"] = scope
    request.session[ASKED_FOR_MORE] = True
    provider = hugging_face()
    assert provider is not None
    return when_reachable(oidc.login)(request, provider_id=provider["provider_id"])


@account_only
def connections(request: HttpRequest) -> HttpResponseBase:
    if hugging_face() is None:
        raise Http404
    return ConnectionsView.as_view()(request)


class ConnectionsView(_OffersHuggingFace, social_views.ConnectionsView):
    pass
