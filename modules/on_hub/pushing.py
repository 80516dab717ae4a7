"""The worker's side of keeping things on the Hub: makes a repo there equal to what is here.

Every step can be done twice, so a job that dies is simply run again: the repo's name is written
down before it is made, and a commit of the same files changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from django.db.models import QuerySet
from django.utils import timezone

from hub_site.accounts.notices import notify
from hub_site.jobs import queue
from modules import cards, services
from modules.models import (
    Blob,
    BlobOnHub,
    Commit,
    HubHome,
    LoraModule,
    ModuleOnHub,
    Repo,
)
from modules.on_hub import accounts, keeping
from modules.on_hub.accounts import Account
from modules.storage import bytes_back, hub, local

if TYPE_CHECKING:
    from hub_site.accounts.models import User
    from hub_site.jobs.models import Job
    from hub_site.jobs.worker import Lease

Home = TypeVar("Home", bound=HubHome)
MOST_NAMES = 9
SAVED = ("hub_id", "is_made", "is_private", "sha")  # what `save` of a push keeps
CARD = services.CARD_NAME
THEIRS = ".gitattributes"  # the Hub's own, in every repo


class WrongOnHub(hub.HubFault):
    """The Hub does not hold what was sent."""

    code = "wrong_on_hub"
    helps = True


@dataclass(frozen=True)
class Content:
    """What a repo on the Hub should hold, and be called."""

    name: str
    files: dict[str, Path | bytes]
    kept: frozenset[str] = frozenset()  # paths that the Hub holds already, and we perhaps not
    # Asked anew before each step that shows something: who sees it may change meanwhile.
    is_open: Callable[[], bool] = lambda: False
    title: str = "Update"
    message: str = ""
    blobs: Mapping[str, Blob] = field(default_factory=dict)  # to compare with what arrived


def push(
    home: HubHome, account: Account, content: Content, save: Callable[[], None], step: Callable
) -> hub.Facts:
    """Make the Hub hold this content. `save` keeps what `home` says; `step` may end the work."""
    there = _open(home, account, content, save, step)
    if not there.is_private and not content.is_open():
        account.hub.set_private(home.hub_id, True)  # before anything new can be seen
    step()
    files = content.files | _gone_there(there, content)
    stale = {f.path for f in there.files} - {*files, *content.kept, THEIRS}
    sha = account.hub.commit(
        home.hub_id, files, sorted(stale), title=content.title, message=content.message
    )
    step()
    found = account.hub.facts(home.hub_id, sha)
    _compare(found, content)
    _show(home, account, found, content, save)
    return replace(found, is_private=home.is_private)


def _gone_there(there: hub.Facts, content: Content) -> dict[str, Path | bytes]:
    """What the Hub's newest version holds no more, though an older one of it may."""
    return {
        path: bytes_back.path_of(content.blobs[path].pk)
        for path in content.kept
        if (file := there.file(path)) is None or not hub.is_same(file, content.blobs[path])
    }


def _show(
    home: HubHome, account: Account, found: hub.Facts, content: Content, save: Callable[[], None]
) -> None:
    """To everybody, or to nobody. Written down so that dying in between leaves it to be closed."""
    is_private = not content.is_open()
    if is_private and not found.is_private:
        account.hub.set_private(home.hub_id, True)
    home.is_private = is_private
    save()
    if not is_private and found.is_private:
        account.hub.set_private(home.hub_id, False)


def _open(
    home: HubHome, account: Account, content: Content, save: Callable[[], None], step: Callable
) -> hub.Facts:
    """The repo as it is there, made if it never was."""
    try:
        found = _found(home, account, content, save, step)
    except hub.NotOnHub:
        if not keeping.may_be_made_anew(home):
            raise
        home.hub_id, home.is_made, home.sha = "", False, ""
        if isinstance(home, ModuleOnHub):
            home.blobs.all().delete()  # the next repo holds none of it yet
        found = _found(home, account, content, save, step)
    if found.repo_id != home.hub_id:  # renamed there
        home.hub_id = found.repo_id
        save()
    return found


def _found(
    home: HubHome, account: Account, content: Content, save: Callable[[], None], step: Callable
) -> hub.Facts:
    if not home.is_made:
        home.hub_id = _free_name(home, account, content.name)
        home.is_made = True
        home.is_private = not content.is_open()
        save()
        step()
    if not home.sha:
        account.hub.create(home.hub_id, is_private=home.is_private or not content.is_open())
    return account.hub.facts(home.hub_id)


def _free_name(home: HubHome, account: Account, name: str) -> str:
    """In the site's organisation the next free one; a user's own repo is never written over."""
    for number in range(1, MOST_NAMES + 1):
        wanted = f"{account.namespace}/{name}" + (f"-{number}" if number > 1 else "")
        ours = type(home).objects.filter(hub_id__iexact=wanted).exclude(pk=home.pk).exists()
        if not ours and not account.hub.exists(wanted):
            return wanted
        if home.place == HubHome.OWN:
            break
    raise hub.RefusedByHub(
        f"{account.namespace}/{name} is on the Hub already, and was not made by this site. Rename "
        "it there, or choose another name here, then try again."
    )


def _compare(found: hub.Facts, content: Content) -> None:
    for path, blob in content.blobs.items():
        there = found.file(path)
        if there is None or not hub.is_same(there, blob):
            raise WrongOnHub(f"{path} on the Hub is not the file that was sent. It is sent again.")


# --- a module ----------------------------------------------------------------------------------


def keep_module(job: Job, lease: Lease) -> None:
    home = begin(job, ModuleOnHub.objects.select_related("repo__owner__user"))
    if home is None:
        with queue.finish(job, {"outcome": "gone"}):
            return
    owner = home.repo.owner.user if home.repo else None
    try:
        with accounts.noting_broken(home.place, owner):
            write = _Keeping(home, job, lease, owner).run()
    except hub.HubFault as fault:
        with queue.finish(job, {"outcome": fault.code}):
            note_trouble(home, fault, owner)
        return
    with queue.finish(job, {"outcome": "done"}):
        write()


@dataclass
class _Keeping:
    home: ModuleOnHub
    job: Job
    lease: Lease
    owner: User | None

    def run(self) -> Callable[[], None]:
        """Do it, and return how to write it down."""
        repo = self.home.repo
        if repo is None or self.home.move_to:
            return self._leave(repo)
        self._close(repo)
        module = LoraModule.objects.select_related("commit").filter(repo=repo).first()
        if module is None or not module.is_ready:
            return self._rest  # asked for again when its checks are done
        files = {f.path: f.blob for f in module.commit.files.select_related("blob")}
        account = accounts.account_for(self.home.place, self.owner)
        content = self._content(repo, module, files)
        found = push(self.home, account, content, self._save, self.lease.check)
        return lambda: self._kept(module.commit, files, found)

    def _close(self, repo: Repo) -> None:
        """First of all, and also where nothing can be pushed now: what is not for everybody here is
        not shown there either."""
        if self.home.is_private or not self.home.is_made or is_open(repo):
            return
        account = accounts.account_for(self.home.place, self.owner)
        try:
            account.hub.set_private(self.home.hub_id, True)
        except hub.NotOnHub:
            return  # never made, or gone: the push says so
        self.home.is_private = True
        self._save()

    def _content(self, repo: Repo, module: LoraModule, files: Mapping[str, Blob]) -> Content:
        there = dict(self.home.blobs.values_list("blob_id", "path"))
        kept = {
            path
            for path, blob in files.items()
            if self.home.sha
            and there.get(blob.pk) == path
            and not local.local_path(blob.pk).exists()
        }
        sent: dict[str, Path | bytes] = {
            path: bytes_back.path_of(blob.pk)
            for path, blob in files.items()
            if path not in kept and path != CARD
        }
        sent[CARD] = card_for_hub(module, files.get(CARD)).encode()
        name = repo.name if self.home.place == HubHome.OWN else f"{repo.owner.name}-{repo.name}"
        return Content(
            name=hub_name(name),
            files=sent,
            kept=frozenset(kept),
            is_open=partial(is_open, repo),
            title=module.commit.title,
            message=module.commit.message,
            blobs={path: files[path] for path in (*sent, *kept) if path != CARD},
        )

    def _save(self) -> None:
        with queue.checkpoint(self.job):
            self.home.save(update_fields=SAVED)

    def _rest(self) -> None:
        if home := held(self.home):
            settle(home, HubHome.WAITING)

    def _kept(self, commit: Commit, files: Mapping[str, Blob], found: hub.Facts) -> None:
        home = held(self.home)
        if home is None:
            return
        home.sha, home.commit, home.is_private = found.sha, commit, found.is_private
        home.pushed_at = timezone.now()
        home.save(update_fields=["sha", "commit", "is_private", "pushed_at"])
        rows = {
            blob.pk: BlobOnHub(home=home, blob=blob, path=path, sha=found.sha)
            for path, blob in files.items()
            if path != CARD
        }
        BlobOnHub.objects.bulk_create(
            rows.values(),
            update_conflicts=True,
            unique_fields=["home", "blob"],
            update_fields=["path", "sha"],
        )
        settle(home, HubHome.KEPT)

    def _leave(self, repo: Repo | None) -> Callable[[], None]:
        """Have every byte here again, then let go of the repo there; a user's own stays theirs."""
        if self.home.place == HubHome.SITE and self.home.is_made:
            for row in self.home.needed_blobs().select_related("home"):
                self.lease.check()
                if not bytes_back.is_here(row.blob_id):
                    bytes_back.fetch(row)
            accounts.of_site().hub.delete(self.home.hub_id)
        return self._left

    def _left(self) -> None:
        home = held(self.home)
        if home is None:
            return
        repo, place = home.repo, home.move_to or home.place  # empty: it is to stay after all
        home.delete()
        if repo is not None and place != keeping.HERE:
            ModuleOnHub.objects.create(repo=repo, place=place)
            keeping.ask(repo)


def begin(job: Job, rows: QuerySet[Home]) -> Home | None:
    """The job's home, held for a moment to say that whatever changes from now on comes too late.

    What stands beside it is read once it is held: in the same query it would be as it was before
    the change that was waited for.
    """
    home: Home | None = None
    with queue.checkpoint(job):
        of_job = rows.filter(pk=job.params["home"])
        if of_job.select_related(None).select_for_update(of=("self",)).first() is not None:
            home = of_job.get()
            home.job, home.again = job, False
            home.save(update_fields=["job", "again"])
    return home


def held(home: Home) -> Home | None:
    """Its row as it is now, nobody else's to change until the transaction ends."""
    rows = type(home)._default_manager.select_for_update(of=("self",))
    found: Home | None = rows.filter(pk=home.pk).first()
    return found


def settle(home: HubHome, state: str) -> None:
    """The end of a job that went well; what changed meanwhile asks for another one."""
    home.state, home.code, home.reason, home.tries, home.retry_at = state, "", "", 0, None
    _rest_or_go_on(home)


def note_trouble(home: HubHome, fault: hub.HubFault, owner: User | None) -> None:
    """Say what is wrong and when it is tried again; what waiting does not mend, its owner hears."""
    now = held(home)
    if now is None:
        return
    is_new = now.state != HubHome.TROUBLE or now.code != fault.code
    wait = keeping.wait_after(now.tries, helps=fault.helps, asked=fault.wait)
    now.state, now.code, now.reason = HubHome.TROUBLE, fault.code, fault.user_message[:600]
    now.tries, now.retry_at = now.tries + 1, timezone.now() + wait
    _rest_or_go_on(now)
    if is_new and not fault.helps:
        text = f"{now.what} could not be kept on the Hub: {fault.user_message}"
        notify(owner, text, now.address)


def _rest_or_go_on(home: HubHome) -> None:
    again, home.again, home.job = home.again, False, None
    home.save()
    if again:
        keeping.ask_for(home)


def push_stopped(job: Job) -> None:
    """The job itself failed or was cancelled: the home says so, and is tried again later."""
    for home in ModuleOnHub.objects.filter(job=job):
        note_trouble(home, stopped(job), None)


def stopped(job: Job) -> hub.HubFault:
    return hub.HubDown(job.error_message or "The work was stopped before it came to its end.")


# --- what goes there ---------------------------------------------------------------------------


def is_open(repo: Repo) -> bool:
    """Whether everybody may have its bytes now; then they may stand in a public repo there, too."""
    now = Repo.objects.filter(pk=repo.pk).first()
    return now is not None and not (now.needs_token or now.is_hidden)


def hub_name(name: str) -> str:
    """A name by the Hub's rules: ours allow no less, but two joined by a dash may be too long."""
    return re.sub(r"[-.]{2,}", "-", name)[:90].strip("-.")


def card_for_hub(module: LoraModule, blob: Blob | None) -> str:
    """README.md with everything that the Hub's own pages read in its front matter."""
    text = bytes_back.path_of(blob.pk).read_bytes().decode("utf-8", "replace") if blob else ""
    try:
        said = cards.front_matter(cards.with_front_matter(text, {}))
        return cards.with_front_matter(text, _front(module, said))
    except cards.BadCard:
        _, body = cards.split(text)
        return cards.with_front_matter(body, _front(module, {}))


def _front(module: LoraModule, said: Mapping[str, object]) -> dict[str, object]:
    base = module.base_model_name
    tags = said.get("tags")
    found: dict[str, object] = {
        "library_name": "peft",
        "tags": _tags(tags if isinstance(tags, list) else [], base, module.tag_names),
    }
    if base and not said.get("base_model"):
        found["base_model"] = base
    if module.licence and not said.get("license"):
        found["license"] = module.licence
    return found


def _tags(said: Iterable[object], base: str, names: Iterable[str]) -> list[object]:
    wanted: list[object] = [*said, *names, "lora", "lora-commons"]
    wanted += [f"base_model:adapter:{base}"] * bool(base)
    return list(dict.fromkeys(wanted))
