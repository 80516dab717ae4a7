"""Guests: people who try the site before they sign up.

A guest is a row like any user's, without a password, a namespace or a way back in after the
session is gone. Signing up turns the row into an account; signing in moves its work to one.
"""

import logging
import secrets
from datetime import timedelta

from django.conf import settings
from django.contrib.auth import login
from django.db import IntegrityError, models, transaction
from django.db.models import Exists, OuterRef
from django.http import HttpRequest
from django.utils import timezone

from composer.engine.errors import CommonsError
from hub_site import throttles
from hub_site.accounts.models import User
from hub_site.accounts.names import GUEST_PREFIX

logger = logging.getLogger(__name__)


class SignInFirst(CommonsError):
    """A page leads to signing in and back; see CommonsErrorMiddleware."""

    code = "sign_in_first"
    status = 403


def admit(request: HttpRequest) -> None:
    """Refuse a visitor who would have to be a guest where there are none."""
    if not (settings.GUESTS or request.user.is_authenticated):
        raise SignInFirst("Composing needs an account on this site. Sign in, and go on from here.")


def start_guest(request: HttpRequest) -> User:
    """Sign a visitor in as a new guest; whoever is signed in already stays who they are."""
    if request.user.is_authenticated:
        return request.user
    admit(request)
    throttles.count(request, "guest")
    guest = User(username=GUEST_PREFIX + secrets.token_hex(6), is_guest=True)
    guest.set_unusable_password()
    guest.save()
    login(request, guest, backend="django.contrib.auth.backends.ModelBackend")
    return guest


@transaction.atomic
def hand_over(guest: User, user: User) -> None:
    """Give everything the guest owns to the user, whatever it is, and forget the guest."""
    from hub_site.jobs import queue

    queue.line_up_behind(user, guest)
    for field in _references():
        rows = field.model._base_manager.filter(**{field.name: guest})
        for pk in list(rows.values_list("pk", flat=True)):
            _give(field, pk, user)
    forget(guest)


@transaction.atomic
def forget(guest: User) -> None:
    """Delete a guest with everything of theirs. A worker that writes for them is waited for: held
    rows let it add nothing behind our back, and afterwards it finds its lease gone."""
    from composer.services import forget_searches
    from modules.community.likes import of_modules

    list(guest.jobs.order_by("pk").select_for_update())
    of_modules.take_back_all(guest)
    forget_searches(guest)
    guest.delete()


def _references() -> list["models.ForeignKey[models.Model, models.Model]"]:
    """Every foreign key to a user, those without a name for the way back included."""
    relations = User._meta.get_fields(include_hidden=True)
    return [
        relation.field
        for relation in relations
        if isinstance(relation, models.ManyToOneRel)
        and relation.field.model is not User
        and not relation.field.model._meta.auto_created
    ]


def _give(field: "models.ForeignKey[models.Model, models.Model]", pk: object, user: User) -> None:
    row = field.model._base_manager.filter(pk=pk)
    try:
        with transaction.atomic():
            row.update(**{field.name: user})
    except IntegrityError:
        # The user has the same already (a like, for example); the guest's goes with the guest.
        logger.info("%s %s stays with the guest", field.model.__name__, pk)


def prune() -> int:
    """Delete guests who have made nothing for GUEST_DAYS, with what they own."""
    from composer.models import FewShotTask
    from hub_site.jobs.models import Job

    before = timezone.now() - timedelta(days=settings.GUEST_DAYS)
    old = User.objects.filter(is_guest=True, last_login__lt=before).exclude(
        Exists(FewShotTask.objects.filter(owner=OuterRef("pk"), updated_at__gte=before))
        | Exists(Job.objects.filter(user=OuterRef("pk"), created_at__gte=before))
    )
    count = 0
    for guest in old.iterator():
        forget(guest)
        count += 1
    return count
