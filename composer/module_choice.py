"""Which modules a search mixes: those that fit, and those of them that somebody chose."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db.models import Count, QuerySet

from composer.engine.errors import BadConfig, IncompatibleModules
from composer.limits import OverLimit
from modules.community import collections
from modules.models import BaseModel, Collection, LoraModule, Tag

if TYPE_CHECKING:
    from composer.querysets import Visitor

MOST_MODULES = 100
# Each is measured once on all examples before any is mixed.
MOST_RANKED = 500
# Cobyla knows nothing before it has tried each weight once, and each module alone is tried before
# that: the recommended budget of 200 is enough for about 60 (docs/decisions/0021).
MIXED_UNASKED = 40
GATED = "It is gated. Ask its author for access on its page."

Shape = tuple[int, tuple[str, ...]]  # r, target_modules


@dataclass(frozen=True)
class Fit:
    """A module of the base model, and why it cannot take part where it cannot; `note` says what
    is done to make it fit."""

    lora_module: LoraModule
    reason: str = ""
    note: str = ""

    @property
    def fits(self) -> bool:
        return not self.reason


def modules_for(base_model: BaseModel, user: "Visitor", combination: str = "sum") -> list[Fit]:
    """Every module of this base model that the user may see, by name, with the misfits' reasons."""
    visible = LoraModule.objects.visible_to(user).filter(base_model=base_model)
    # Sorted here: their order is part of a recipe's id, and databases collate differently.
    found = sorted(visible.select_related("repo__owner", "commit"), key=str)
    open_to_them = set(visible.readable_by(user).values_list("pk", flat=True))
    mixable = [module for module in found if module.is_composable and module.pk in open_to_them]
    usual = _usual_shape(mixable)
    return [
        Fit(
            module,
            _misfit(module, combination, usual) if module.pk in open_to_them else GATED,
            _note(module, combination, usual),
        )
        for module in found
    ]


@dataclass(frozen=True)
class ModuleChoice:
    """Which modules a search mixes: all that fit, the `count` of them that do best alone on the
    examples, `count` drawn with `seed`, these, or those of a collection or with a tag that fit."""

    how: str = "all"  # "all", "ranked", "random", "hand", "tag", "collection"
    count: int = 20
    seed: int = 0
    modules: tuple[LoraModule, ...] = ()
    collection: Collection | None = None
    tag: str = ""

    def to_json(self) -> dict[str, Any]:
        names = sorted(str(module) for module in self.modules)
        document = {"how": self.how, "count": self.count, "seed": self.seed, "modules": names}
        if self.collection is not None:
            document["collection"] = f"{self.collection.owner.name}/{self.collection.name}"
        if self.how == "tag":
            document["tag"] = self.tag
        return document


def choose_modules(
    choice: ModuleChoice,
    *,
    base_model: BaseModel,
    user: "Visitor",
    combination: str,
    about: str = "",
) -> list[LoraModule]:
    """The modules of a search, by name; raises where the choice cannot be met.

    Where they are to be ranked these are the candidates: a worker measures them. Of more than it
    measures, those are taken that the words of `about` fit best, by name, tags and summary.
    """
    fits = modules_for(base_model, user, combination)
    fitting = [fit.lora_module for fit in fits if fit.fits]
    if choice.how == "hand":
        chosen = _by_hand(choice.modules, fits)
    elif choice.how == "tag":
        chosen = _tagged(choice.tag, fitting)
    elif choice.how == "collection":
        chosen = _of_collection(choice.collection, fits, base_model, user)
    elif choice.how == "random":
        _check_count(choice)
        count = min(choice.count, len(fitting))
        drawn = set(random.Random(choice.seed).sample(range(len(fitting)), count))  # noqa: S311
        chosen = [module for place, module in enumerate(fitting) if place in drawn]
    else:
        _check_count(choice)
        chosen = fitting
    if not chosen:
        raise IncompatibleModules(
            f"No module of {base_model} fits the combination {combination!r}. "
            "Choose another combination, or upload a module."
        )
    if choice.how == "ranked" and len(chosen) > MOST_RANKED:
        chosen = _preselected(chosen, about)
    if choice.how != "ranked" and len(chosen) > MOST_MODULES:
        raise OverLimit(
            f"{len(chosen)} modules are chosen; a search mixes at most {MOST_MODULES}. "
            "Take those that fit the examples best, draw some at random, or choose by hand."
        )
    return chosen


def _preselected(modules: Sequence[LoraModule], about: str) -> list[LoraModule]:
    found = LoraModule.objects.of_ids([module.pk for module in modules]).with_rank(about)
    first = set(found.order_by("-rank", "pk").values_list("pk", flat=True)[:MOST_RANKED])
    return [module for module in modules if module.pk in first]


def _check_count(choice: ModuleChoice) -> None:
    if choice.how in ("random", "ranked") and not 1 <= choice.count <= MOST_MODULES:
        message = f"How many is {choice.count}; it must be from 1 to {MOST_MODULES}."
        raise BadConfig(message, fields={"count": [message]})


def fits_in(
    collection: Collection, fits: Sequence[Fit], base_model: BaseModel, user: "Visitor"
) -> list[Fit]:
    """A collection's modules that the user may see, by name, each with why it is left out."""
    known = {fit.lora_module.pk: fit for fit in fits}
    return [
        known.get(module.pk) or Fit(module, _other_base(module, base_model))
        for module in sorted(collections.modules_of(collection, user), key=str)
    ]


def tags_of(fits: Sequence[Fit]) -> QuerySet[Tag]:
    """Tags of those that fit, the commonest first, with how many carry each as `fitting`."""
    ids = [fit.lora_module.pk for fit in fits if fit.fits]
    found = Tag.objects.filter(lora_modules__in=ids).annotate(fitting=Count("lora_modules"))
    return found.order_by("-fitting", "name")


def left_out(
    collection: Collection, base_model: BaseModel, user: "Visitor", combination: str
) -> list[Fit]:
    fits = modules_for(base_model, user, combination)
    return [fit for fit in fits_in(collection, fits, base_model, user) if not fit.fits]


def usual_choice(preset: str) -> ModuleChoice:
    if preset == "paper":
        return ModuleChoice("random")
    return ModuleChoice("ranked", count=MIXED_UNASKED)


def ranked_to(params: Mapping[str, Any]) -> int | None:
    """How many of a job's candidates are mixed once they are ranked; None where all are."""
    choice = params.get("modules") or usual_choice(params["preset"]).to_json()
    return int(choice["count"]) if choice["how"] == "ranked" else None


# --- private -----------------------------------------------------------------------------------


def _shape(module: LoraModule) -> Shape:
    return module.r, tuple(module.target_modules)


def _usual_shape(modules: Sequence[LoraModule]) -> Shape | None:
    shapes = [_shape(module) for module in modules]
    return max(shapes, key=shapes.count, default=None)


def _misfit(module: LoraModule, combination: str, usual: Shape | None) -> str:
    if module.repo.is_hidden:
        return "A moderator has hidden it."
    if module.status == LoraModule.CHECKING:
        return "Its files are still being checked."
    if module.status == LoraModule.REJECTED:
        return module.rejected_reason or "Its files were rejected."
    if module.not_composable:
        return module.not_composable
    if usual is None or combination != "linear" or _shape(module) == usual:
        return ""
    return (
        f"It has rank {module.r} on {', '.join(module.target_modules)}; the others have rank "
        f"{usual[0]} on {', '.join(usual[1])}. PEFT's 'linear' mixes modules of one shape; the "
        "combination 'sum' mixes any."
    )


def _note(module: LoraModule, combination: str, usual: Shape | None) -> str:
    """The paper's modules all have one shape: what is done with others is our convention."""
    if usual is None or combination != "lorahub" or _shape(module) == usual:
        return ""
    return (
        f"It has rank {module.r} on {', '.join(module.target_modules)}, unlike most: what it lacks "
        "is filled up with zeros, which is our convention and not the paper's."
    )


def _by_hand(chosen: Sequence[LoraModule], fits: Sequence[Fit]) -> list[LoraModule]:
    if not chosen:
        raise IncompatibleModules("Choose at least one module.")
    wanted = {module.pk for module in chosen}
    known = {fit.lora_module.pk: fit for fit in fits}
    for module in chosen:
        fit = known.get(module.pk)
        if fit is None:
            raise IncompatibleModules(f"{module} does not belong to this base model.")
        if not fit.fits:
            raise IncompatibleModules(f"{module} cannot be mixed here. {fit.reason}")
    return [fit.lora_module for fit in fits if fit.lora_module.pk in wanted]


def _tagged(name: str, fitting: Sequence[LoraModule]) -> list[LoraModule]:
    if not name:
        raise IncompatibleModules("Choose a tag.", fields={"tag": ["Choose one."]})
    tagged = LoraModule.objects.of_ids([module.pk for module in fitting])
    carrying = set(tagged.filter(tags__name__iexact=name).values_list("pk", flat=True))
    if not carrying:
        message = f"No module that can be mixed here carries the tag {name!r}. Choose another tag."
        raise IncompatibleModules(message, fields={"tag": [message]})
    return [module for module in fitting if module.pk in carrying]


def _of_collection(
    collection: Collection | None, fits: Sequence[Fit], base_model: BaseModel, user: "Visitor"
) -> list[LoraModule]:
    if collection is None:
        raise IncompatibleModules("Choose a collection.", fields={"collection": ["Choose one."]})
    found = fits_in(collection, fits, base_model, user)
    if chosen := [fit.lora_module for fit in found if fit.fits]:
        return chosen
    why = f" {found[0].lora_module}: {found[0].reason}" if found else " It is empty."
    raise IncompatibleModules(
        f"No module of the collection “{collection}” can be mixed here.{why} "
        "Choose another collection, or another base model for the task.",
        fields={"collection": ["None of its modules can be mixed here."]},
    )


def _other_base(module: LoraModule, base_model: BaseModel) -> str:
    made_for = module.base_model_name or "a base model that its config does not name"
    return f"It was made for {made_for}, not for {base_model}."
