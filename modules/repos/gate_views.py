"""Pages of the gate: asking for access, and the owner's list of who asked."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.http import require_http_methods, require_POST

from composer.engine.errors import CommonsError
from hub_site.accounts import tokens
from hub_site.errors import status_of
from modules.community.views import has_account, sign_in_first
from modules.finding import keyset
from modules.hub_api import access as programs
from modules.models import Repo
from modules.repos import gate
from modules.upload.forms import GrantForm

# What the owner's buttons do, and what is said then.
DECISIONS = {
    "accept": (gate.ACCEPTED, "{} has access now."),
    "reject": (gate.REJECTED, "{} is turned down."),
    "revoke": (gate.REJECTED, "{} has no access any more."),
}
LISTS = {
    gate.PENDING: "Waiting",
    gate.ACCEPTED: "With access",
    gate.REJECTED: "Turned down",
}
# Who waits longest stands first; of what is decided, the newest.
ORDERS = {state: keyset.Order("id", descending=state != gate.PENDING) for state in LISTS}


class MessageForm(forms.Form):
    message = forms.CharField(required=False, max_length=gate.MESSAGE_LENGTH)


class DecisionForm(forms.Form):
    request = forms.IntegerField(min_value=1, max_value=2**63 - 1)
    do = forms.ChoiceField(choices=[(each, each) for each in DECISIONS])
    reason = forms.CharField(required=False, max_length=gate.REASON_LENGTH)


# --- whoever asks ------------------------------------------------------------------------------


@csrf_exempt  # a program sends no form: its token says who asks; `_ask` looks at the form's own
@require_POST
def ask_access(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    if tokens.sent_with(request) is not None:
        return programs.ask(request, owner, name)  # type: ignore[return-value]
    answer: HttpResponse = csrf_protect(_ask)(request, owner, name)
    return answer


def _ask(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    repo = _visible(request, owner, name)
    if not has_account(request):
        return sign_in_first(request, repo.get_absolute_url())
    form = MessageForm(request.POST)
    if not form.is_valid():
        messages.error(request, f"Nothing was sent: {form.errors['message'][0]}")
        return redirect(repo)
    try:
        found = gate.ask(repo, request.user, form.cleaned_data["message"])
    except CommonsError as error:
        messages.error(request, error.user_message)
        return redirect(repo)
    if found.state == gate.ACCEPTED:
        messages.success(request, f"You have access to {repo.name} now.")
    elif found.state == gate.PENDING:
        messages.success(request, f"{repo.owner.name} is asked. A notice will tell you the answer.")
    return redirect(repo)


@require_POST
def withdraw_access(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    repo = _visible(request, owner, name)
    if not has_account(request):
        return sign_in_first(request, repo.get_absolute_url())
    try:
        gate.withdraw(repo, request.user)
    except CommonsError as error:
        messages.info(request, error.user_message)
    else:
        messages.success(request, "Your request is taken back.")
    return redirect(repo)


def _visible(request: HttpRequest, owner: str, name: str) -> Repo:
    return get_object_or_404(Repo.objects.visible_to(request.user).named(owner, name))


# --- its owner ---------------------------------------------------------------------------------


def _own(request: HttpRequest, owner: str, name: str) -> Repo:
    own = Repo.objects.editable_by(request.user).filter(kind=Repo.LORA)
    found: Repo = get_object_or_404(own.named(owner, name))
    return found


@require_http_methods(["GET", "HEAD", "POST"])
def access(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """Who asked, who has access, who was turned down; a POST is a decision about one of them."""
    if not request.user.is_authenticated:
        return sign_in_first(request, reverse("modules:access", args=[owner, name]))
    repo = _own(request, owner, name)
    if request.method == "POST":
        return _decide(request, repo)
    return _list(request, repo)


@require_POST
def grant(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    if not request.user.is_authenticated:
        return sign_in_first(request, reverse("modules:access", args=[owner, name]))
    repo, form = _own(request, owner, name), GrantForm(request.POST)
    status = 422
    if form.is_valid():
        try:
            found = gate.grant(repo, form.cleaned_data["user"])
        except CommonsError as error:
            form.add_error("user", error.user_message)
            status = status_of(error)
        else:
            messages.success(request, f"{found.user.username} has access now.")
            return redirect(_address(repo, gate.ACCEPTED))
    return _list(request, repo, form, status)


def _decide(request: HttpRequest, repo: Repo) -> HttpResponse:
    form = DecisionForm(request.POST)
    if not form.is_valid():
        said = "; ".join(f"{name}: {errors[0]}" for name, errors in form.errors.items())
        messages.error(request, f"Nothing was changed: {said}")
        return _list(request, repo, status=422)
    found = repo.access_requests.for_rows().filter(pk=form.cleaned_data["request"]).first()
    state, said = DECISIONS[form.cleaned_data["do"]]
    if found is None:
        messages.info(request, "This request was taken back meanwhile.")
        return redirect(_address(repo, gate.PENDING))
    before = found.state
    try:
        gate.decide(found, state, form.cleaned_data["reason"])
    except CommonsError as error:
        messages.error(request, error.user_message)
    else:
        messages.success(request, said.format(found.user.username))
    return redirect(_address(repo, before))


def _list(
    request: HttpRequest, repo: Repo, form: GrantForm | None = None, status: int = 200
) -> HttpResponse:
    counts = {state: repo.access_requests.in_state(state).count() for state in LISTS}
    shown = request.GET.get("show", "")
    if shown not in LISTS:
        shown = gate.PENDING if counts[gate.PENDING] or not counts[gate.ACCEPTED] else gate.ACCEPTED
    rows = repo.access_requests.in_state(shown).select_related("user")
    context: dict[str, Any] = {
        "repo": repo,
        "shown": shown,
        "lists": [(state, title, counts[state]) for state, title in LISTS.items()],
        "page": keyset.cut(rows, ORDERS[shown], request.GET.get("after", "")),
        "form": form or GrantForm(),
    }
    return render(request, "modules/access.html", context, status=status)


def _address(repo: Repo, state: str) -> str:
    return f"{reverse('modules:access', args=[repo.owner.name, repo.name])}?show={state}"
