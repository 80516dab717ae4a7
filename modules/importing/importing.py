"""A repo of the Hub becomes a module here, or a newer version of one: look, fetch, publish.

What is published goes through `services.publish_module`, so the checks, limits and the reading of
the card are those of every upload.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from composer.engine.adapter_file import CONFIG_LIMIT, CONFIG_NAME, WEIGHTS_NAME, read_config
from composer.engine.errors import CommonsError
from hub_site.accounts.models import Namespace, User
from hub_site.may_idle import may_idle
from modules import services
from modules.importing import addresses, choosing, converting, fetching
from modules.importing.addresses import Address
from modules.importing.choosing import Chosen, NotImported
from modules.importing.converting import Conversion
from modules.importing.fetching import KeepOn, Say
from modules.locks import hold_repo
from modules.models import HubOrigin, Import, Repo
from modules.on_hub import keeping
from modules.services import NameTaken
from modules.storage.hub import Facts, File, Hub
from modules.upload import intake

COMMIT = re.compile("[0-9a-f]{40}")
COPYING = 1800  # seconds that a slow disk may take to copy the weights into the store
PAIR = {CONFIG_NAME, WEIGHTS_NAME}  # what belongs together stays together


class ImportedMeanwhile(CommonsError):
    code = "imported_meanwhile"
    status = 409


@dataclass(frozen=True)
class Plan:
    """What importing this repo would do, told from its list of files."""

    owner: Namespace
    author: User | None
    address: Address
    visibility: str
    facts: Facts
    chosen: Chosen
    name: str
    origin: HubOrigin | None
    changed: tuple[str, ...]  # paths whose bytes must be fetched

    @property
    def is_known(self) -> bool:
        """Imported before, at this very commit."""
        return self.origin is not None and self.origin.hub_sha == self.facts.sha

    @property
    def size(self) -> int:
        return sum(self.chosen.files[path].size for path in self.changed)

    @property
    def converts(self) -> bool:
        return self.chosen.pickle is not None and WEIGHTS_NAME in self.changed


@dataclass(frozen=True)
class Fetched:
    files: Mapping[str, BinaryIO]
    conversion: Conversion | None


@dataclass(frozen=True)
class Done:
    repo: Repo
    outcome: str
    kept: tuple[str, ...]  # changed there, but changed here too, and therefore left alone


# --- look --------------------------------------------------------------------------------------


def look(
    hub: Hub,
    address: Address,
    *,
    owner: Namespace,
    author: User | None,
    visibility: str = Repo.PUBLIC,
) -> Plan:
    """Ask the Hub what is there; whatever can be refused before a byte is fetched is refused."""
    facts = hub.facts(address.hub_id, address.revision or None)
    origin = _origin(owner, address, facts)
    name = origin.repo.name if origin else _free_name(owner, address, facts)
    _check_visibility(origin, facts)
    chosen = choosing.choose(facts)
    before = origin.files if origin else {}
    changed = tuple(
        path
        for path, file in chosen.files.items()
        if before.get(path, {}).get("hub") != _id_of(file)
    )
    sizes = [chosen.files[path].size for path in changed]
    if sizes:
        intake.check_announced(author, sizes)
    is_closed = facts.is_private or facts.is_gated
    return Plan(
        owner=owner,
        author=author,
        address=address,
        visibility=Repo.PRIVATE if is_closed else visibility,
        facts=facts,
        chosen=chosen,
        name=name,
        origin=origin,
        changed=changed,
    )


def _origin(owner: Namespace, address: Address, facts: Facts) -> HubOrigin | None:
    """An earlier import of this repo by this owner, whatever either is called by now."""
    if owner.pk is None:
        return None
    own = HubOrigin.objects.filter(repo__owner=owner).select_related("repo__owner")
    if address.name:
        own = own.filter(repo__name__iexact=address.name)
    for hub_id in dict.fromkeys((facts.repo_id, address.hub_id)):
        if found := own.of_hub(settings.HUB_ENDPOINT, hub_id).order_by("pk").first():
            return found
    return None


def _free_name(owner: Namespace, address: Address, facts: Facts) -> str:
    name = address.name or Address(facts.repo_id).own_name
    try:
        services.check_repo_name(name)
    except services.BadName as error:
        if address.name:
            raise
        other = f"{name.strip('._-')[:90]}-lora"
        raise services.BadName(
            f'{error.user_message} Import it as "{address} as {other}", say.'
        ) from error
    if Repo.objects.named(owner.name, name).exists():
        raise NameTaken(
            f"{owner.name}/{name} exists already, and it was not imported from {facts.repo_id}. "
            f'Import it under another name: "{address} as {name[:90]}-hub", say.'
        )
    return name


def _check_visibility(origin: HubOrigin | None, facts: Facts) -> None:
    """What its author closes there is not shown to everybody here."""
    if origin is None or origin.repo.is_private or not (facts.is_private or facts.is_gated):
        return
    how = "private" if facts.is_private else "gated"
    raise NotImported(
        f"{facts.repo_id} is {how} on {addresses.site_of_hub()} now, and {origin.repo} is not "
        "private here. Its newer versions are not imported; what was imported before stays."
    )


def _id_of(file: File) -> str:
    return file.sha256 or file.git_sha1


# --- fetch -------------------------------------------------------------------------------------


@contextmanager
def fetched(hub: Hub, plan: Plan, keep_on: KeepOn, say: Say) -> Iterator[Fetched]:
    """The changed files, safetensors for a pickle among them; they are gone afterwards."""
    files: dict[str, BinaryIO] = {}
    conversion = None
    with ExitStack() as stack:
        for path in sorted(plan.changed, key=lambda path: path == WEIGHTS_NAME):
            file = plan.chosen.files[path]
            stream = fetching.fetch(
                hub, plan.facts.repo_id, plan.facts.sha, file, stack, keep_on, say
            )
            if path == CONFIG_NAME:  # no weights need to come for a config that is refused
                read_config(stream.read(CONFIG_LIMIT + 1))
                stream.seek(0)
            elif path == WEIGHTS_NAME and plan.converts:
                say(f"converting {file.path} to safetensors")
                stream, conversion = converting.convert(file.path, stream, stack, keep_on)
            files[path] = stream
        yield Fetched(files, conversion)


# --- publish -----------------------------------------------------------------------------------


@transaction.atomic
def publish(plan: Plan, came: Fetched) -> Done:
    """All of it or nothing: the version, and the note of where it came from."""
    may_idle(COPYING)
    intake.hold_store()
    repo, before = _repo(plan)
    head = repo.head()
    now = dict(head.files.values_list("path", "blob_id")) if head else {}
    kept = _kept(now, before)
    additions = {path: stream for path, stream in came.files.items() if path not in kept}
    deletions = [p for p in before if p not in plan.chosen.files and p in now and p not in kept]
    if additions or deletions:
        left = tuple(sorted(kept & set(came.files)))
        module = services.publish_module(
            repo=repo,
            author=plan.author,
            title=f"{'Newer version' if before else 'Imported'} from {plan.facts.repo_id}",
            message=_message(plan, left),
            additions=additions,
            deletions=deletions,
            parent=head.sha if head else "",
        )
        if head is None:
            keeping.choose(repo, keeping.HERE)  # it is on the Hub already, under its author's name
        is_same = head is not None and module.commit.sha == head.sha
    else:
        left, is_same = tuple(sorted(kept & set(came.files))), True
    _remember(plan, came, repo, before, kept)
    outcome = Import.SAME if is_same else Import.VERSION if before else Import.NEW
    return Done(repo, outcome, left)


def note_same(plan: Plan) -> Done:
    """Nothing is new on the Hub, and that was seen now."""
    assert plan.origin is not None
    HubOrigin.objects.filter(pk=plan.origin.pk).update(
        checked_at=timezone.now(), trouble="", hub_id=plan.facts.repo_id
    )
    return Done(plan.origin.repo, Import.SAME, ())


def _repo(plan: Plan) -> tuple[Repo, dict[str, dict[str, str]]]:
    """The repo, held, and what was imported into it before."""
    if plan.origin is None:
        repo = services.create_repo(
            owner=plan.owner, name=plan.name, kind=Repo.LORA, visibility=plan.visibility
        )
        return repo, {}
    repo = hold_repo(plan.origin.repo)
    origin = HubOrigin.objects.filter(repo=repo, hub_sha=plan.origin.hub_sha).first()
    if origin is None:
        raise ImportedMeanwhile(f"Another import changed {repo} meanwhile. Look at it, then again.")
    return repo, origin.files


def _kept(now: Mapping[str, str], before: Mapping[str, Mapping[str, str]]) -> set[str]:
    """What was changed or added here since it was imported."""
    kept = {path for path, file in before.items() if now.get(path) != file["here"]}
    kept |= {path for path in now if path not in before}
    return kept | PAIR if kept & PAIR else kept


def _message(plan: Plan, left: tuple[str, ...]) -> str:
    text = f"{settings.HUB_ENDPOINT}/{plan.facts.repo_id} at commit {plan.facts.sha}"
    if left:
        text += f"\n\nChanged here, and therefore left as it is: {', '.join(left)}"
    return text


def _remember(
    plan: Plan,
    came: Fetched,
    repo: Repo,
    before: Mapping[str, Mapping[str, str]],
    kept: set[str],
) -> None:
    head = repo.head()
    assert head is not None
    now = dict(head.files.values_list("path", "blob_id"))
    files = {}
    for path, file in plan.chosen.files.items():
        is_ours = path in kept or path not in came.files
        here = before.get(path, {}).get("here", "") if is_ours else now[path]
        files[path] = {"hub": _id_of(file), "here": here}
    fields = {
        "endpoint": settings.HUB_ENDPOINT,
        "hub_id": plan.facts.repo_id,
        "revision": plan.address.revision,
        "hub_sha": plan.facts.sha,
        "files": files,
        "imported_at": timezone.now(),
        "checked_at": timezone.now(),
        "trouble": "",
    }
    if WEIGHTS_NAME in came.files and WEIGHTS_NAME not in kept:
        fields["converted"] = came.conversion.to_json() if came.conversion else {}
    # A commit stays what it is for ever: there is nothing to follow.
    follows = not COMMIT.fullmatch(plan.address.revision)
    HubOrigin.objects.update_or_create(
        repo=repo, defaults=fields, create_defaults=fields | {"follows": follows}
    )
