"""Deleting an account: what goes with it, and what stays without it."""

from dataclasses import dataclass

from django.db import transaction
from django.db.models import QuerySet

from composer.engine.errors import CommonsError
from hub_site.accounts.models import Namespace, User


class LastAdministrator(CommonsError):
    code = "last_administrator"
    status = 409


@dataclass(frozen=True)
class Belongings:
    """How much there is of everything, for the page that says what will happen to it."""

    tasks: int
    shared_tasks: int
    searches: int
    recipes: int
    public_modules: int
    gated_modules: int
    other_modules: int
    collections: int
    tokens: int


def belongings(user: User) -> Belongings:
    repos = _repos(user).filter(kind="lora")
    public, gated = _for_the_community(user).count(), _by_their_word(user).count()
    space = Namespace.objects.filter(user=user).first()
    return Belongings(
        tasks=user.tasks.count(),
        shared_tasks=user.tasks.shared().count(),
        searches=user.jobs.filter(kind="compose").count(),
        recipes=user.recipes.filter(published_at__isnull=False).count(),
        public_modules=public,
        gated_modules=gated,
        other_modules=repos.count() - public - gated,
        collections=space.collections.count() if space else 0,
        tokens=user.tokens.filter(revoked_at=None).count(),
    )


@transaction.atomic
def delete_account(user: User, *, keep_public: bool) -> None:
    """The user and everything private goes. Published recipes stay, without a name.

    Public modules stay under the old name where their owner leaves them to the community. The name
    is never free again for whoever shared anything: nobody else may stand at those addresses.
    """
    from composer.liking import of_recipes
    from composer.services import forget_searches
    from composer.task_writing import delete_tasks
    from modules.community.likes import of_modules

    others = User.objects.filter(is_superuser=True, is_active=True).exclude(pk=user.pk)
    if user.is_superuser and not others.exists():
        raise LastAdministrator(
            "You are the only administrator of this site. Make somebody else one first: "
            "manage.py createsuperuser."
        )
    list(user.jobs.order_by("pk").select_for_update())  # a worker finds its lease gone
    of_modules.take_back_all(user)
    of_recipes.take_back_all(user)
    _leave_modules(user, keep_public)
    forget_searches(user)
    delete_tasks(user)
    user.delete()


def _leave_modules(user: User, keep_public: bool) -> None:
    from modules.locks import hold_to_delete

    space = Namespace.objects.filter(user=user).first()
    if space is None:
        return
    shared = _has_shared(user, space)
    kept = _for_the_community(user) if keep_public else _repos(user).none()
    # A check that is on its way goes on without an owner.
    user.jobs.filter(pk__in=kept.values("lora_module__check_job")).update(
        user=None, idempotency_key=None
    )
    # Base models are the operator's, whoever's name they stand under.
    going = (
        _repos(user).exclude(kind="base").exclude(pk__in=list(kept.values_list("pk", flat=True)))
    )
    hold_to_delete(going)
    going.delete()
    space.collections.all().delete()
    if shared:
        Namespace.objects.filter(pk=space.pk).update(kind=Namespace.FORMER, user=None)


def _has_shared(user: User, space: Namespace) -> bool:
    """Whether links or recipes may lead to something of theirs, deleted modules included."""
    from composer.models import Ingredient

    return (
        _repos(user).exists()
        or space.collections.filter(visibility="public").exists()
        or Ingredient.objects.filter(
            lora_module=None, name__istartswith=f"{space.name}/", recipe__published_at__isnull=False
        ).exists()
    )


def _repos(user: User) -> QuerySet:
    from modules.models import Repo

    return Repo.objects.filter(owner__user=user)


def _for_the_community(user: User) -> QuerySet:
    """What everybody sees in lists: public, not hidden by a moderator, not refused by checks."""
    return _repos(user).filter(kind="lora", lora_module__is_listed=True).exclude(gated="manual")


def _by_their_word(user: User) -> QuerySet:
    """Gated modules whose owner answers every request: without them, nobody could any more."""
    return _repos(user).filter(kind="lora", lora_module__is_listed=True, gated="manual")
