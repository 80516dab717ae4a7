"""Collections: named, ordered sets of modules, and what their owners do with them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from django.db import IntegrityError, transaction
from django.db.models import Count, Max, Prefetch, QuerySet

from composer.engine.errors import CommonsError
from hub_site.accounts.models import Namespace, User
from modules.finding import keyset
from modules.locks import Gone, hold_module, hold_modules
from modules.models import Collection, CollectionItem, LoraModule

if TYPE_CHECKING:
    from modules.querysets import Visitor

MOST_ITEMS = 200
BY_POSITION = keyset.Order("position", descending=False)
MOST_COLLECTIONS = 200
RESERVED = frozenset({"edit", "new", "delete", "items"})


class TooMany(CommonsError):
    code = "too_many"


class NameTaken(CommonsError):
    code = "name_taken"


def create(
    *, owner: Namespace, title: str, description: str = "", visibility: str = Collection.PUBLIC
) -> Collection:
    """Its address is made of the title; another collection of the same title gets a number."""
    if owner.collections.count() >= MOST_COLLECTIONS:
        raise TooMany(f"You have {MOST_COLLECTIONS} collections, which is the most. Delete one.")
    base = slug(title)
    taken = {
        name.lower()
        for name in owner.collections.filter(name__istartswith=base).values_list("name", flat=True)
    }
    name = next(
        each
        for number in range(len(taken) + len(RESERVED) + 2)
        if (each := base if not number else f"{base}-{number + 1}") not in taken | RESERVED
    )
    try:
        with transaction.atomic():
            return Collection.objects.create(
                owner=owner, name=name, title=title, description=description, visibility=visibility
            )
    except IntegrityError as error:  # pressed twice at once
        raise NameTaken(
            f"You have just made a collection called “{title}”.", fields={"title": ["Taken."]}
        ) from error


@transaction.atomic
def change(collection: Collection, **fields: str) -> None:
    """These fields and no others: a moderator may have hidden it meanwhile, or its owner deleted
    it."""
    _lock(collection)
    for name, value in fields.items():
        setattr(collection, name, value)
    collection.save(update_fields=[*fields, "updated_at"])


def slug(title: str) -> str:
    """Letters, digits and dashes of a title, for its address."""
    words = re.findall(r"[a-z0-9]+", title.lower())
    return "-".join(words)[:80].strip("-") or "collection"


@transaction.atomic
def add(collection: Collection, module: LoraModule, *, note: str | None = None) -> bool:
    """At the end; False when it was there already, in which case a note replaces the old one."""
    _lock(collection)
    hold_module(module)
    items = CollectionItem.objects.filter(collection=collection)
    if items.filter(lora_module=module).exists():
        if note is not None:
            items.filter(lora_module=module).update(note=note)
        return False
    if items.count() >= MOST_ITEMS:
        raise _full(collection)
    last = items.aggregate(last=Max("position"))["last"]
    CollectionItem.objects.create(
        collection=collection,
        lora_module=module,
        note=note or "",
        position=0 if last is None else last + 1,
    )
    collection.save(update_fields=["updated_at"])
    return True


@transaction.atomic
def arrange(collection: Collection, modules: Sequence[LoraModule], user: User) -> None:
    """These modules in this order and no others; who was in it before keeps the note.

    What the user may not see cannot be named: it stays, behind the others.
    """
    _lock(collection)
    hold_modules(modules)
    items = CollectionItem.objects.filter(collection=collection)
    seen = LoraModule.objects.visible_to(user).values("pk")
    unseen = items.exclude(lora_module__in=seen).values_list("lora_module", flat=True)
    order = dict.fromkeys([module.pk for module in modules] + list(unseen))
    if len(order) > MOST_ITEMS:
        raise _full(collection)
    items.exclude(lora_module__in=order).delete()
    CollectionItem.objects.bulk_create(
        [
            CollectionItem(collection=collection, lora_module_id=pk, position=position)
            for position, pk in enumerate(order)
        ],
        update_conflicts=True,
        unique_fields=["collection", "lora_module"],
        update_fields=["position"],
    )
    collection.save(update_fields=["updated_at"])


@transaction.atomic
def take_out(item: CollectionItem) -> None:
    _lock(item.collection)
    item.delete()
    item.collection.save(update_fields=["updated_at"])


@transaction.atomic
def move(item: CollectionItem, step: int) -> None:
    """So many places up (negative) or down, as far as the list goes."""
    _lock(item.collection)
    items = list(CollectionItem.objects.filter(collection=item.collection_id))
    place = next((n for n, each in enumerate(items) if each.pk == item.pk), None)
    if place is None:
        return
    items.insert(max(0, place + step), items.pop(place))
    for position, each in enumerate(items):
        each.position = position
    CollectionItem.objects.bulk_update(items, ["position"])


def set_note(item: CollectionItem, note: str) -> None:
    CollectionItem.objects.filter(pk=item.pk).update(note=note)


def shown_items(collection: Collection, user: Visitor) -> QuerySet[CollectionItem]:
    """What this visitor sees in it: others' private and hidden modules are not there."""
    visible = LoraModule.objects.visible_to(user)
    return collection.items.filter(lora_module__in=visible.values("pk")).prefetch_related(
        Prefetch("lora_module", LoraModule.objects.for_cards())
    )


def bases(items: QuerySet[CollectionItem]) -> list[tuple[str, int]]:
    """Their base models, the commonest first: only modules of one can be mixed."""
    rows = items.order_by().values("lora_module__base_model_name").annotate(n=Count("pk"))
    found = [(row["lora_module__base_model_name"] or "no base model", row["n"]) for row in rows]
    return sorted(found, key=lambda pair: (-pair[1], pair[0]))


def modules_of(collection: Collection, user: Visitor) -> list[LoraModule]:
    """In the collection's order, those that this user may see."""
    seen = LoraModule.objects.visible_to(user).filter(collected__collection=collection)
    rows = seen.select_related("repo__owner")
    return list(rows.order_by("collected__position", "collected__pk"))


def commonest_base(collection: Collection) -> int | None:
    """The id of the base model that most of its listed modules were made for."""
    rows = collection.items.filter(lora_module__is_listed=True).exclude(
        lora_module__base_model=None
    )
    counted = rows.order_by().values("lora_module__base_model").annotate(n=Count("pk"))
    found = counted.order_by("-n", "lora_module__base_model").first()
    return found["lora_module__base_model"] if found else None


def of_user(user: User) -> QuerySet[Collection]:
    return Collection.objects.editable_by(user).select_related("owner")


def _full(collection: Collection) -> TooMany:
    return TooMany(
        f"“{collection}” would hold more than {MOST_ITEMS} modules, which is the most. Take one "
        "out first, or begin a second collection.",
        fields={"modules": [f"{MOST_ITEMS} at most."]},
    )


def _lock(collection: Collection) -> None:
    """One change of a collection's order at a time."""
    rows = Collection.objects.select_for_update(of=("self",), no_key=True)
    if not rows.filter(pk=collection.pk).exists():
        raise Gone(f"The collection “{collection}” was deleted meanwhile.")
