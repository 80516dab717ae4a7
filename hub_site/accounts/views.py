"""Signing in and up while being a guest, and the page of a user's tokens."""

from typing import Any

from allauth.account import views as allauth_views
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST

from hub_site.accounts import tokens
from hub_site.accounts.forms import TokenForm
from hub_site.accounts.models import AccessToken


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
