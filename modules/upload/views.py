"""Pages of authors: upload a module or a version of one, its history, its settings."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeAlias

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import TooManyFilesSent
from django.http import HttpRequest, HttpResponse, QueryDict, UnreadablePostError
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from composer.engine.errors import CommonsError
from hub_site import throttles
from hub_site.errors import status_of, told, with_headers
from modules import cards, services
from modules.bases import matching
from modules.models import LoraModule, ModuleOnHub, Repo
from modules.on_hub import keeping
from modules.on_hub.forms import PlaceForm
from modules.repos import gate, ownership, page, versions
from modules.upload import intake, receiving, staging
from modules.upload.forms import (
    OPEN,
    DeleteForm,
    EditForm,
    GateForm,
    GrantForm,
    NewModuleForm,
    NewVersionForm,
    RenameForm,
    VisibilityForm,
)

VERSIONS_A_PAGE = 20
ENVELOPE = 100_000  # bytes of a request that are not its files'
View: TypeAlias = Callable[[HttpRequest, str, str], HttpResponse]
GET_AND_POST = ["GET", "HEAD", "POST"]


# --- upload ------------------------------------------------------------------------------------


@csrf_exempt  # the length is looked at before the body is read; `_answer` checks the token then
@require_http_methods(GET_AND_POST)
def upload(request: HttpRequest) -> HttpResponse:
    """A new module: first its files, then what they do not say themselves."""
    return _guarded(request, None)


@csrf_exempt
@require_http_methods(GET_AND_POST)
def new_version(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    if not request.user.is_authenticated:
        return redirect_to_login(request.get_full_path())
    return _guarded(request, _own_repo(request, owner, name))


def _guarded(request: HttpRequest, repo: Repo | None) -> HttpResponse:
    if not request.user.is_authenticated:
        return redirect_to_login(request.get_full_path())
    if request.user.is_guest or not hasattr(request.user, "namespace"):
        messages.info(request, "A module stands under its author's name: sign up to upload one.")
        return redirect(f"{reverse('account_signup')}?next={request.path}")
    if request.method == "POST":
        try:
            _receive(request)
        except (CommonsError, TooManyFilesSent, UnreadablePostError) as error:
            return _ask_for_files(request, repo, told(error))
    answer: HttpResponse = csrf_protect(_answer)(request, repo)
    return answer


def _receive(request: HttpRequest) -> None:
    """Read the body into nameless files, if it is one that this user may send."""
    throttles.count(request, "upload")
    intake.check(request.user)
    room = intake.room(request.user)
    length = request.META.get("CONTENT_LENGTH") or "0"
    if length.isdecimal() and int(length) > room.module + ENVELOPE:
        intake.check_module_size(int(length))
    request.upload_handlers = [receiving.NamelessFiles(request)]
    request.POST  # noqa: B018  reads the body


def _answer(request: HttpRequest, repo: Repo | None) -> HttpResponse:
    token = (request.POST if request.method == "POST" else request.GET).get("files", "")
    if token and not request.FILES:
        return _about(request, repo, token)
    if request.method != "POST":
        return _ask_for_files(request, repo)
    try:
        token = staging.stage(request.user, request.FILES.getlist("files"), repo)
    except CommonsError as error:
        return _ask_for_files(request, repo, error)
    return redirect(f"{request.path}?files={token}")


def _ask_for_files(
    request: HttpRequest, repo: Repo | None, error: CommonsError | None = None
) -> HttpResponse:
    context = {
        "repo": repo,
        "error": error,
        "room": intake.room(request.user),
        "banned": request.user.uploads_banned_at is not None,
    }
    status = status_of(error) if error else 200
    return with_headers(render(request, "modules/upload.html", context, status=status), error)


def _about(request: HttpRequest, repo: Repo | None, token: str) -> HttpResponse:
    """What was read of the files, and the questions that they leave open."""
    staged = staging.find(token, request.user, repo)
    if staged is None:
        messages.warning(request, "These files were put aside too long ago. Upload them again.")
        return redirect(request.path)
    data = request.POST if request.method == "POST" else None
    form = _form(request, repo, staged, data)
    status = 200
    if data is not None:
        status = 422
        if form.is_valid():
            try:
                return _publish(request, repo, staged, form)
            except CommonsError as error:
                status = status_of(error)
                if repo is not None and isinstance(error, services.StaleParent):
                    # The form again, for the version that came meanwhile: sent once more, it fits.
                    token = staging.on_newest(staged, request.user, repo)
                    staged = staging.find(token, request.user, repo) or staged
                    form = _form(request, repo, staged, data)
                form.add_error("name" if _is_about_name(error) else None, error.user_message)
    context = {
        "repo": repo,
        "form": form,
        "staged": staged,
        "token": token,
        "files": sorted(staged.files.items()),
        "variant": page.in_words(staged.reading.variant),
        "card_said": _said(staged),
        "base": matching.match(staged.reading)[0],
    }
    return render(request, "modules/upload_about.html", context, status=status)


def _form(
    request: HttpRequest, repo: Repo | None, staged: staging.Staged, data: QueryDict | None
) -> NewModuleForm | NewVersionForm:
    if repo is None:
        return NewModuleForm(data, user=request.user, staged=staged)
    return NewVersionForm(data, staged=staged)


def _publish(
    request: HttpRequest,
    repo: Repo | None,
    staged: staging.Staged,
    form: NewModuleForm | NewVersionForm,
) -> HttpResponse:
    given = form.cleaned_data
    if repo is None:
        module = staging.publish(
            user=request.user,
            staged=staged,
            name=given["name"],
            visibility=given["visibility"],
            place=given.get("place") or keeping.default_place(),
            facts=form.facts,
        )
        messages.success(request, f"{module.repo.name} is uploaded. Its files are being checked.")
        return redirect(module)
    module = staging.add_version(
        user=request.user, staged=staged, repo=repo, facts=form.facts, message=given["message"]
    )
    if module.commit.sha == staged.parent:
        messages.info(request, "These are the files of the newest version: nothing has changed.")
    else:
        messages.success(request, f"Version {module.commit.sha[:10]} is uploaded.")
    return redirect(module)


def _is_about_name(error: CommonsError) -> bool:
    return isinstance(error, services.BadName | services.NameTaken)


def _said(staged: staging.Staged) -> list[tuple[str, str]]:
    """What README.md answers already."""
    card, open_questions = staged.card, cards.missing(staged.card)
    titles = {
        "description": ("What it does", card.summary),
        "tags": ("Tags", ", ".join(card.tags)),
        "task": ("Task", card.task),
        "licence": ("Licence", card.licence),
        "language": ("Language", card.language),
        "training_data": ("Training data", card.training_data),
        "not_for": ("What it is not for", card.not_for),
    }
    return [value for name, value in titles.items() if name not in open_questions]


# --- history -----------------------------------------------------------------------------------


@require_safe
def commits(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """Every version with its message and what it changed, newest first."""
    repo = get_object_or_404(Repo.objects.visible_to(request.user).named(owner, name))
    rows = repo.commits.select_related("author").order_by("-id")
    before = request.GET.get("before", "")
    if before.isdecimal() and len(before) < 19:
        rows = rows.filter(pk__lt=int(before))
    found = list(rows[: VERSIONS_A_PAGE + 1])
    shown = found[:VERSIONS_A_PAGE]
    context = {
        "repo": repo,
        "versions": versions.with_changes(shown),
        "head": repo.head(),
        "count": repo.commits.count(),
        "has_access": gate.may_read(repo, request.user),
        "older": shown[-1].pk if len(found) > VERSIONS_A_PAGE else None,
        "is_owner": Repo.objects.editable_by(request.user).filter(pk=repo.pk).exists(),
    }
    return render(request, "modules/commits.html", context)


# --- settings ----------------------------------------------------------------------------------


def _own_repo(request: HttpRequest, owner: str, name: str) -> Repo:
    own = Repo.objects.editable_by(request.user).filter(kind=Repo.LORA)
    found: Repo = get_object_or_404(own.named(owner, name))
    return found


def _settings(request: HttpRequest, repo: Repo, status: int = 200, **forms: Any) -> HttpResponse:
    """All forms of the page; the one that was sent comes with what is wrong in it."""
    head = repo.head()
    card_problem = ""
    if "edit" not in forms:
        try:
            text = ownership.card_text(head)
            cards.check(text.encode())
            forms["edit"] = EditForm(card=cards.read(text.encode()), text=text)
        except cards.BadCard as error:
            card_problem = error.user_message
    module = LoraModule.objects.with_recipe_count().filter(repo=repo).first()
    context = {
        "repo": repo,
        "module": module,
        "head": head,
        "card_problem": card_problem,
        "rename": RenameForm(initial={"name": repo.name}),
        "visibility": VisibilityForm(initial={"visibility": repo.visibility}),
        "gate": GateForm(initial={"gated": repo.gated or OPEN}),
        "grant": GrantForm(),
        **gate.summary(repo),
        "delete": DeleteForm(repo=repo),
        "home": ModuleOnHub.objects.filter(repo=repo).first(),
        "place": PlaceForm(user=request.user, now=keeping.place_of(repo)),
        "versions_count": repo.commits.count(),
        "old_addresses": list(repo.old_addresses.select_related("owner")),
        **forms,
    }
    return render(request, "modules/settings.html", context, status=status)


@login_required
@require_http_methods(GET_AND_POST)
def settings(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """Edit the card: a new version of README.md. The page's other forms go to their own places."""
    repo = _own_repo(request, owner, name)
    if request.method != "POST":
        return _settings(request, repo)
    text = ownership.card_text(repo.head())
    form = EditForm(request.POST, card=cards.read(text.encode()), text=text)
    if not form.is_valid():
        return _settings(request, repo, 422, edit=form)
    try:
        changed = ownership.edit_card(
            user=request.user,
            repo=repo,
            changes=form.changes,
            body=form.cleaned_data["body"] if "body" in request.POST else None,
            parent=request.POST.get("parent"),
        )
    except CommonsError as error:
        form.add_error(None, error.user_message)
        return _settings(request, repo, status_of(error), edit=form)
    if changed:
        messages.success(request, "The card is saved as a new version of README.md.")
    else:
        messages.info(request, "Nothing was changed.")
    return redirect("modules:settings", repo.owner.name, repo.name)


def _from_settings(view: View) -> View:
    """A button of the settings page; whoever must sign in first comes back to that page."""

    @require_POST
    @wraps(view)
    def guarded(request: HttpRequest, owner: str, name: str) -> HttpResponse:
        if not request.user.is_authenticated:
            return redirect_to_login(reverse("modules:settings", args=[owner, name]))
        return view(request, owner, name)

    return guarded


@_from_settings
def set_visibility(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    repo = _own_repo(request, owner, name)
    form = VisibilityForm(request.POST)
    if not form.is_valid():
        return _settings(request, repo, 422, visibility=form)
    ownership.set_visibility(repo, form.cleaned_data["visibility"])
    seen = "Only you see it now." if repo.is_private else "Everybody may see it now."
    messages.success(request, seen)
    return redirect("modules:settings", repo.owner.name, repo.name)


@_from_settings
def set_gate(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    repo = _own_repo(request, owner, name)
    form = GateForm(request.POST)
    if not form.is_valid():
        return _settings(request, repo, 422, gate=form)
    gate.set_gate(repo, form.cleaned_data["gated"])
    said = {
        gate.OPEN: "Everybody who sees it may download it now.",
        Repo.AUTO: "Whoever asks may download it from now on.",
        Repo.MANUAL: "From now on, only whom you let in may download it.",
    }
    messages.success(request, said[repo.gated])
    return redirect("modules:settings", repo.owner.name, repo.name)


@_from_settings
def rename(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    repo = _own_repo(request, owner, name)
    form = RenameForm(request.POST)
    if form.is_valid():
        try:
            old, repo = str(repo), ownership.rename(repo, form.cleaned_data["name"])
        except CommonsError as error:
            form.add_error("name", error.user_message)
        else:
            messages.success(request, f"It is {repo} now. Links to {old} lead here.")
            return redirect("modules:settings", repo.owner.name, repo.name)
    return _settings(request, repo, 422, rename=form)


@_from_settings
def delete(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    repo = _own_repo(request, owner, name)
    form = DeleteForm(request.POST, repo=repo)
    if not form.is_valid():
        return _settings(request, repo, 422, delete=form)
    ownership.delete(repo)
    messages.success(request, f"{repo} and all its versions are deleted.")
    return redirect("modules:profile", repo.owner.name)
