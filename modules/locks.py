"""Rows held while they are changed. What somebody else deleted meanwhile is told as that.

A repo's row comes before its module's: who holds both takes them in this order.
"""

from __future__ import annotations

from collections.abc import Iterable

from django.db.models import QuerySet

from composer.engine.errors import CommonsError
from modules.models import LoraModule, Repo


class Gone(CommonsError):
    code = "gone"
    status = 404


def hold_repo(repo: Repo) -> Repo:
    """The repo as it is now, with its owner; nobody else changes it until the transaction ends."""
    rows = Repo.objects.select_for_update(of=("self",)).select_related("owner")
    found: Repo | None = rows.filter(pk=repo.pk).first()
    if found is None:
        raise Gone(f"{repo} was deleted meanwhile.")
    return found


def hold_module(module: LoraModule) -> None:
    """It stays as long as this transaction: for rows that point at it."""
    hold_modules([module])


def hold_modules(modules: Iterable[LoraModule]) -> None:
    wanted = {module.pk: module for module in modules}
    rows = LoraModule.objects.select_for_update(of=("self",), no_key=True)
    held = rows.filter(pk__in=wanted).order_by("pk").values_list("pk", flat=True)
    for pk in wanted.keys() - set(held):
        raise Gone(f"{wanted[pk]} was deleted meanwhile.")


def hold_repo_of(module_id: int) -> None:
    """For whoever writes a module's row twice: its repo is then locked too, when all is done."""
    rows = Repo.objects.select_for_update(of=("self",), no_key=True)
    list(rows.filter(lora_module=module_id).values_list("pk"))


def hold_to_delete(repos: QuerySet[Repo]) -> bool:
    """The repos and their modules, so that nothing new points at them while they go."""
    held = list(repos.select_for_update(of=("self",)).order_by("pk"))
    modules = LoraModule.objects.select_for_update(of=("self",)).filter(repo__in=held)
    list(modules.order_by("pk").values_list("pk"))
    return bool(held)
