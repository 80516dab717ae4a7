"""A line for a user when something of theirs ends: on the site, and by e-mail if asked for."""

from datetime import timedelta

from allauth.account.models import EmailAddress
from django.conf import settings
from django.core.mail import send_mail
from django.db import transaction
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils.text import Truncator

from hub_site.accounts.models import Notice, User

SHOWN = 100
KEPT_AFTER_READING = timedelta(days=90)
MOST_COUNTED = 100  # the menu says "99+" beyond


def notify(user: User | None, text: str, address: str = "", *, once: bool = False) -> None:
    """Tell a user one thing. `address` is a path of this site where it can be looked at.

    Call it in the transaction of what is told; the e-mail goes out when that is sure. Nobody
    (an organisation's module, say) hears nothing. `once` is for what somebody else can bring
    about again and again: nothing is added while the same line is unread.
    """
    if user is None:
        return
    line = Truncator(" ".join(text.split())).chars(300)
    if once and unread(user).filter(text=line).exists():
        return
    Notice.objects.create(user=user, text=line, address=address[:300])
    if user.notify_by_email and not user.is_guest:
        transaction.on_commit(lambda: _send(user, line, address), robust=True)


def _send(user: User, text: str, address: str) -> None:
    """To the confirmed address only: nobody gets mail because somebody else typed their address."""
    to = confirmed_address(user)
    if not to:
        return
    context = {"user": user, "text": text, "address": address, "site": settings.SITE_URL}
    body = render_to_string("account/email/notice.txt", context)
    send_mail(f"LoRA Commons: {Truncator(text).chars(120)}", body, None, [to])


def confirmed_address(user: User) -> str:
    """Where this user's mail goes, or "" when no address of theirs is confirmed."""
    known = EmailAddress.objects.filter(user=user, verified=True).order_by("-primary", "pk")
    return known.values_list("email", flat=True).first() or ""


def unread(user: User) -> QuerySet[Notice]:
    return user.notices.filter(read_at=None)


def mark_read(notices: QuerySet[Notice]) -> None:
    notices.filter(read_at=None).update(read_at=Now())


def prune() -> int:
    """Forget what was read long ago; returns how many notices that were."""
    return Notice.objects.filter(read_at__lt=Now() - KEPT_AFTER_READING).delete()[0]


def in_every_page(request: HttpRequest) -> dict[str, object]:
    """A context processor. The count is asked for only where a template shows it: in the menu."""
    user = getattr(request, "user", None)
    return {
        "unread_notices": lambda: unread(user)[:MOST_COUNTED].count() if user else 0,
        "registration_open": settings.REGISTRATION_OPEN,
        "guests_may_try": settings.GUESTS,
    }
