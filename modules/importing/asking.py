"""People ask for repos of the Hub, call that off, or ask once more. Each is a row and a job."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence

from django.conf import settings
from django.db import IntegrityError, transaction

from composer.engine.errors import CommonsError
from hub_site.accounts.models import Namespace, User
from hub_site.jobs import queue
from modules.importing.addresses import Address
from modules.models import HubOrigin, Import, Repo
from modules.upload import intake

IMPORT = "import_module"
MOST_AT_ONCE = 200
# The first few of a list go before the rest of anybody's; all of them behind searches and checks.
FEW = 5
FIRST, REST, FOLLOWING = -1, -2, -3


class TooManyImports(CommonsError):
    code = "too_many_imports"


class AlreadyComing(CommonsError):
    code = "already_coming"
    status = 409


def ask(
    *,
    user: User | None,
    owner: Namespace,
    addresses: Iterable[Address],
    visibility: str = Repo.PUBLIC,
    priority: int | None = None,
) -> uuid.UUID:
    """Have workers bring these into the owner's namespace; returns what names them together.

    What is on its way there already is not asked for twice.
    """
    wanted = list({address.hub_id.lower(): address for address in addresses}.values())
    if user is not None:
        intake.check(user)
        _check_count(user, len(wanted))
    batch = uuid.uuid4()
    with transaction.atomic():
        rows = [
            Import(
                batch=batch,
                user=user,
                namespace=owner,
                hub_id=address.hub_id,
                revision=address.revision,
                name=address.name,
                visibility=visibility,
            )
            for address in wanted
        ]
        new = [row for row in rows if _keep(row)]
        for place, row in enumerate(new):
            _submit(row, priority if priority is not None else FIRST if place < FEW else REST)
    if not new:
        raise AlreadyComing("All of these are being imported already.")
    return batch


def ask_for_newer(
    origin: HubOrigin, user: User | None, *, priority: int | None = None
) -> uuid.UUID:
    """The same repo once more, where it was taken from: a new version if its files changed."""
    address = Address(origin.hub_id, origin.revision, origin.repo.name)
    return ask(user=user, owner=origin.repo.owner, addresses=[address], priority=priority)


def again(rows: Sequence[Import]) -> int:
    """Those that did not come, once more; returns how many that were."""
    count = 0
    for row in rows:
        if row.state not in (Import.REFUSED, Import.FAILED, Import.CANCELLED):
            continue
        if row.user is not None:
            intake.check(row.user)
            _check_count(row.user, 1)
        row.state, row.reason, row.step, row.outcome = Import.WAITING, "", "", ""
        row.tries, row.next_try_at, row.finished_at = 0, None, None
        with transaction.atomic():
            if _keep(row):
                _submit(row, FIRST if count < FEW else REST)
                count += 1
    return count


def cancel(rows: Iterable[Import]) -> None:
    """Waiting ones end at once, a running one as soon as its worker looks."""
    for row in rows:
        if not row.is_over and row.job is not None:
            queue.request_cancel(row.job)


def _check_count(user: User, coming: int) -> None:
    if coming > MOST_AT_ONCE:
        raise TooManyImports(
            f"{coming} repos are more than {MOST_AT_ONCE}, the most at once. Leave some out."
        )
    most = settings.USER_QUEUED_IMPORTS
    waiting = Import.objects.filter(user=user).open().count()
    if waiting + coming > most:
        raise TooManyImports(
            f"{waiting} imports of yours are still on their way; with {coming} more it would be "
            f"more than {most}, the most for one person. Wait for some to end."
        )


def _keep(row: Import) -> bool:
    """False when the same is on its way already."""
    try:
        with transaction.atomic():
            row.save()
    except IntegrityError:
        return False
    return True


def _submit(row: Import, priority: int) -> None:
    row.job = queue.submit(IMPORT, user=row.user, params={"import": row.pk}, priority=priority)
    row.save(update_fields=["job"])
