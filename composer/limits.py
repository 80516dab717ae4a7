"""How much one person, and all guests together, may ask for at once."""

from django.conf import settings

from composer.engine.errors import CommonsError
from hub_site.accounts.models import User
from hub_site.figures import duration
from hub_site.jobs import expect
from hub_site.jobs.models import Job


class OverLimit(CommonsError):
    """Somebody asked for more than the site allows them at once. `wait`: seconds until they may
    ask again, where that is known."""

    code = "over_limit"
    status = 429
    wait: float | None = None


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
        wait = expect.place_free(user)
        error = OverLimit(
            f"You have {waiting} jobs queued or running; {most} are allowed at once. "
            f"{_when_free(wait)}{more}"
        )
        error.wait = wait
        raise error
    guests = Job.objects.filter(user__is_guest=True, state="queued")
    if user.is_guest and guests.count() >= settings.GUESTS_QUEUED_JOBS:
        raise OverLimit(
            "Many visitors try this at the moment, and the places for guests are taken. Come back "
            "in a few minutes, or sign up."
        )


def _when_free(wait: float | None) -> str:
    if wait is None:
        return "Wait for one to end, or cancel one."
    return f"The next place is free in about {duration(wait)}, or once you cancel one."
