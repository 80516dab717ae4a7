"""Reading by the Hub's protocol: who am I, a repo, its files, its history."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.http.multipartparser import MultiPartParserError

from modules import cards
from modules.hub_api import files, listing
from modules.hub_api.answers import (
    HubError,
    asked,
    body,
    entry_not_found,
    find_commit,
    find_repo,
    hub_view,
    is_true,
    iso,
    newest,
    not_offered,
    number,
    own_repo,
    refuse_gated,
    repo_not_found,
    signed_in,
    split_revision,
    text,
    told_as,
    with_next,
)
from modules.models import Commit, CommitFile, Ref, Repo

PAGE = 1_000
EXPANDED_PAGE = 50
COMMITS_PAGE = 100
OF_A_REPO = frozenset({"revision", "tree", "paths-info", "refs", "commits", "auth-check"})


@hub_view("GET")
def whoami(request: HttpRequest) -> HttpResponseBase:
    user = signed_in(request)
    token = user.hub_token  # type: ignore[attr-defined]
    name = user.namespace.name
    return JsonResponse(
        {
            "type": "user",
            "id": str(user.pk),
            "name": name,
            "fullname": user.get_full_name() or name,
            "email": user.email or None,
            "emailVerified": bool(user.email),
            "canPay": False,
            "isPro": False,
            "periodEnd": None,
            "orgs": [],
            "auth": {
                "type": "access_token",
                "accessToken": {
                    "displayName": token.name,
                    "role": token.scope,
                    "createdAt": iso(token.created_at),
                },
            },
        }
    )


@hub_view("GET", "HEAD", for_jobs=True)
def model_info(request: HttpRequest, owner: str, name: str, revision: str = "") -> HttpResponseBase:
    repo = find_repo(request.user, owner, name)
    user = request.user
    commit = find_commit(repo, revision, user) if revision else newest(repo, user)
    expand = asked(request, "expand")
    found = listing.shown(
        repo,
        commit,
        wanted=expand,
        with_card=not expand,
        with_blobs=is_true(request.GET.get("blobs", "")),
        is_whole=True,
    )
    if "sha" in found:
        found["sha"] = told_as(commit, revision)
    return JsonResponse(found)


@hub_view("GET", for_jobs=True)
def tree(request: HttpRequest, owner: str, name: str, rest: str) -> HttpResponseBase:
    """One folder, or all below it (`recursive`). Folders stand beside what is in them."""
    repo = find_repo(request.user, owner, name)
    revision, folder, known = split_revision(repo, rest)
    commit = find_commit(repo, revision, request.user, known)
    is_deep = is_true(request.GET.get("recursive", ""))
    is_expanded = is_true(request.GET.get("expand", ""))
    entries = _entries(commit, folder.strip("/"), is_deep)
    if folder.strip("/") and not entries:
        raise entry_not_found(repo, folder, commit)
    paths = sorted(entries)
    after = request.GET.get("cursor", "")
    paths = [path for path in paths if path > after]
    size = number(request, "limit", EXPANDED_PAGE if is_expanded else PAGE, PAGE)
    page, more = paths[:size], paths[size:]
    every = [file for path in page for file in entries[path]]
    last = files.last_changes(repo, commit, every) if is_expanded else {}
    rows = [_shown(path, entries[path], last) for path in page]
    answer = with_next(request, rows, **({"cursor": page[-1]} if more else {}))
    answer["X-Repo-Commit"] = told_as(commit, revision)
    return answer


@hub_view("POST")
def paths_info(request: HttpRequest, owner: str, name: str, revision: str) -> HttpResponseBase:
    """What is at these paths; those that are not there are left out."""
    repo = find_repo(request.user, owner, name)
    commit = find_commit(repo, revision)
    if request.content_type == "application/json":
        given = body(request)
        paths, is_expanded = given.get("paths", []), is_true(given.get("expand", ""))
    else:
        try:
            paths, is_expanded = request.POST.getlist("paths"), is_true(request.POST.get("expand"))
        except MultiPartParserError as error:
            raise HubError(400, "The form could not be read") from error
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise HubError(400, "paths must be a list of texts")
    every = _entries(commit, "", True)
    found = [path for path in dict.fromkeys(p.strip("/") for p in paths) if path in every]
    inside = [file for path in found for file in every[path]]
    last = files.last_changes(repo, commit, inside) if is_expanded else {}
    return JsonResponse([_shown(path, every[path], last) for path in found], safe=False)


@hub_view("GET")
def refs(request: HttpRequest, owner: str, name: str) -> HttpResponseBase:
    repo = find_repo(request.user, owner, name)
    found: dict[str, list[dict[str, str]]] = {Ref.BRANCH: [], Ref.TAG: []}
    for ref in repo.refs.select_related("commit").order_by("name"):
        git_name = f"refs/{'heads' if ref.kind == Ref.BRANCH else 'tags'}/{ref.name}"
        found[ref.kind].append({"name": ref.name, "ref": git_name, "targetCommit": ref.commit.sha})
    return JsonResponse({"branches": found[Ref.BRANCH], "converts": [], "tags": found[Ref.TAG]})


@hub_view("GET")
def commits(request: HttpRequest, owner: str, name: str, revision: str) -> HttpResponseBase:
    repo = find_repo(request.user, owner, name)
    newest = find_commit(repo, revision)
    page = number(request, "p", 1, 1_000_000) if request.GET.get("p", "0") != "0" else 0
    size = number(request, "limit", COMMITS_PAGE, PAGE)
    line = _line(repo, newest)
    here = line[page * size : (page + 1) * size]
    rows = [
        {
            **files.shown_commit(commit),
            "message": commit.message,
            "authors": [{"user": commit.author.get_username() if commit.author else "system"}],
        }
        for commit in here
    ]
    more = len(line) > (page + 1) * size
    answer = with_next(request, rows, **({"p": str(page + 1)} if more else {}))
    answer["X-Total-Count"] = str(len(line))
    return answer


@hub_view("GET")
def auth_check(request: HttpRequest, owner: str, name: str, what: str = "") -> HttpResponseBase:
    """May the caller have the files (or, at `/write`, change them)?"""
    repo = find_repo(request.user, owner, name)
    refuse_gated(request, repo, request.user)
    if what == "write":
        own_repo(request, owner, name)
    return HttpResponse()


@hub_view("POST")
def validate_yaml(request: HttpRequest) -> HttpResponseBase:
    """Is this README.md one that the site can read? Asked before every upload of one."""
    given = body(request)
    try:
        cards.check(text(given, "content").encode())
    except cards.BadCard as error:
        found = [{"message": error.user_message}]
        return JsonResponse({"errors": found, "warnings": []}, status=400)
    return JsonResponse({"errors": [], "warnings": []})


@hub_view("GET", "POST", "PUT", "HEAD")
def noise(request: HttpRequest, rest: str = "") -> HttpResponseBase:
    """What clients ask on the side and can do without."""
    return JsonResponse({})


@hub_view("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
def nothing_here(request: HttpRequest, rest: str = "") -> HttpResponseBase:
    """Any other address of the Hub's: never a page, whatever the client asked for."""
    first, _, more = rest.partition("/")
    if more and first in ("models", "datasets", "spaces", "kernels"):
        words = more.split("/")
        if first != "models" or len(words) < 3 or words[1] in OF_A_REPO:
            raise repo_not_found("/".join(w for w in words[:2] if w not in OF_A_REPO))
        raise not_offered(f"this: {request.method} …/{'/'.join(words[2:])[:60]}")
    raise not_offered(f"this: {request.method} /api/{rest[:60]}")


@hub_view("GET", "HEAD", "POST")
def one_segment(request: HttpRequest, name: str, rest: str = "") -> HttpResponseBase:
    """`gpt2` and the like: names without an owner are the Hub's own, this site has none."""
    raise repo_not_found(name)


def _entries(commit: Commit | None, folder: str, is_deep: bool) -> dict[str, list[CommitFile]]:
    """Each path below a folder with the files that make it up: itself, or what is in it."""
    start = f"{folder}/" if folder else ""
    found: dict[str, list[CommitFile]] = {}
    files_here = commit.files.select_related("blob") if commit else CommitFile.objects.none()
    for file in files_here.filter(path__startswith=start):
        words = file.path[len(start) :].split("/")
        depths = range(1, len(words) + 1) if is_deep else [1]
        for depth in depths:
            found.setdefault(start + "/".join(words[:depth]), []).append(file)
    return found


def _shown(path: str, inside: list[CommitFile], last: Any) -> dict[str, Any]:
    newest = max((last[file.path] for file in inside if last), key=lambda c: c.pk, default=None)
    if len(inside) == 1 and inside[0].path == path:
        return files.shown(inside[0], newest)
    return files.shown_folder(path, inside, newest)


def _line(repo: Repo, newest: Commit | None) -> list[Commit]:
    """The commits that led to this one, newest first."""
    if newest is None:
        return []
    by_id = {c.pk: c for c in repo.commits.filter(pk__lte=newest.pk).select_related("author")}
    found, here = [], by_id.get(newest.pk)
    while here:
        found.append(here)
        here = by_id.get(here.parent_id or 0)
    return found
