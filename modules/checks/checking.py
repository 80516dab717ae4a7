"""Having a module's files checked in full, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.db.models import Case, Exists, OuterRef, Q, QuerySet, When

from composer.engine.adapter_file import CONFIG_NAME, WEIGHTS_NAME
from hub_site.accounts.models import User
from hub_site.jobs import queue
from modules.bases import matching
from modules.bases.shapes import BaseShapes
from modules.checks import quick
from modules.checks.quick import Found
from modules.finding import tags
from modules.models import BaseModel, LoraModule, Repo
from modules.on_hub import keeping
from modules.storage import bytes_back

if TYPE_CHECKING:
    from modules.querysets import Visitor

CHECK = "check_module"
MOST_TWINS = 3
# Somebody waits for a new module's check, which takes seconds; nobody for an old one's.
PRIORITY, RECHECK_PRIORITY = 5, -1
UNFINISHED = "unfinished"
DIED = Q(status=LoraModule.REJECTED, tensors_sha256="")  # before it could say anything

Checker = Callable[[Path, BaseShapes | None, str], Found]


def facts_of(reading: quick.Reading) -> dict[str, Any]:
    """The columns of a module that its config and header say."""
    return {
        "r": reading.facts.r,
        "lora_alpha": reading.facts.lora_alpha,
        "task_type": (reading.config.task_type or "")[:40],
        "use_rslora": reading.config.use_rslora,
        "target_modules": reading.target_modules,
        "parameters": reading.facts.parameters,
        "variant": reading.variant,
        "not_composable": reading.not_composable,
    }


def check_later(
    module: LoraModule, author: User | None = None, *, priority: int = PRIORITY
) -> None:
    """Have a worker read the files in full. Until then the module stays what it is."""
    module.check_job = queue.submit(
        CHECK,
        user=author,
        params={"lora_module": module.pk, "commit": module.commit.sha},
        priority=priority,
    )
    module.save(update_fields=["check_job"])


def check(module: LoraModule) -> None:
    """The full check in this very process, for operators' own files: ready, or rejected."""
    from modules.checks import full  # numpy: the web process has no need of it

    folder = bytes_back.materialise(module.commit)
    apply_checks(module, run_checks(module, full.check, folder), folder)


def check_again(repo: Repo, author: User | None) -> None:
    """The same files came once more: if their check died, that is what is asked for."""
    for module in LoraModule.objects.select_related("commit").filter(DIED, repo=repo):
        _start(module)
        check_later(module, author)


def recheck(module: LoraModule) -> None:
    """Check a module again, behind what people wait for: rules changed, or a base model came.

    One that was ready stays so meanwhile, unless it is only now matched to a base model.
    """
    if module.base_model is None:
        base_model = BaseModel.objects.find_by_name(module.base_model_name)
        if base_model is not None:
            module.base_model, module.base_model_name = base_model, base_model.name
            module.save(update_fields=["base_model", "base_model_name"])
            _start(module)
    check_later(module, priority=RECHECK_PRIORITY)


def _start(module: LoraModule) -> None:
    module.status, module.rejected_reason, module.checks = LoraModule.CHECKING, "", []
    module.save(update_fields=["status", "rejected_reason", "checks"])
    update_listed(module)


def run_checks(module: LoraModule, how: Checker, folder: Path) -> Found:
    """Read everything there is to read in the folder of its files; writes nothing."""
    base = BaseShapes.of(module.base_model) if module.base_model else None
    return how(folder, base, module.base_model_name)


def apply_checks(module: LoraModule, found: Found, folder: Path) -> None:
    """Write down what was found, and what config and header say by today's rules."""
    facts: dict[str, Any] = {"tensors_sha256": found.tensors_sha256}
    lines = [check.to_json() for check in found.checks]
    failed = [check.detail for check in found.checks if check.state == quick.FAILED]
    if not failed:
        reading = quick.read(folder / CONFIG_NAME, folder / WEIGHTS_NAME)
        facts |= facts_of(reading)
        if module.base_model is None:
            hint = matching.suggestion(reading.facts.layers)
            for line in lines:
                line["detail"] += hint if line["name"] == "base_model" else ""
    for name, value in facts.items():
        setattr(module, name, value)
    module.save(update_fields=list(facts))
    if failed:
        module.reject(failed[0], lines)
    else:
        module.accept(lines)
    update_listed(module)


def note_unfinished(module: LoraModule, why: str) -> None:
    """A check of what was checked before died: that stays true, and the page says so."""
    detail = f"It did not come to an end{f': {why}' if why else '.'}"
    line = quick.Check(
        UNFINISHED,
        "The last check",
        quick.WARNING,
        f"{detail} The rest was found by an earlier one.",
    )
    earlier = [each for each in module.checks if each["name"] != UNFINISHED]
    module.checks = [*earlier, line.to_json()]
    module.save(update_fields=["checks"])


def unfinished() -> QuerySet[LoraModule]:
    """Whose last check died, whatever an earlier one found."""
    noted = Q(checks__contains=[{"name": UNFINISHED}])
    return LoraModule.objects.filter(noted | DIED)


def twins(module: LoraModule, user: Visitor) -> QuerySet[LoraModule]:
    """Earlier modules of the very same tensors, as far as this user may see them."""
    if not module.tensors_sha256:
        return LoraModule.objects.none()
    return (
        LoraModule.objects.visible_to(user)
        .filter(tensors_sha256=module.tensors_sha256, published_at__lt=module.published_at)
        .exclude(pk=module.pk)
        .exclude(status=LoraModule.REJECTED)
        .select_related("repo__owner")
        .order_by("published_at")
    )


def checks_shown(module: LoraModule, user: Visitor) -> list[dict[str, Any]]:
    """The lines of the check, and whom the module repeats: that depends on who asks, because a
    private module's name is not for strangers. What a rejected module failed is its owner's."""
    if module.status == LoraModule.REJECTED and not sees_reasons(module, user):
        return []
    same = list(twins(module, user)[:MOST_TWINS])
    if not same:
        return list(module.checks)
    names = ", ".join(str(twin) for twin in same)
    line = quick.Check(
        "twin", "Copies", quick.WARNING, f"It holds the same tensors as {names}.", "same tensors"
    )
    links = [{"name": str(twin), "url": twin.get_absolute_url()} for twin in same]
    return [*module.checks, {**line.to_json(), "links": links}]


def sees_reasons(module: LoraModule, user: Visitor) -> bool:
    """Why a module was rejected is for its owner, and for moderators, to read."""
    if not user.is_authenticated:
        return False
    return user.is_staff or module.repo.owner.user_id == user.pk


def update_listed(module: LoraModule) -> None:
    """Call it after every change of a module's status, or of its repo's visibility or hiding: lists
    and the Hub, where it is kept there, show another thing then."""
    public = Repo.objects.filter(pk=OuterRef("repo_id"), visibility=Repo.PUBLIC, hidden_at=None)
    shown = When(~Q(status=LoraModule.REJECTED) & Exists(public), then=True)
    LoraModule.objects.filter(pk=module.pk).update(is_listed=Case(shown, default=False))
    module.refresh_from_db(fields=["is_listed"])
    tags.recount(module.tags.all())
    if module.is_ready:
        keeping.ask(module.repo)
    elif not module.is_listed:
        keeping.ask_to_close(module.repo)
