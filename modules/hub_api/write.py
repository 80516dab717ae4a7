"""Writing by the Hub's protocol. Whatever is written goes the way of every upload."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import IO, Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse

from hub_site import throttles
from hub_site.accounts.models import Namespace, User
from modules import services
from modules.hub_api import files, lfs, ndjson
from modules.hub_api.answers import (
    MAIN,
    HubError,
    body,
    entry_not_found,
    find_commit,
    hub_view,
    is_true,
    not_offered,
    own_repo,
    revision_not_found,
    text,
    writer,
)
from modules.locks import hold_repo
from modules.models import Blob, Commit, Ref, Repo
from modules.repos import gate, ownership
from modules.upload import intake
from modules.upload.receiving import nameless

INLINE_LIMIT = 10_000_000
MOST_CHANGES = 5_000
REF_NAME = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._/+-]{0,118}")


# --- repos -------------------------------------------------------------------------------------


@hub_view("POST")
def create_repo(request: HttpRequest) -> HttpResponseBase:
    user = writer(request)
    throttles.count(request, "upload")
    given = body(request)
    _only_models(given)
    owner = _own_namespace(user, text(given, "organization"))
    name = text(given, "name")
    intake.check(user)
    visibility = _visibility(given) or Repo.PUBLIC
    try:
        repo = services.create_repo(owner=owner, name=name, kind=Repo.LORA, visibility=visibility)
    except services.NameTaken as error:
        repo = Repo.objects.named(owner.name, name).get()
        answer = JsonResponse({"error": error.user_message, "url": _url(request, repo)}, status=409)
        answer["X-Error-Message"] = "You already created this model repo"
        return answer
    return JsonResponse({"url": _url(request, repo), "name": str(repo), "id": f"{repo.pk:024x}"})


@hub_view("DELETE")
def delete_repo(request: HttpRequest) -> HttpResponseBase:
    user, given = writer(request), body(request)
    _only_models(given)
    _, repo = own_repo(request, *_id(text(given, "organization") or user.namespace.name, given))
    ownership.delete(repo)
    return HttpResponse()


@hub_view("POST")
def move_repo(request: HttpRequest) -> HttpResponseBase:
    given = body(request)
    _only_models(given)
    user, repo = own_repo(request, *_split_id(text(given, "fromRepo")))
    to_owner, to_name = _split_id(text(given, "toRepo"))
    if _own_namespace(user, to_owner) != repo.owner:
        raise not_offered("moving a repo to another owner; it can have another name")
    ownership.rename(repo, to_name)
    return HttpResponse()


@hub_view("PUT")
def repo_settings(request: HttpRequest, owner: str, name: str) -> HttpResponseBase:
    _, repo = own_repo(request, owner, name)
    given = body(request)
    visibility, gated = _visibility(given), _gated(given)
    with transaction.atomic():
        if gated is not None:  # first: a repo that is shown at the same time is shown gated
            gate.set_gate(repo, gated)
        if visibility:
            ownership.set_visibility(repo, visibility)
    return JsonResponse(
        {
            "private": repo.is_private,
            "visibility": repo.visibility,
            "gated": repo.gated or False,
        }
    )


# --- branches and tags -------------------------------------------------------------------------


@hub_view("POST", "DELETE")
def branch(request: HttpRequest, owner: str, name: str, ref: str) -> HttpResponseBase:
    _, repo = own_repo(request, owner, name)
    if request.method == "DELETE":
        if ref == MAIN:
            raise HubError(403, f"{MAIN} is what {repo} shows, so it stays")
        return _delete_ref(repo, Ref.BRANCH, ref)
    start = text(body(request), "startingPoint") or MAIN
    return _make_ref(repo, Ref.BRANCH, ref, start)


@hub_view("POST", "DELETE")
def tag(request: HttpRequest, owner: str, name: str, ref: str) -> HttpResponseBase:
    """POST names the revision in the address and the tag in the body; DELETE the tag itself."""
    _, repo = own_repo(request, owner, name)
    if request.method == "DELETE":
        return _delete_ref(repo, Ref.TAG, ref)
    return _make_ref(repo, Ref.TAG, text(body(request), "tag"), ref)


def _make_ref(repo: Repo, kind: str, name: str, revision: str) -> HttpResponseBase:
    odd = ".." in name or "//" in name or name.endswith(("/", ".", ".lock"))
    if not REF_NAME.fullmatch(name) or odd or re.fullmatch("[0-9a-f]{40}", name):
        raise HubError(
            400, f"{name[:120]!r} cannot name a {kind}. Use letters, digits, dots, dashes, slashes"
        )
    with transaction.atomic():
        repo = hold_repo(repo)
        commit = find_commit(repo, revision)
        if commit is None:
            raise HubError(409, f"{repo} is empty: upload a file first")
        try:
            with transaction.atomic():
                Ref.objects.create(repo=repo, kind=kind, name=name, commit=commit)
        except IntegrityError as error:
            raise HubError(409, f"{repo} has a {kind} {name!r} already") from error
    return HttpResponse()


def _delete_ref(repo: Repo, kind: str, name: str) -> HttpResponseBase:
    gone, _ = Ref.objects.filter(repo=repo, kind=kind, name=name).delete()
    if not gone:
        raise revision_not_found(repo, name)
    return HttpResponse()


# --- files -------------------------------------------------------------------------------------


@hub_view("POST")
def preupload(request: HttpRequest, owner: str, name: str, revision: str) -> HttpResponseBase:
    """How each file should come: inside the commit, or before it, by LFS or Xet as the client
    likes. Inside, it costs the client four times its size in memory; before, a few requests more.
    Clients from before Xet send whatever is not text before the commit."""
    user, repo = own_repo(request, owner, name)
    intake.check(user)
    _no_pull_requests(request)
    head = _branch_head(repo, revision)
    given = body(request)
    wanted = given.get("files")
    if not isinstance(wanted, list):
        raise HubError(400, "files must be a list")
    known = {f.path: f.blob for f in head.files.select_related("blob")} if head else {}
    found = []
    for entry in wanted:
        if not isinstance(entry, dict) or not isinstance(entry.get("size"), int):
            raise HubError(400, "each of files needs a path and a size")
        path = text(entry, "path")
        services.check_path(path)
        is_inline = entry["size"] <= INLINE_LIMIT and _speaks_xet(request)
        is_inline = is_inline or not files.is_lfs(path, entry["size"])
        mode = "regular" if is_inline else "lfs"
        answer: dict[str, Any] = {"path": path, "uploadMode": mode, "shouldIgnore": False}
        if blob := known.get(path):
            answer["oid"] = blob.git_sha1 if is_inline else blob.sha256
        found.append(answer)
    return JsonResponse({"files": found, "commitOid": head.sha if head else None})


@hub_view("POST")
def commit(request: HttpRequest, owner: str, name: str, revision: str) -> HttpResponseBase:
    user, repo = own_repo(request, owner, name)
    throttles.count(request, "upload")
    _no_pull_requests(request)
    head = _branch_head(repo, revision)
    intake.check(user)
    change = _Change()
    announced = int(request.META.get("CONTENT_LENGTH") or 0)
    try:
        for line in ndjson.lines(request.read, nameless, settings.MAX_MODULE_BYTES, announced):
            change.add(line, user, repo, head)
        made = _commit(repo, user, change, revision, head)
    finally:
        change.close()
    url = request.build_absolute_uri(f"/{repo}/commit/{made.sha}")
    return JsonResponse({"commitOid": made.sha, "commitUrl": url, "hookOutput": ""})


class _Change:
    """What the lines of a commit ask for."""

    def __init__(self) -> None:
        self.title = self.message = ""
        self.parent: str | None = None
        self.additions: dict[str, IO[bytes] | Blob] = {}
        self.deletions: dict[str, None] = {}
        self.count = 0

    def add(self, line: ndjson.Line, user: User, repo: Repo, head: Commit | None) -> None:
        self.count += 1
        if self.count > MOST_CHANGES:
            raise HubError(413, f"A commit has at most {MOST_CHANGES:,} lines")
        value = line.value
        if line.key == "header":
            self.title = text(value, "summary") or "Upload"
            self.message = text(value, "description")
            self.parent = text(value, "parentCommit") or None
            return
        path = text(value, "path")
        if line.key == "file":
            self._add_file(path, value, line.content)
        elif line.key == "lfsFile":
            self._add(path, _blob(user, repo, path, value))
        elif line.key == "deletedFile":
            self.deletions |= dict.fromkeys(_inside(repo, head, path, is_folder=False))
        elif line.key == "deletedFolder":
            self.deletions |= dict.fromkeys(_inside(repo, head, path, is_folder=True))
        else:
            raise not_offered(f"the change {line.key[:40]!r} in a commit")

    def _add_file(self, path: str, value: dict[str, Any], content: IO[bytes] | None) -> None:
        if value.get("encoding", "base64") != "base64" or content is None:
            raise HubError(400, f"{path[:200]}: send the file's content as base64")
        self._add(path, content)

    def _add(self, path: str, content: IO[bytes] | Blob) -> None:
        services.check_path(path)
        before = self.additions.get(path)
        if before is not None and not isinstance(before, Blob):
            before.close()
        self.additions[path] = content

    def close(self) -> None:
        for content in self.additions.values():
            if not isinstance(content, Blob):
                content.close()


def _commit(repo: Repo, user: User, change: _Change, branch: str, head: Commit | None) -> Commit:
    parent = change.parent
    for known in (head, head.parent if head else None):
        if parent is not None and known is not None and known.sha.startswith(parent.lower()):
            parent = known.sha  # clients may cut it short
    try:
        return services.commit(
            repo=repo,
            author=user,
            title=change.title,
            message=change.message,
            additions=change.additions,
            deletions=[path for path in change.deletions if path not in change.additions],
            parent=parent,
            branch=branch,
        )
    except services.UnknownFile as error:
        raise HubError(404, error.user_message, "EntryNotFound") from error


def _inside(repo: Repo, head: Commit | None, path: str, *, is_folder: bool) -> Iterable[str]:
    """The files to delete. What the newest version no longer has, the one before may have had: a
    change sent again deletes the same files, and the service knows it by that."""
    path = path.strip("/") if is_folder else path
    start = f"{path}/" if path else ""
    for commit in (head, head.parent if head else None):
        every = commit.files.values_list("path", flat=True) if commit else []
        found = [one for one in every if (one.startswith(start) if is_folder else one == path)]
        if found:
            return found
    raise entry_not_found(repo, path, head)


def _blob(user: User, repo: Repo, path: str, value: dict[str, Any]) -> Blob:
    """Bytes by their hash, which came before the commit."""
    oid, size = text(value, "oid").lower(), value.get("size")
    if value.get("algo", "sha256") != "sha256" or not re.fullmatch("[0-9a-f]{64}", oid):
        raise HubError(400, f"{path[:200]}: oid must be a sha256")
    blob = lfs.known_to(user, repo).filter(pk=oid).first()
    if blob is None:
        raise HubError(
            422, f"{path[:200]}: upload these bytes first; {oid[:12]}… is not known here"
        )
    if size is not None and size != blob.size:
        raise HubError(422, f"{path[:200]}: these bytes have {blob.size:,} bytes, not {size}")
    return blob


def _branch_head(repo: Repo, branch: str) -> Commit | None:
    """The commit to go on from; an empty repo takes its first one on main."""
    head = repo.head(branch)
    if head is None and (branch != MAIN or repo.commits.exists()):
        raise revision_not_found(repo, branch)
    return head


# --- what requests say -------------------------------------------------------------------------


def _only_models(given: dict[str, Any]) -> None:
    kind = given.get("type") or "model"
    if kind != "model":
        raise not_offered(f"repos of type {str(kind)[:40]!r}; it holds models only")


def _own_namespace(user: User, name: str) -> Namespace:
    own = user.namespace
    if name and name.lower() != own.name.lower():
        raise HubError(403, f"You may not write to {name}; your own name here is {own.name}")
    return own


def _visibility(given: dict[str, Any]) -> str | None:
    """Older clients say `private`, newer ones `visibility`; None when neither was said."""
    wanted = given.get("visibility")
    if wanted is None and given.get("private") is not None:
        wanted = Repo.PRIVATE if is_true(given["private"]) else Repo.PUBLIC
    if wanted not in (None, Repo.PUBLIC, Repo.PRIVATE):
        raise HubError(400, f"visibility must be public or private; {str(wanted)[:40]!r} is not")
    return wanted


def _gated(given: dict[str, Any]) -> str | None:
    """None when nothing was said; False opens the gate."""
    wanted = given.get("gated")
    if wanted is None or wanted is False:
        return None if wanted is None else gate.OPEN
    if wanted not in (Repo.AUTO, Repo.MANUAL):
        raise HubError(400, f"gated must be auto, manual or false; {str(wanted)[:40]!r} is not")
    return str(wanted)


def _id(owner: str, given: dict[str, Any]) -> tuple[str, str]:
    name = text(given, "name")
    return _split_id(name) if "/" in name else (owner, name)


def _split_id(repo_id: str) -> tuple[str, str]:
    owner, slash, name = repo_id.partition("/")
    if not slash or "/" in name:
        raise HubError(400, f"{repo_id[:200]!r} is not owner/name")
    return owner, name


def _no_pull_requests(request: HttpRequest) -> None:
    if is_true(request.GET.get("create_pr", "")):
        raise not_offered("pull requests; commit to a branch of your own repo")


def _speaks_xet(request: HttpRequest) -> bool:
    """A hint only: whatever way the bytes come then, they are taken."""
    found = re.search(r"hf_hub/(\d+)\.(\d+)", request.headers.get("User-Agent", ""))
    return found is None or (int(found[1]), int(found[2])) >= (1, 20)


def _url(request: HttpRequest, repo: Repo) -> str:
    return request.build_absolute_uri(repo.get_absolute_url())
