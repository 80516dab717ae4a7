"""What an owner does with a module besides uploading: edit its card, show, rename, delete it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from django.db import IntegrityError, transaction

from hub_site.accounts.models import User
from modules import cards, services
from modules.checks import checking
from modules.finding import tags
from modules.locks import Gone, hold_repo, hold_to_delete
from modules.models import Commit, LoraModule, OldAddress, Repo
from modules.storage import local


def card_text(commit: Commit | None) -> str:
    """README.md of a version as it is, or nothing. May raise BadCard."""
    sha256 = commit.sha256_of(services.CARD_NAME) if commit else None
    return cards.decode(local.local_path(sha256).read_bytes()) if sha256 else ""


def edit_card(
    *, user: User, repo: Repo, changes: Mapping[str, Any], body: str | None, parent: str | None
) -> bool:
    """Write the change into README.md as a new version; False when nothing changed."""
    head = repo.head()
    before = card_text(head)
    text = cards.with_changes(before, changes, body)
    if text == before:
        return False
    cards.check(text.encode())
    services.commit(
        repo=repo,
        author=user,
        title="Card edited",
        additions={services.CARD_NAME: io.BytesIO(text.encode())},
        parent=parent,
    )
    return True


@transaction.atomic
def set_visibility(repo: Repo, visibility: str) -> None:
    hold_repo(repo)
    repo.visibility = visibility
    repo.save(update_fields=["visibility", "updated_at"])
    if module := _module(repo):
        checking.update_listed(module)


def rename(repo: Repo, name: str) -> Repo:
    """Another name for the same repo. The old one leads here until a new repo takes it."""
    services.check_repo_name(name)
    try:
        with transaction.atomic():
            repo = hold_repo(repo)
            old, repo.name = repo.name, name
            OldAddress.objects.filter(owner=repo.owner, name__iexact=name).delete()
            repo.save(update_fields=["name", "updated_at"])
            if old.lower() != name.lower():
                OldAddress.objects.create(owner=repo.owner, name=old, repo=repo)
            if module := _module(repo):
                services.index(module)
    except IntegrityError as error:
        raise services.NameTaken(
            f"{repo.owner.name}/{name} exists already. Choose another name."
        ) from error
    return repo


def delete(repo: Repo) -> None:
    """The repo with all its versions. Recipes keep names and hashes; the store keeps the bytes
    until they are pruned."""
    with transaction.atomic():
        if not hold_to_delete(Repo.objects.filter(pk=repo.pk)):
            raise Gone(f"{repo} is deleted already.")
        module = _module(repo)
        carried = list(module.tags.all()) if module else []
        repo.delete()
        tags.recount(carried)


def _module(repo: Repo) -> LoraModule | None:
    return LoraModule.objects.select_related("repo__owner", "commit").filter(repo=repo).first()
