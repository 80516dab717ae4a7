"""Recipes run again: asked for by anybody who sees them, done by a worker (verifying.py), stamped
for everybody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.db import transaction
from django.db.models import Q, QuerySet

from composer import limits, needs, pinned, proof, stated
from composer.engine import recipe as engine_recipe
from composer.engine.adapter_file import WEIGHTS_NAME
from composer.engine.recipe import examples_hash
from composer.errors import NotAllowed, NotReady
from composer.limits import OverLimit
from composer.models import Example, FewShotTask, Recipe, RecipeImport, Search, Verification
from composer.module_choice import MOST_MODULES
from composer.proof import BASE_REVISION, FILE, REVISION, Difference
from composer.task_checks import wrong_options
from hub_site.accounts.models import User
from hub_site.accounts.notices import notify
from hub_site.jobs import queue
from hub_site.jobs.models import Job
from modules.models import BaseModel, Commit, CommitFile, Repo

if TYPE_CHECKING:
    from composer.querysets import Visitor

VERIFY = "verify"
# The modules are the recipe's: nothing is ranked, see `module_choice.ranked_to`.
CHOSEN = {"preset": "recommended", "modules": {"how": "hand"}}


@transaction.atomic
def submit_verification(
    *, recipe: Recipe, user: User, kind: str, idempotency_key: str | None = None
) -> Verification:
    """Queue a run of the recipe: its evaluation, or its whole search.

    One at a time: who asks again for what is on its way, or with the same key, gets that.
    """
    User.objects.select_for_update().get(pk=user.pk)
    if known := _on_its_way(recipe, user, kind, idempotency_key):
        return known
    search, imported = source_of(recipe, user)
    statement = Statement.of(recipe, search, imported)
    limits.check_queue(user)
    if kind == Verification.SEARCH:
        limits.check_budget(user, engine_recipe.config_of(statement.spec).budget)
        if statement.examples is None:
            raise NotReady(
                "The search cannot be run again: its examples are not here. The evaluation checks "
                "what can be checked without them."
            )
    if not BaseModel.objects.usable().filter(pk=recipe.base_model_id).exists():
        raise NotReady(
            f"It cannot be verified here: the base model {recipe.base_name} is not on this site."
        )
    if imported is not None:
        _refuse_unreadable(recipe, user)
        _refuse_larger_than_any(recipe)
    params = {"recipe": recipe.pk, "kind": kind, **CHOSEN}
    shadow = statement.as_search(recipe, None)
    job = queue.submit(
        VERIFY,
        user=user,
        params=params,
        idempotency_key=idempotency_key,
        needs=needs.of_search(shadow, params),
        queue=needs.queue_of(recipe.base_model),
    )
    return Verification.objects.create(
        recipe=recipe, job=job, user=user, search=search, imported=imported, kind=kind
    )


def _on_its_way(recipe: Recipe, user: User, kind: str, key: str | None) -> Verification | None:
    rows = Verification.objects.filter(recipe=recipe, user=user, kind=kind)
    same = Q(job__state__in=["queued", "running"])
    if key is not None:
        same |= Q(job__idempotency_key=key)
    return rows.filter(same).first()


def cancel(recipe: Recipe, user: Visitor) -> None:
    """Those of this user that are on their way; a running one ends as soon as its worker looks."""
    if user.is_authenticated:
        for row in _unfinished(recipe.verifications.filter(user=user)):
            queue.request_cancel(row.job)


def _unfinished(rows: QuerySet[Verification]) -> QuerySet[Verification]:
    return rows.filter(job__state__in=["queued", "running"]).select_related("job")


def _refuse_unreadable(recipe: Recipe, user: User) -> None:
    """A file may name modules that are closed to whoever brought it: it opens nothing."""
    spec = recipe.document["spec"]
    found = pins(spec, user, is_imported=True)
    names = [
        each["repo"]
        for each, commit in zip(spec["ingredients"], found.commits, strict=True)
        if commit is None
    ]
    if names:
        raise NotAllowed(
            f"It can be verified once everything is here. {', '.join(names)}: not on this site, or "
            "closed to you."
        )


def _refuse_larger_than_any(recipe: Recipe) -> None:
    """A file may ask for more than any search here may."""
    spec = recipe.document["spec"]
    modules, options = len(spec["ingredients"]), spec.get("answer_options", [])
    if modules > MOST_MODULES:
        raise OverLimit(
            f"It mixes {modules} modules; a recipe of up to {MOST_MODULES} can be verified here."
        )
    if message := wrong_options(options):
        raise NotReady(f"It cannot be verified. {message}")


@transaction.atomic
def forget_those_of(imported: RecipeImport) -> None:
    """Before a file goes, or is brought again with other claims: stamps of it say nothing any more,
    and nobody waits for those on their way."""
    for row in _unfinished(imported.verifications.all()):
        queue.request_cancel(row.job)
    imported.verifications.all().delete()


def tell_owner(job: Job, state: str) -> None:
    """A notice of what came of it; whoever cancelled it knows."""
    if state == "cancelled":
        return
    for row in Verification.objects.filter(job=job).select_related("user", "recipe", "imported"):
        said = f"failed: {job.error_message}" if state == "failed" else f"{in_words(row)}."
        title = (row.imported or row.recipe).title
        notify(row.user, f"Verifying “{title}” {said}", row.recipe.get_absolute_url())


def in_words(row: Verification) -> str:
    """The outcome as the badge and the history say it."""
    if row.outcome == Verification.DIFFERS:
        parts = list(dict.fromkeys(each["what"] for each in row.differs))
        return f"not matched: {', '.join(parts)}"
    if row.outcome == Verification.WITHIN:
        found = "matched within tolerance"
    elif row.outcome == Verification.MATCHED:
        found = "matched"
    else:
        return "not done"
    return f"{found}, in the parts that could be checked" if row.unchecked else found


def place_in_words(environment: Mapping[str, Any]) -> str:
    """On what it ran, short."""
    if not environment:
        return ""
    device = environment.get("device", "cpu")
    machine = environment.get("machine", "")
    return f"{device} ({machine}), torch {environment.get('torch', '?')}"


def public_rows(recipe: Recipe) -> list[dict[str, Any]]:
    """The stamps of a published recipe, as its JSON carries them."""
    rows = recipe.verifications.filter(imported=None).over().select_related("user")
    return [
        {
            "kind": row.kind,
            "outcome": row.outcome,
            "by": row.user.username if row.user and not row.user.is_guest else None,
            "at": row.finished_at.isoformat() if row.finished_at else None,
            "environment": row.environment,
            "checked": row.checked,
            "differs": row.differs,
            "unchecked": row.unchecked,
        }
        for row in rows
    ]


# --- whose evidence is compared ------------------------------------------------------------------


def source_of(recipe: Recipe, user: Visitor) -> tuple[Search | None, RecipeImport | None]:
    """The search that stands behind the recipe for this user, or the file that they brought."""
    if recipe.published_search_id is not None and recipe.published_at is not None:
        return recipe.published_search, None
    if not user.is_authenticated:
        return None, None
    own = recipe.searches.filter(job__user=user).order_by("job__created_at").first()
    if own is not None:
        return own, None
    return None, recipe.imports.filter(user=user).first()


@dataclass(frozen=True)
class Statement:
    """What a recipe says, and what is at hand to check it with. `examples` is None where they are
    not here, `salt` where their hash cannot be made again."""

    spec: Mapping[str, Any]
    weights: Sequence[float]
    evidence: Mapping[str, Any]
    examples: Mapping[str, Any] | None
    salt: str | None
    search: Search | None = None
    imported: RecipeImport | None = None

    @classmethod
    def of(cls, recipe: Recipe, search: Search | None, imported: RecipeImport | None) -> Statement:
        spec, weights = recipe.document["spec"], recipe.document["weights"]
        if search is not None:
            examples = search.examples if search.examples.get("shots") else None
            salt = salt_of(search)
            evidence = dict(search.evidence)
            if "proof" not in evidence:
                evidence["proof"] = proof.of_search(search, weights, salt)
            return cls(spec, weights, evidence, examples, salt, search)
        given = imported.evidence if imported is not None else {}
        evidence = stated.evidence(given)
        examples = stated.examples(given.get("examples")) or (
            _own_examples(imported, spec) if imported else {}
        )
        salt = "" if examples and _hash_fits(examples, "", spec["examples_hash"]) else None
        return cls(spec, weights, evidence, examples or None, salt, None, imported)

    def as_search(
        self, recipe: Recipe, job: Job | None, spec: Mapping[str, Any] | None = None
    ) -> Search:
        """For what loads base models and modules of a search; never saved."""
        nothing: dict[str, Any] = {"shots": [["", ""]], "held_out": []}
        return Search(
            job=job,
            spec=dict(spec or self.spec),
            base_model=recipe.base_model,
            recipe=recipe,
            examples=dict(self.examples or nothing),
            title=recipe.title,
        )


def salt_of(search: Search) -> str | None:
    """The salt in the search's hash of its examples, "" where there is none; None where it went
    with its task, or where the examples are others."""
    kept = search.examples.get("salt")
    if kept is not None:
        return str(kept)
    task = FewShotTask.objects.filter(pk=search.task_id).first()
    for salt in ("", task.salt if task else ""):
        if _hash_fits(search.examples, salt, search.spec["examples_hash"]):
            return salt
    return None


def _hash_fits(examples: Mapping[str, Any], salt: str, wanted: str) -> bool:
    return proof.hash_of(examples["shots"], salt) == wanted


def _own_examples(imported: RecipeImport, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a task of the importer's that the recipe's hash names."""
    tasks = FewShotTask.objects.visible_to(imported.user).filter(template=spec["template"])
    for task in tasks.order_by("-created_at")[:50]:
        shots = task.pairs(Example.SHOT)
        if examples_hash(shots) == spec["examples_hash"]:
            held_out = task.pairs(Example.HELD_OUT)
            return {
                "shots": [[e.input, e.target] for e in shots],
                "held_out": [[e.input, e.target] for e in held_out],
                "answer_options": task.answer_options,
            }
    return {}


# --- what the recipe pins, and what is here of it ------------------------------------------------


@dataclass
class Pins:
    """The commits that hold the recipe's modules, in its order; None where one is not here."""

    commits: list[Commit | None]
    differs: list[Difference] = field(default_factory=list)
    unchecked: list[dict[str, str]] = field(default_factory=list)

    @property
    def all_here(self) -> bool:
        return None not in self.commits

    def local(self, spec: Mapping[str, Any], base_model: BaseModel) -> dict[str, Any]:
        """The spec by the names and revisions that its modules have here."""
        ingredients = [
            {"repo": str(commit.repo), "revision": commit.sha, "sha256": commit.sha256}
            for commit in self.commits
            if commit is not None
        ]
        base = {"repo": base_model.name, "revision": base_model.revision}
        return {**spec, "base_model": base, "ingredients": ingredients}


def pins(spec: Mapping[str, Any], user: Visitor, *, is_imported: bool) -> Pins:
    """Modules by hash first, then by name and revision; another site's revisions go by its own
    ids, so of an imported recipe they are not held against it."""
    found = Pins([])
    for pinned_to in spec["ingredients"]:
        found.commits.append(_commit_of(pinned_to, found, user, is_imported))
    return found


def _commit_of(
    wanted: Mapping[str, str], found: Pins, user: Visitor, is_imported: bool
) -> Commit | None:
    name, revision, sha256 = wanted["repo"], wanted["revision"], wanted["sha256"]
    repo = _repo_named(name)
    if repo is not None and is_imported and not _may_read(repo, user):
        repo = None
    named = repo.commits.filter(sha=revision).first() if repo else None
    if named is not None and named.sha256_of(WEIGHTS_NAME) == sha256:
        return _with_hash(named)
    same = _holding(sha256, user, repo) if repo else None
    if same is not None:
        said = f"{name}: {revision[:12]}"
        what = "no such revision is here" if named is None else "that revision holds another file"
        why = f"{what}; the file is in revision {same.sha[:12]}"
        if is_imported:
            found.unchecked.append({"what": REVISION, "why": f"{said}: {why}"})
        else:
            found.differs.append(Difference(REVISION, said, why))
        return _with_hash(same)
    if named is not None:
        held = named.sha256_of(WEIGHTS_NAME) or "none"
        found.differs.append(
            Difference(
                FILE, f"{name}: {sha256[:12]}", f"revision {revision[:12]} holds {held[:12]}"
            )
        )
        return _with_hash(named)
    elsewhere = _holding(sha256, user, None)
    if elsewhere is not None:
        return _with_hash(elsewhere)
    if repo is not None and not is_imported:
        found.differs.append(
            Difference(REVISION, f"{name}: {revision[:12]}", "there is no such revision")
        )
    else:
        found.unchecked.append({"what": FILE, "why": f"{name} is not here any more."})
    return None


def _repo_named(name: str) -> Repo | None:
    owner, _, rest = name.partition("/")
    repos = Repo.objects.filter(kind=Repo.LORA)
    return repos.named(owner, rest).first() or repos.once_named(owner, rest).first()


def _may_read(repo: Repo, user: Visitor) -> bool:
    return Repo.objects.readable_by(user).filter(pk=repo.pk).exists()


def _holding(sha256: str, user: Visitor, repo: Repo | None) -> Commit | None:
    """The newest commit with these weights: of this repo, or of any that the user may read."""
    files = CommitFile.objects.filter(path=WEIGHTS_NAME, blob_id=sha256)
    if repo is not None:
        files = files.filter(commit__repo=repo)
    else:
        readable = Repo.objects.readable_by(user).filter(kind=Repo.LORA)
        files = files.filter(commit__repo__in=readable.values("pk"))
    file = files.select_related("commit__repo__owner").order_by("-commit__id").first()
    return file.commit if file else None


def _with_hash(commit: Commit) -> Commit:
    commit.sha256 = commit.sha256_of(WEIGHTS_NAME)
    return commit


def base_of(
    spec: Mapping[str, Any], base: BaseModel, *, is_imported: bool
) -> Difference | dict[str, str] | None:
    """None where the pinned base model is the one that workers load."""
    stated = spec["base_model"]["revision"]
    if stated == base.revision:
        return None
    said = f"{base}: {stated[:12]}"
    known = base.repo is not None and base.repo.at_revision(stated) is not None
    if known or is_imported or base.source != base.SITE:
        why = f"{said} is not the revision that workers load now, {base.revision[:12]}."
        return {"what": BASE_REVISION, "why": why}
    return Difference(BASE_REVISION, said, f"there is no such revision; it is {base.revision[:12]}")


def commits_of(job: Job) -> QuerySet[Commit]:
    """What the job's worker may fetch: see `pinned.commits_of`."""
    rows = Verification.objects.select_related("recipe__base_model__repo")
    row = rows.filter(job=job).first()
    if row is None:
        return Commit.objects.none()
    statement = Statement.of(row.recipe, row.search, row.imported)
    found = pins(statement.spec, job.user, is_imported=row.imported is not None)
    shadow = statement.as_search(row.recipe, job)
    wanted = Q(pk__in=[each.pk for each in found.commits if each is not None])
    wanted &= Q(repo__hidden_at=None)
    wanted &= Q(repo__gated="") | Q(repo__in=pinned.gated_open_to(shadow))
    base = row.recipe.base_model
    if base is not None and base.source == BaseModel.SITE:
        wanted |= Q(pk=base.pinned_commit().pk)
    return Commit.objects.filter(wanted)
