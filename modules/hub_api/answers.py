"""What every route of the Hub's protocol shares: who asks, and how errors are told.

Stock clients read a code from `X-Error-Code` and print what `X-Error-Message` says. They try again
on 408, 429 and 5xx, so what will not change is a 4xx. A session cookie never counts here: these
routes take no CSRF token, so only a bearer token says who asks.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import RequestDataTooBig, SuspiciousOperation
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from composer.engine.errors import CommonsError
from hub_site.accounts import tokens
from hub_site.accounts.models import AccessToken, User
from hub_site.errors import status_of, with_headers
from hub_site.jobs import job_tokens
from modules.hub_api.job_reader import JobReader
from modules.models import Commit, Ref, Repo
from modules.repos import gate

if TYPE_CHECKING:
    from modules.querysets import Visitor

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponseBase]
log = logging.getLogger(__name__)
JSON_LIMIT = 4_000_000
MAIN = "main"
LONGEST_REF = 120
EMPTY = "0" * 40  # the revision of a repo without a commit: clients want one


class HubError(CommonsError):
    """An error with the code that clients make their own exception of; "" for a general one."""

    def __init__(
        self, status: int, message: str, code: str = "", commit: Commit | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.commit = status, code, commit


def repo_not_found(repo_id: str) -> HubError:
    """Also for what is private: a stranger must not learn that it is there."""
    return HubError(
        404, f"This site holds no {repo_id!r}, or it is not yours to see.", "RepoNotFound"
    )


def revision_not_found(repo: Repo, revision: str) -> HubError:
    return HubError(404, f"{repo} has no revision {revision!r}.", "RevisionNotFound")


def entry_not_found(repo: Repo, path: str, commit: Commit | None = None) -> HubError:
    at = f" at {commit.sha[:10]}" if commit else ""
    return HubError(404, f"{repo} has no {path!r}{at}.", "EntryNotFound", commit)


def not_offered(what: str) -> HubError:
    return HubError(501, f"LoRA Commons does not offer {what}.")


def hub_view(
    *methods: str, is_public: bool = False, for_jobs: bool = False
) -> Callable[[View[P]], View[P]]:
    """A view of the protocol: these methods, errors as clients expect them, no cookie. A public
    one looks at no token, because what it needs stands elsewhere in the request. A job's token is
    taken only where its worker has something to fetch."""

    def decorate(view: View[P]) -> View[P]:
        @csrf_exempt
        @wraps(view)
        def answer(request: HttpRequest, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
            try:
                if request.method not in methods:
                    raise HubError(405, f"{request.method} is not possible here.")
                request.user = AnonymousUser() if is_public else visitor(request)
                if not for_jobs:
                    refuse_jobs(request.user)
                return view(request, *args, **kwargs)
            except CommonsError as error:
                return told(error)
            except (SuspiciousOperation, RequestDataTooBig) as error:
                return told(HubError(400, f"The server could not read this request: {error}"))

        return answer

    return decorate


def told(error: CommonsError) -> HttpResponse:
    message = error.user_message.replace("…", "...")  # a header holds plain letters only
    answer = JsonResponse({"error": message}, status=status_of(error))
    if isinstance(error, HubError) and error.code:
        answer["X-Error-Code"] = error.code
    if isinstance(error, HubError) and error.commit:
        answer["X-Repo-Commit"] = error.commit.sha
    line = " ".join(message.split())
    answer["X-Error-Message"] = line.encode("ascii", "replace").decode()
    answer["Cache-Control"] = "no-store"
    return with_headers(answer, error)


# --- who asks ----------------------------------------------------------------------------------


def visitor(request: HttpRequest) -> Any:
    sent = tokens.sent_with(request)
    if sent is None:
        return AnonymousUser()
    if job := job_tokens.find(sent):
        return JobReader(job)
    token = tokens.find(sent)
    if token is None:
        # The words that clients know: with others they would say that the repo is missing.
        error = HubError(401, "Invalid credentials in Authorization header")
        raise error
    token.user.hub_token = token
    return token.user


def refuse_jobs(user: Visitor) -> None:
    if isinstance(user, JobReader):
        raise HubError(403, "A job's token fetches the files of its job, and does nothing else")


def signed_in(request: HttpRequest) -> User:
    if not request.user.is_authenticated:
        raise HubError(
            401, "Sign in first: make a token on this site, then run `hf auth login` with it."
        )
    return request.user


def writer(request: HttpRequest) -> User:
    user = signed_in(request)
    token: AccessToken = user.hub_token  # type: ignore[attr-defined]
    if token.scope != AccessToken.WRITE:
        raise HubError(403, "This token may only read. Make one with write scope")
    return user


# --- which repo --------------------------------------------------------------------------------


def find_repo(user: Visitor, owner: str, name: str) -> Repo:
    repos = user.repos() if isinstance(user, JobReader) else Repo.objects.visible_to(user)
    repo = repos.named(owner, name).first()
    if repo is None:
        raise repo_not_found(f"{owner}/{name}")
    return repo


def refuse_gated(request: HttpRequest, repo: Repo, user: Visitor) -> None:
    """Before the bytes of a repo are handed out, and before it is said whether they are there. What
    a job may have of gated repos is decided where its kind says what it reads."""
    if not isinstance(user, JobReader) and not gate.may_read(repo, user):
        address = request.build_absolute_uri(repo.get_absolute_url())
        status = 403 if user.is_authenticated else 401
        raise HubError(status, gate.why_not(repo, user, address), "GatedRepo")


def own_repo(request: HttpRequest, owner: str, name: str) -> tuple[User, Repo]:
    """The repo for somebody who may write to it."""
    user = writer(request)
    repo = find_repo(user, owner, name)
    if not Repo.objects.editable_by(user).filter(pk=repo.pk).exists():
        raise HubError(403, f"Only {repo.owner.name} may change {repo}")
    return user, repo


def find_commit(
    repo: Repo,
    revision: str,
    user: Visitor | None = None,
    known: Iterable[Ref] | None = None,
) -> Commit | None:
    """The commit that a revision names; None for what an empty repo shows."""
    commit = repo.at_revision(revision, known)
    if isinstance(user, JobReader):
        return _pinned(repo, commit, revision, user)
    if commit is None and not (revision in (MAIN, EMPTY) and not repo.commits.exists()):
        raise revision_not_found(repo, revision)
    return commit


def newest(repo: Repo, user: Visitor) -> Commit | None:
    """What the repo shows to whom nothing else is said."""
    head = repo.head()
    return _pinned(repo, head, MAIN, user) if isinstance(user, JobReader) else head


def _pinned(repo: Repo, commit: Commit | None, revision: str, user: JobReader) -> Commit:
    """A job reads the commits that it pins, and no others of their repos."""
    if commit is None or not user.may_read(commit):
        raise revision_not_found(repo, revision)
    return commit


def told_as(commit: Commit | None, revision: str) -> str:
    """The commit's id. A base model's tag looks like one (it names the files by their content), and
    to clients then is one: they expect to hear it again."""
    if re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    return commit.sha if commit else EMPTY


def split_revision(repo: Repo, rest: str) -> tuple[str, str, list[Ref]]:
    """`{revision}/{path}`, and the refs that were read for it. A branch's name may hold slashes, so
    the longest known name goes first; servers see `%2F` as a slash already."""
    words = rest.partition("\0")[0][:LONGEST_REF].split("/")
    starts = ["/".join(words[:count]) for count in range(1, len(words) + 1)]
    known = list(repo.refs.filter(name__in=starts).select_related("commit"))
    names = [ref.name for ref in known if rest[len(ref.name) :][:1] in ("", "/")]
    revision = max(names, key=len, default=rest.partition("/")[0])
    return revision, rest[len(revision) + 1 :], known


# --- what came and what goes -------------------------------------------------------------------


def body(request: HttpRequest) -> dict[str, Any]:
    try:
        found = json.loads(request.read(JSON_LIMIT + 1) or b"{}")
    except (ValueError, RecursionError) as error:
        raise HubError(400, "The request must hold JSON") from error
    if not isinstance(found, dict):
        raise HubError(400, "The request must hold a JSON object")
    return found


def text(given: Mapping[str, Any], key: str, default: str = "") -> str:
    value = given.get(key)
    if value is None:
        return default
    if not isinstance(value, str) or "\0" in value:
        raise HubError(400, f"{key} must be a text; {str(value)[:60]!r} is none")
    return value


def is_true(value: object) -> bool:
    """Clients write True, true and 1."""
    return str(value).lower() in ("true", "1")


def asked(request: HttpRequest, name: str) -> list[str]:
    """A repeated parameter, written as clients of all ages do: `expand=a`, `expand[]=a`."""
    return request.GET.getlist(name) + request.GET.getlist(f"{name}[]")


def number(request: HttpRequest, name: str, default: int, most: int) -> int:
    given = request.GET.get(name)
    if given is None:
        return default
    if not given.isascii() or not given.isdigit() or not 1 <= int(given[:9]) <= most:
        raise HubError(400, f"{name} must be a number from 1 to {most}; {given[:40]!r} is not")
    return int(given[:9])


def with_next(request: HttpRequest, rows: list[Any], **changed: str) -> JsonResponse:
    """Rows, and where the next ones are: clients follow the Link header."""
    answer = JsonResponse(rows, safe=False)
    if changed:
        query = request.GET.copy()
        for name, value in changed.items():
            query[name] = value
        here = request.build_absolute_uri(request.path)
        answer["Link"] = f'<{here}?{query.urlencode()}>; rel="next"'
    return answer


def iso(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
