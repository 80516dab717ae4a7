"""Pages about the Hub: a user's account there, and where a module's files are kept."""

from __future__ import annotations

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST

from composer.engine.errors import CommonsError
from hub_site.accounts.views import (
    account_only,
    connect_at_hugging_face,
    hugging_face,
    may_lead_to_hugging_face,
)
from hub_site.errors import status_of
from modules.models import HubAccount, HubHome, ModuleOnHub, Repo
from modules.on_hub import accounts, keeping
from modules.on_hub.forms import PlaceForm, TokenForm

SCOPE = "manage-repos"  # what Hugging Face calls the right to make and write repos


# --- the account -------------------------------------------------------------------------------


@never_cache
@account_only
@require_http_methods(["GET", "HEAD", "POST"])
@sensitive_post_parameters("token")
@sensitive_variables()
def account(request: HttpRequest) -> HttpResponse:
    """Connect an account by a token of it; the Hub is asked whose it is before it is kept."""
    if request.method != "POST":
        return _account(request, TokenForm())
    form = TokenForm(request.POST)
    if not form.is_valid():
        return _account(request, form, 422)
    try:
        found = accounts.connect(request.user, form.cleaned_data["token"])
    except CommonsError as error:
        form.add_error("token", error.user_message)
        return _account(request, form, status_of(error))
    keeping.retry_of_user(request.user)
    messages.success(request, f"Your account {found.name} on the Hub is connected.")
    return redirect("modules:hub_account")


def _account(request: HttpRequest, form: TokenForm, status: int = 200) -> HttpResponse:
    context = {
        "form": form,
        "account": HubAccount.objects.filter(user=request.user).first(),
        "hub": settings.HUB_ENDPOINT,
        "hugging_face": hugging_face(),
        "kept": ModuleOnHub.objects.filter(
            place=HubHome.OWN, repo__owner__user=request.user
        ).select_related("repo__owner"),
    }
    answer = render(request, "modules/hub_account.html", context, status=status)
    return may_lead_to_hugging_face(answer)


@account_only
@require_POST
def connect(request: HttpRequest) -> HttpResponseBase:
    """The same by signing in there, where the operator named an OAuth app."""
    if hugging_face() is None:
        raise Http404
    return connect_at_hugging_face(request, SCOPE)


@account_only
@require_POST
def disconnect(request: HttpRequest) -> HttpResponse:
    if accounts.disconnect(request.user):
        messages.success(request, "The account is no longer connected. What is there stays there.")
    return redirect("modules:hub_account")


# --- a module ----------------------------------------------------------------------------------


@require_POST
def home(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """Choose where a module's files are kept, or have what went wrong tried again now."""
    here = reverse("modules:settings", args=[owner, name])
    if not request.user.is_authenticated:
        return redirect_to_login(here)
    own = Repo.objects.editable_by(request.user).filter(kind=Repo.LORA)
    repo = get_object_or_404(own.named(owner, name))
    if "again" in request.POST:
        keeping.try_again(repo)
        messages.info(request, "It is being tried again now.")
        return redirect(here)
    form = PlaceForm(request.POST, user=request.user, now=keeping.place_of(repo))
    if not form.is_valid():
        messages.error(request, f"Nothing was changed: {form.errors['place'][0]}")
        return redirect(here)
    keeping.choose(repo, form.cleaned_data["place"])
    messages.success(request, "Saved. Moving files takes a moment; this page says how it goes.")
    return redirect(here)
