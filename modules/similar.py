"""Modules like this one: made for the same base model, with most in common."""

from __future__ import annotations

from django.db.models import Case, Count, IntegerField, Q, QuerySet, Value, When

from modules.models import LoraModule

SHOWN = 5


def similar_to(module: LoraModule) -> QuerySet[LoraModule]:
    """What is listed for everybody, the most alike first: tags in common count twice, the same
    task three times, the same target modules once. One query; the rows are read with one more."""
    if module.base_model_id is not None:
        same_base = Q(base_model=module.base_model_id)
    elif module.base_model_name:
        same_base = Q(base_model=None, base_model_name=module.base_model_name)
    else:
        return LoraModule.objects.none()
    tags = [tag.pk for tag in module.tags.all()]
    same_task = _points(3, Q(task=module.task)) if module.task else Value(0)
    return (
        LoraModule.objects.filter(same_base, is_listed=True, status=LoraModule.READY)
        .exclude(pk=module.pk)
        .annotate(
            alike=2 * Count("tags", filter=Q(tags__in=tags))
            + same_task
            + _points(1, Q(target_modules=module.target_modules))
        )
        .order_by("-alike", "-likes", "-downloads", "-pk")
        .select_related("repo__owner")
        .only("repo__name", "repo__owner__name", "summary", "r", "weights_size", "likes")[:SHOWN]
    )


def _points(number: int, where: Q) -> Case:
    return Case(When(where, then=number), default=0, output_field=IntegerField())
