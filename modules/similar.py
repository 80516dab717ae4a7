"""Modules like this one: made for the same base model, with most in common."""

from __future__ import annotations

from django.db.models import Case, Count, IntegerField, Q, QuerySet, When

from modules.models import LoraModule

SHOWN = 5
# Of a base model with 50,000 modules, only the most fetched ones are compared.
WITH_COMMON_TAGS, OTHERS = 200, 50


def similar_to(module: LoraModule) -> QuerySet[LoraModule]:
    """What is listed for everybody, the most alike first: tags in common count twice, the same
    task three times, the same target modules once. One query, of bounded cost."""
    if module.base_model_id is not None:
        same_base = Q(base_model=module.base_model_id)
    elif module.base_model_name:
        same_base = Q(base_model=None, base_model_name=module.base_model_name)
    else:
        return LoraModule.objects.none()
    of_base = (
        LoraModule.objects.filter(same_base, is_listed=True, status=LoraModule.READY)
        .exclude(pk=module.pk)
        .order_by("-downloads", "-pk")
        .values("pk")
    )
    tags = list(module.tags.all())
    compared = of_base[:OTHERS]
    if tags:
        tagged = of_base.filter(facets__overlap=[f"tag:{tag.name.lower()}" for tag in tags])
        compared = tagged[:WITH_COMMON_TAGS].union(compared)
    alike = 2 * Count("tags", filter=Q(tags__in=[tag.pk for tag in tags]))
    alike += _points(1, Q(target_modules=module.target_modules))
    if module.task:
        alike += _points(3, Q(task=module.task))
    return (
        LoraModule.objects.filter(pk__in=compared)
        .annotate(alike=alike)
        .order_by("-alike", "-likes", "-downloads", "-pk")
        .select_related("repo__owner")
        .only("repo__name", "repo__owner__name", "summary", "r", "weights_size", "likes")[:SHOWN]
    )


def _points(number: int, where: Q) -> Case:
    return Case(When(where, then=number), default=0, output_field=IntegerField())
