"""Everything that a user has here, as one zip of JSON files. Never a password, nor a token."""

import json
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import chain
from typing import IO, Any

from django.core.serializers.json import DjangoJSONEncoder

from hub_site.accounts.models import User

IN_MEMORY = 5 * 1024 * 1024
README = """Your data on {site}, exported {day}.

profile.json      your account, its e-mail addresses, and other sites it can be entered with
tokens.json       your access tokens: what they are called and when they were used, never their text
tasks.json        your few-shot tasks with all examples
searches.json     what you searched for on them, and every figure and answer that came out
trials.json       what you tried on composed adapters
recipes.json      recipes that you published
brought.json      recipe files that you imported, with what they state
verified.json     recipes that you had verified, and what came of it
modules.json      your modules, their versions, and where to download every file
imports.json      what you imported from the Hub, or tried to
collections.json  your collections, in order
likes.json        modules and recipes that you like
access.json       modules that you asked access to, and what came of it
notices.json      your notices
reports.json      what you reported to the moderators

Files of modules are downloaded from the addresses in modules.json; those of private and gated
modules need an access token of yours.
"""


def as_zip(user: User, site: str) -> IO[bytes]:
    """A file at its beginning, on disk when it is large. Rows are written one by one."""
    file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        today = datetime.now().astimezone().date()
        archive.writestr("README.txt", README.format(site=site, day=today))
        for name, rows in _parts(user, site):
            with archive.open(f"{name}.json", "w") as part:
                for piece in _json(rows):
                    part.write(piece.encode())
    file.seek(0)
    return file


def _json(rows: Iterable[Any]) -> Iterator[str]:
    between = chain(["[\n"], iter(lambda: ",\n", ""))
    empty = True
    for row in rows:
        empty = False
        yield next(between)
        yield json.dumps(row, cls=DjangoJSONEncoder, ensure_ascii=False, indent=1)
    yield "[]\n" if empty else "\n]\n"


def _parts(user: User, site: str) -> Iterator[tuple[str, Iterable[Any]]]:
    yield "profile", [_profile(user)]
    yield "tokens", user.tokens.values("name", "scope", "created_at", "last_used_at", "revoked_at")
    yield "tasks", _tasks(user)
    yield "searches", _searches(user)
    yield "trials", _trials(user)
    yield "recipes", _recipes(user, site)
    yield "brought", _brought(user)
    yield "verified", _verified(user)
    yield "modules", _modules(user, site)
    yield "imports", _imports(user)
    yield "collections", _collections(user, site)
    yield "likes", _likes(user, site)
    yield "access", _access(user)
    yield "notices", user.notices.values("text", "address", "created_at", "read_at")
    yield "reports", _reports(user)


def _profile(user: User) -> dict[str, Any]:
    return {
        "name": user.username,
        "bio": user.bio,
        "joined_at": user.date_joined,
        "last_signed_in_at": user.last_login,
        "notices_by_email": user.notify_by_email,
        "uploads_stopped_at": user.uploads_banned_at,
        "uploads_stopped_because": user.uploads_banned_reason,
        "email_addresses": list(user.emailaddress_set.values("email", "verified", "primary")),
        "other_sites": [
            {"site": account.provider, "id_there": account.uid, "told_us": account.extra_data}
            for account in user.socialaccount_set.all()
        ],
    }


def _tasks(user: User) -> Iterator[dict[str, Any]]:
    rows = user.tasks.select_related("base_model").prefetch_related("examples")
    for task in rows.iterator(100):
        yield {
            "name": task.name,
            "description": task.description,
            "base_model": task.base_model.name,
            "template": task.template,
            "answer_options": task.answer_options,
            "created_at": task.created_at,
            "updated_at": task.updated_at,
            "shared_at": task.published_at,
            "hidden_because": task.hidden_reason,
            "examples": [
                {"split": each.split, "input": each.input, "target": each.target}
                for each in task.examples.all()
            ],
        }


def _searches(user: User) -> Iterator[dict[str, Any]]:
    from composer.models import Search

    rows = Search.objects.filter(job__user=user).select_related("job", "base_model", "recipe")
    for search in rows.newest_first().iterator(20):
        yield {
            "id": search.pk,
            "title": search.title,
            "state": search.job.state,
            "error": search.job.error_message,
            "created_at": search.job.created_at,
            "finished_at": search.job.finished_at,
            "base_model": search.base_model.name,
            "settings": search.spec,
            "examples": search.examples,
            "evidence": search.evidence,
            "recipe": search.recipe.document if search.recipe else None,
        }


def _trials(user: User) -> Iterator[dict[str, Any]]:
    fields = ("created_at", "state", "params", "result")
    yield from user.jobs.filter(kind="predict").order_by("created_at").values(*fields).iterator()


def _recipes(user: User, site: str) -> Iterator[dict[str, Any]]:
    for recipe in user.recipes.published().iterator(20):
        yield {
            "title": recipe.title,
            "description": recipe.description,
            "url": site + recipe.get_absolute_url(),
            "published_at": recipe.published_at,
            "shows_examples": recipe.shows_examples,
            "recipe": recipe.document,
        }


def _brought(user: User) -> Iterator[dict[str, Any]]:
    from composer.models import RecipeImport

    rows = RecipeImport.objects.filter(user=user).select_related("recipe").order_by("pk")
    for row in rows.iterator(20):
        yield {
            "title": row.title,
            "imported_at": row.created_at,
            "recipe": {**row.recipe.document, "evidence": row.evidence},
        }


def _verified(user: User) -> Iterable[dict[str, Any]]:
    from composer.models import Verification

    fields = ("recipe", "kind", "outcome", "differs", "unchecked", "created_at", "finished_at")
    return Verification.objects.filter(user=user).order_by("pk").values(*fields).iterator()


def _modules(user: User, site: str) -> Iterator[dict[str, Any]]:
    from modules.models import Repo
    from modules.storage import local

    repos = Repo.objects.filter(owner__user=user).select_related("owner", "lora_module")
    for repo in repos.order_by("pk").iterator(100):
        versions = []
        for commit in repo.commits.prefetch_related("files__blob"):
            commit.repo = repo
            files = []
            for file in commit.files.all():
                file.commit = commit
                blob = file.blob
                files.append(
                    {
                        "path": file.path,
                        "size": blob.size,
                        "sha256": blob.sha256,
                        "url": site + local.url(file),
                    }
                )
            versions.append(
                {
                    "revision": commit.sha,
                    "title": commit.title,
                    "message": commit.message,
                    "created_at": commit.created_at,
                    "files": files,
                }
            )
        module = getattr(repo, "lora_module", None)
        yield {
            "name": str(repo),
            "url": site + repo.get_absolute_url(),
            "visibility": repo.visibility,
            "gated": repo.gated,
            "hidden_because": repo.hidden_reason,
            "downloads": repo.downloads,
            "status": module.status if module else None,
            "created_at": repo.created_at,
            "versions": versions,
        }


def _imports(user: User) -> Iterable[dict[str, Any]]:
    fields = ("hub_id", "revision", "hub_sha", "state", "outcome", "reason", "created_at")
    return user.imports.order_by("pk").values(*fields)


def _collections(user: User, site: str) -> Iterator[dict[str, Any]]:
    from modules.community.collections import shown_items
    from modules.models import Collection

    for collection in Collection.objects.filter(owner__user=user).select_related("owner"):
        yield {
            "name": collection.name,
            "title": collection.title,
            "description": collection.description,
            "visibility": collection.visibility,
            "created_at": collection.created_at,
            "modules": [
                {
                    "name": str(item.lora_module.repo),
                    "url": site + item.lora_module.get_absolute_url(),
                    "note": item.note,
                }
                for item in shown_items(collection, user)
            ],
        }


def _likes(user: User, site: str) -> Iterator[dict[str, Any]]:
    from composer.models import Recipe
    from modules.models import LoraModule

    shown = LoraModule.objects.visible_to(user).values("pk")  # others' private names are theirs
    rows = user.likes.select_related("lora_module__repo__owner").order_by("created_at")
    rows = rows.filter(lora_module__in=shown)
    for like in rows.iterator():
        yield {
            "name": str(like.lora_module.repo),
            "url": site + like.lora_module.get_absolute_url(),
            "liked_at": like.created_at,
        }
    for recipe in Recipe.objects.published().filter(liked__user=user).iterator(20):
        yield {"name": recipe.title, "url": site + recipe.get_absolute_url()}


def _access(user: User) -> Iterator[dict[str, Any]]:
    from modules.models import Repo

    rows = user.access_requests.select_related("repo__owner").order_by("pk")
    shown = Repo.objects.visible_to(user).filter(pk__in=rows.values("repo"))
    shown = set(shown.values_list("pk", flat=True))  # others' private names are theirs
    for each in rows.iterator():
        yield {
            "name": str(each.repo) if each.repo_id in shown else None,
            "state": each.state,
            "message": each.message,
            "reason": each.reason,
            "asked_at": each.created_at,
            "decided_at": each.decided_at,
        }


def _reports(user: User) -> Iterable[dict[str, Any]]:
    from modules.models import Report

    fields = ("repo_name", "reason", "text", "created_at", "closed_at", "outcome")
    return Report.objects.filter(reporter=user).values(*fields)
