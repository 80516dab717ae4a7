"""How much one person, and all guests together, may ask for at once."""

from django.conf import settings

from composer.engine.errors import CommonsError
from hub_site.accounts.models import User
from hub_site.figures import duration
from hub_site.jobs import expect
from hub_site.jobs.models import Job


class OverLimit(CommonsError):
    """Somebody asked for more than the site allows them at once."""

    code = "over_limit"
    status = 429


def check_budget(user: User, budget: int) -> None:
    most = settings.GUEST_MAX_BUDGET if user.is_guest else settings.MAX_BUDGET
    if budget > most:
        more = " Sign up to use more." if user.is_guest else ""
        message = f"The budget is {budget} evaluations; you can use up to {most}.{more}"
        raise OverLimit(message, fields={"budget": [message]})


def check_queue(user: User) -> None:
    most = settings.GUEST_QUEUED_JOBS if user.is_guest else settings.USER_QUEUED_JOBS
    waiting = Job.objects.filter(user=user, state__in=["queued", "running"]).count()
    if waiting >= most:
        more = " Sign up for more." if user.is_guest else ""
        raise OverLimit(
            f"You have {waiting} jobs queued or running; {most} are allowed at once. "
            f"{_when_free(user)}{more}"
        )
    guests = Job.objects.filter(user__is_guest=True, state="queued")
    if user.is_guest and guests.count() >= settings.GUESTS_QUEUED_JOBS:
        raise OverLimit(
            "Many visitors try this at the moment, and the places for guests are taken. Come back "
            "in a few minutes, or sign up."
        )


def _when_free(user: User) -> str:
    seconds = expect.place_free(user)
    if seconds is None:
        return "Wait for one to end, or cancel one."
    return f"The next place is free in about {duration(seconds)}, or once you cancel one."
