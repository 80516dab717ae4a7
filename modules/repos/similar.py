"""Modules like this one: made for the same base model, with most in common."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db.models import Case, Func, IntegerField, Q, QuerySet, TextField, Value, When

from modules.models import LoraModule

SHOWN = 5
# A base model can have 50,000 modules, and a tag as many: compared are the most fetched ones, and
# those that share one of its rarest tags, which say the most.
MOST_FETCHED, SHARING, RAREST, RARE = 100, 100, 3, 500


class InCommon(Func):
    """How many values two arrays share."""

    template = "cardinality(ARRAY(SELECT unnest(%(expressions)s)))"
    arg_joiner = ") INTERSECT SELECT unnest("
    output_field = IntegerField()


def similar_to(module: LoraModule) -> QuerySet[LoraModule]:
    """What is listed for everybody, the most alike first: tags in common count twice, the same
    task three times, the same target modules once. One query, of bounded cost."""
    if not module.base_model_name:
        return LoraModule.objects.none()
    same_base = LoraModule.objects.filter(base_model_name=module.base_model_name, is_listed=True)
    listed = same_base.order_by("-downloads", "-pk").values("pk")
    compared = listed[:MOST_FETCHED]
    tags = sorted((t for t in module.tags.all() if t.uses <= RARE), key=lambda tag: tag.uses)
    if words := [f"tag:{tag.name.lower()}" for tag in tags[:RAREST]]:
        sharing = listed.filter(facets__overlap=words)
        compared = compared.union(sharing[:SHARING])
    alike = 2 * InCommon("tag_names", Value(module.tag_names, ArrayField(TextField())))
    alike += _points(1, Q(target_modules=module.target_modules))
    if module.task:
        alike += _points(3, Q(task=module.task))
    return (
        LoraModule.objects.filter(pk__in=compared, status=LoraModule.READY)
        .exclude(pk=module.pk)
        .annotate(alike=alike)
        .order_by("-alike", "-likes", "-downloads", "-pk")
        .select_related("repo__owner")
        .only("repo__name", "repo__owner__name", "summary", "r", "weights_size", "likes")[:SHOWN]
    )


def _points(number: int, where: Q) -> Case:
    return Case(When(where, then=number), default=0, output_field=IntegerField())
