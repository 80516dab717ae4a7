"""The worker's side of recipes on the Hub."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from django.conf import settings
from django.utils import timezone

from composer import artifacts, publishing, recipe_import
from composer.errors import NotAllowed
from composer.models import Recipe, RecipeOnHub
from hub_site.jobs import queue
from modules.on_hub import accounts, pushing
from modules.storage import bytes_back, hub

if TYPE_CHECKING:
    from hub_site.jobs.models import Job
    from hub_site.jobs.worker import Lease


class HeldBack(hub.HubFault):
    code = "held_back"


def push_recipe(job: Job, lease: Lease) -> None:
    """Make the recipe's repo equal to what is here. A second run does no harm."""
    home = pushing.begin(job, RecipeOnHub.objects.select_related("recipe", "user"))
    if home is None:
        with queue.finish(job, {"outcome": "gone"}):
            return

    def save() -> None:
        with queue.checkpoint(job):
            home.save(update_fields=pushing.SAVED)

    content = content_of(home.recipe, home)
    try:
        _refuse_closed(home)
        with accounts.noting_broken(home.place, home.user):
            account = accounts.account_for(home.place, home.user)
            found = pushing.push(home, account, content, save, lease.check)
    except hub.HubFault as fault:
        with queue.finish(job, {"outcome": fault.code}):
            pushing.note_trouble(home, fault, home.user)
        return
    with queue.finish(job, {"outcome": "done"}):
        now = pushing.held(home)
        if now is not None:
            now.sha, now.is_private, now.pushed_at = found.sha, found.is_private, timezone.now()
            pushing.settle(now, RecipeOnHub.KEPT)


def push_stopped(job: Job) -> None:
    for home in RecipeOnHub.objects.filter(job=job):
        pushing.note_trouble(home, pushing.stopped(job), home.user)


def retry_recipes(job: Job, lease: Lease) -> None:
    from composer import on_hub

    with queue.finish(job, {"asked": on_hub.retry_due()}):
        pass


def _refuse_closed(home: RecipeOnHub) -> None:
    """Since it was asked for, a module in it may have been closed to whoever asked."""
    try:
        publishing.refuse_closed(home.recipe, home.user)
    except NotAllowed as error:
        raise HeldBack(error.user_message) from error


def content_of(recipe: Recipe, home: RecipeOnHub) -> pushing.Content:
    """The folder that the site hands out as a zip, weights and all."""
    assert recipe.adapter is not None
    recipe_import.named_by(recipe, home.user)
    texts = artifacts.texts(recipe, site=settings.SITE_URL)
    return pushing.Content(
        name=pushing.hub_name(f"{recipe.title}-{recipe.digest[:8]}"),
        files={path: text.encode() for path, text in texts.items()}
        | {artifacts.WEIGHTS_NAME: bytes_back.path_of(recipe.adapter_id)},
        is_open=partial(is_open, recipe),
        title=f"Recipe {recipe.digest[:12]}",
        blobs={artifacts.WEIGHTS_NAME: recipe.adapter},
    )


def is_open(recipe: Recipe) -> bool:
    """As it stands now."""
    recipe = Recipe.objects.get(pk=recipe.pk)
    withdrawn = recipe.withdrawn and not recipe.adapter_allowed
    return recipe.published_at is not None and not withdrawn
