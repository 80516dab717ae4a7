"""Recipes made public, and what holds one back: private, gated, deleted and hidden modules."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from django.contrib.auth.models import AnonymousUser
from django.db import transaction
from django.db.models import Count
from django.utils import timezone

from composer import proof, verifications
from composer.engine.examples import Example
from composer.engine.recipe import examples_hash
from composer.errors import NotAllowed, NotReady, Withdrawn
from composer.models import Ingredient, Recipe, Search
from composer.verdict import verdict
from hub_site.accounts.models import User
from modules.models import LoraModule
from modules.on_hub import keeping

# Of one's own from the same task, in the form.
MOST_VERSIONS = 10

if TYPE_CHECKING:
    from composer.querysets import Visitor


@transaction.atomic
def publish(
    *,
    search: Search,
    user: User,
    title: str,
    description: str = "",
    show_examples: bool = False,
    version_of: Recipe | None = None,
) -> Recipe:
    """Make a search's recipe public. Examples and predictions stay private unless shown.

    A recipe that is public already stays as its first publisher left it. `version_of` is a
    published recipe that this one goes on from.
    """
    if search.recipe_id is None:
        raise NotReady("There is nothing to publish yet: the search has not finished.")
    if user.is_guest:
        raise NotAllowed("Sign up to publish: a recipe carries its author's name.")
    recipe = Recipe.objects.select_for_update().get(pk=search.recipe_id)
    if recipe.published_at:
        return recipe
    hidden = private_ingredients(recipe)
    if hidden:
        raise NotAllowed(
            f"This recipe cannot be public: {', '.join(hidden)} "
            f"{'is' if len(hidden) == 1 else 'are'} private, gated or no longer here. "
            "Open the module to everybody, or search again without it."
        )
    recipe.title = title.strip() or search.title
    recipe.description = description
    recipe.shows_examples = show_examples
    recipe.published_at = timezone.now()
    recipe.published_by = user
    recipe.published_search = search
    if version_of is not None and version_of.pk != recipe.pk and version_of.published_at:
        recipe.parent = version_of
    recipe.save()
    keep_proof(search, recipe)
    for home in recipe.hub_homes.select_for_update(of=("self",)):
        keeping.ask_for(home)  # repos on the Hub may be open now
    return recipe


def earlier_versions(search: Search, user: User) -> tuple[list[Recipe], Recipe | None]:
    """Published recipes that this search's may be a version of, and the one that it most likely
    is: the one it was remixed from, the same user's from the same task, or one with just the
    modules that were chosen by hand."""
    names = {each["repo"] for each in search.spec["ingredients"]}
    others = Recipe.objects.published().filter(base_model=search.base_model)
    others = others.exclude(pk=search.recipe_id).exclude(published_search=None)
    own = others.filter(published_by=user, published_search__task=search.task_id)
    remixed = others.filter(pk=search.job.params.get("remixed") or "")
    found = {each.pk: each for each in remixed}
    found |= {each.pk: each for each in own[:MOST_VERSIONS]} if search.task_id else {}
    likely = next(iter(found.values()), None)
    same = others.filter(ingredients__name__in=names).annotate(shared=Count("ingredients"))
    for each in same.order_by("-shared", "-published_at").prefetch_related("ingredients")[:10]:
        found.setdefault(each.pk, each)
        is_remix = {row.name for row in each.ingredients.all()} == names
        if likely is None and is_remix and _chosen_by_hand(search):
            likely = each
    return list(found.values()), likely


def _chosen_by_hand(search: Search) -> bool:
    chosen = search.job.params.get("modules")
    return bool(chosen) and chosen["how"] == "hand"


def keep_proof(search: Search, recipe: Recipe) -> None:
    """What can be checked later is written down while the generations and the task are there; and
    the verdict as it is read today."""
    salt = verifications.salt_of(search)
    _name_nothing_private(search)
    search.evidence["proof"] = proof.of_search(search, recipe.document["weights"], salt)
    found = verdict(search.evidence)
    if found is not None:
        search.evidence["verdict"] = found.to_json()
    if salt is not None:
        search.examples["salt"] = salt
    search.save(update_fields=["evidence", "examples"])


def _name_nothing_private(search: Search) -> None:
    """Of folds each has its own best single module, which need be no ingredient of the recipe."""
    for row in search.evidence.get("methods", []):
        if row["key"] == "best_single" and row["detail"]:
            row["detail"] = "; ".join(_public_names(row["detail"].split("; ")))


def _public_names(names: Sequence[str]) -> list[str]:
    everybodys = LoraModule.objects.readable_by(AnonymousUser())
    return [name for name in names if everybodys.named(*name.partition("/")[::2]).exists()]


def is_salted(search: Search) -> bool:
    """Whether the recipe's hash of the examples tells nothing to whoever guesses them."""
    shots = [Example(*pair) for pair in search.examples["shots"]]
    return examples_hash(shots, "") != search.spec["examples_hash"]


def private_ingredients(recipe: Recipe) -> list[str]:
    """Names of the ingredients that are not everybody's to see and to have: the adapter holds
    them."""
    wanted = recipe.ingredients.all()
    public = LoraModule.objects.readable_by(AnonymousUser()).filter(
        pk__in=[ingredient.lora_module_id for ingredient in wanted]
    )
    seen = set(public.values_list("pk", flat=True))
    return [ingredient.name for ingredient in wanted if ingredient.lora_module_id not in seen]


def standings(recipe: Recipe, user: "Visitor") -> dict[int, str]:
    """What became of each ingredient's module for this visitor, by the ingredient's id: "here",
    "hidden", "private" or "deleted". The recipe keeps its name, version and hash in any case."""
    wanted = list(recipe.ingredients.select_related("lora_module__repo"))
    seen = set(
        LoraModule.objects.visible_to(user)
        .filter(pk__in=[each.lora_module_id for each in wanted])
        .values_list("pk", flat=True)
    )

    def standing(each: Ingredient) -> str:
        if each.lora_module_id is None:
            return "deleted"
        if each.is_hidden:
            return "hidden"
        return "here" if each.lora_module_id in seen else "private"

    return {each.pk: standing(each) for each in wanted}


def closed_ingredients(recipe: Recipe, user: "Visitor") -> list[str]:
    """Names of gated modules in it that this visitor has no access to, or no longer.

    None of a published recipe: whoever gates a module later had shared it openly when the recipe
    was made public, as with one that is made private later.
    """
    if recipe.published_at is not None:
        return []
    open_to_them = LoraModule.objects.readable_by(user).values("pk")
    if user.is_authenticated and not recipe.searches.filter(job__user=user).exists():
        # Brought as a file, which opens nothing: what others made of it is not theirs yet.
        closed = recipe.ingredients.exclude(lora_module__in=open_to_them)
        return list(closed.values_list("name", flat=True))
    gated = recipe.ingredients.filter(lora_module__in=LoraModule.objects.gated(True))
    return list(gated.exclude(lora_module__in=open_to_them).values_list("name", flat=True))


def _how_closed(recipe: Recipe, user: "Visitor") -> str:
    is_finder = recipe.searches.filter(job__user_id=user.pk).exists()
    return "gated" if is_finder else "gated, private or gone"


def refuse_closed(recipe: Recipe, user: "Visitor") -> None:
    """An adapter is made of its modules: it goes to whom they go to."""
    if names := closed_ingredients(recipe, user):
        raise NotAllowed(
            f"This adapter holds {', '.join(names)}, which {'is' if len(names) == 1 else 'are'} "
            f"{_how_closed(recipe, user)}, and you have no access. Ask for it on the module's page."
        )


def refuse_withdrawn(recipe: Recipe, user: "Visitor") -> None:
    """An adapter is made of its modules: what was hidden is not handed out inside it either."""
    if recipe.adapter_allowed or (user.is_authenticated and user.is_staff):
        return
    hidden = recipe.ingredients.exclude(lora_module__repo__hidden_at=None)
    names = list(hidden.exclude(lora_module=None).values_list("name", flat=True))
    if names:
        raise Withdrawn(
            f"This adapter is withdrawn: a moderator has hidden {', '.join(names)}, which is in "
            "it. Search again without it; if it is restored, the adapter can be had again."
        )
