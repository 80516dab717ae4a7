"""Many repos at once, for operators: in this process, a few side by side, until told to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

from django.db import connection

from composer.engine.errors import CommonsError
from hub_site.accounts import names
from hub_site.accounts.models import Namespace
from modules.bases import base_models
from modules.importing import importing, patience
from modules.importing.addresses import Address
from modules.importing.importing import Plan
from modules.services import BadName
from modules.storage.hub import BadHubToken, Hub, HubDown

NEW, VERSION, SAME = "new", "version", "same"
REFUSED, FAILED, STOPPED = "refused", "failed", "stopped"
LOOK = 0.2


@dataclass(frozen=True)
class Result:
    address: Address
    outcome: str
    reason: str = ""
    plan: Plan | None = None
    name: str = ""  # here


class Stopped(Exception):
    """Somebody asked to stop; what has not begun does not begin."""


class Importer:
    """Brings repos for their author's organisation here, or for one that is named."""

    def __init__(self, hub: Hub, *, owner: str = "", dry_run: bool = False) -> None:
        self.hub, self.owner, self.dry_run = hub, owner, dry_run
        self._why = ""  # plain: a signal handler that asks to stop must not wait for a lock
        self._making = threading.Lock()

    def bring_all(
        self, addresses: Iterable[Address], side_by_side: int
    ) -> Generator[Result, None, None]:
        """A result for every address, as they come. Closing the iterator stops what runs."""
        with ThreadPoolExecutor(side_by_side, thread_name_prefix="import") as pool:
            left: set[Future[Result]] = {pool.submit(self._one, each) for each in addresses}
            try:
                while left:
                    done, left = wait(left, return_when=FIRST_COMPLETED)
                    for each in done:
                        yield each.result()
            finally:
                self.stop()
                pool.shutdown(cancel_futures=True)

    def stop(self, why: str = "It was stopped before.") -> None:
        self._why = self._why or why

    def _one(self, address: Address) -> Result:
        try:
            return self._patiently(address)
        except Stopped:
            return Result(address, STOPPED, self._why)
        finally:
            connection.close()  # this thread's

    def _patiently(self, address: Address) -> Result:
        for tries in range(patience.MOST_TRIES):
            try:
                self._keep_on()
                return self._bring(address)
            except CommonsError as error:
                if isinstance(error, BadHubToken):
                    self.stop(error.user_message)
                if not patience.helps(error):
                    return Result(address, REFUSED, error.user_message)
                if tries + 1 == patience.MOST_TRIES:
                    if isinstance(error, HubDown):
                        self.stop("The Hub was down.")
                    return Result(address, FAILED, error.user_message)
                self._sleep(patience.pause(error, tries))
        raise AssertionError("the last try returns")

    def _bring(self, address: Address) -> Result:
        owner = self._owner(address)
        plan = importing.look(self.hub, address, owner=owner, author=None)
        if self.dry_run or plan.is_known:
            if plan.is_known:
                importing.note_same(plan)
            outcome = SAME if plan.is_known else VERSION if plan.origin else NEW
            return Result(address, outcome, plan=plan, name=f"{owner.name}/{plan.name}")
        with importing.fetched(self.hub, plan, self._keep_on, lambda what: None) as came:
            self._keep_on()
            done = importing.publish(replace(plan, owner=self._kept(owner)), came)
        kept = f"{', '.join(done.kept)} was changed here and stays." if done.kept else ""
        return Result(address, done.outcome, kept, plan, str(done.repo))

    def _owner(self, address: Address) -> Namespace:
        """Not written down yet: an organisation of whom nothing comes is not made."""
        name = self.owner or address.hub_id.partition("/")[0]
        found = Namespace.objects.filter(name__iexact=name).first()
        if found is not None and found.kind == Namespace.ORGANISATION:
            return found
        why = names.problem(name)
        if found is not None:
            why = f"The name {name!r} belongs to a user, so it cannot be an organisation."
        if why:
            raise BadName(f"{why} Say under which name it shall stand: --owner NAME.")
        return Namespace(name=name, kind=Namespace.ORGANISATION)

    def _kept(self, owner: Namespace) -> Namespace:
        with self._making:
            return owner if owner.pk else base_models.organisation(owner.name)

    def _keep_on(self) -> None:
        if self._why:
            raise Stopped

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._keep_on()
            time.sleep(min(LOOK, seconds))
