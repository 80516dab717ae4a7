"""Collections for programs: read everybody's, make and change one's own."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from django.urls import path
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import generics, serializers
from rest_framework.request import Request
from rest_framework.response import Response

from hub_site.api import Given
from modules.api.authors import NotYours, need_account, visible
from modules.api.pages import KeysetPagination
from modules.community import collections
from modules.finding import keyset
from modules.models import Collection, CollectionItem, LoraModule

VISIBILITIES = [Collection.PUBLIC, Collection.PRIVATE]


# --- what goes in and out ----------------------------------------------------------------------


class CollectionSummarySerializer(serializers.ModelSerializer):
    name = serializers.SerializerMethodField()
    url = serializers.SerializerMethodField()

    class Meta:
        model = Collection
        fields = [
            "name", "url", "title", "description", "visibility", "created_at", "updated_at",
        ]  # fmt: skip
        read_only_fields = fields

    def get_name(self, collection: Collection) -> str:
        return f"{collection.owner.name}/{collection.name}"

    def get_url(self, collection: Collection) -> str:
        found: str = self.context["request"].build_absolute_uri(collection.get_absolute_url())
        return found


class CollectedSerializer(serializers.ModelSerializer):
    name = serializers.CharField(source="lora_module.repo.__str__", read_only=True)
    base_model = serializers.CharField(source="lora_module.base_model_name", read_only=True)
    r = serializers.IntegerField(source="lora_module.r", read_only=True)

    class Meta:
        model = CollectionItem
        fields = ["name", "note", "base_model", "r", "added_at"]
        read_only_fields = fields


class CollectionSerializer(CollectionSummarySerializer):
    modules = serializers.SerializerMethodField()

    class Meta(CollectionSummarySerializer.Meta):
        fields = [*CollectionSummarySerializer.Meta.fields, "modules"]
        read_only_fields = fields

    @extend_schema_field(CollectedSerializer(many=True))
    def get_modules(self, collection: Collection) -> Any:
        """In their order; what you may not see is not there."""
        items = collections.shown_items(collection, self.context["request"].user)
        return CollectedSerializer(items, many=True).data


class CollectionChangeSerializer(Given):
    """Only what is sent is changed."""

    title = serializers.CharField(max_length=120)
    description = serializers.CharField(max_length=2000, required=False, allow_blank=True)
    visibility = serializers.ChoiceField(VISIBILITIES, required=False)
    modules = serializers.ListField(
        child=serializers.CharField(),
        required=False,
        max_length=collections.MOST_ITEMS,
        help_text='Names, as "owner/name": these and no others, in this order. Who was in it '
        "before keeps the note.",
    )

    def validate_modules(self, names: list[str]) -> list[LoraModule]:
        found = [self._module(name) for name in names]
        if len({module.pk for module in found}) < len(found):
            raise serializers.ValidationError("A module is named twice.")
        return found

    def _module(self, name: str) -> LoraModule:
        seen = LoraModule.objects.visible_to(self.context["request"].user)
        module: LoraModule | None = seen.named(*name.partition("/")[::2]).first()
        if module is None:
            raise serializers.ValidationError(f"There is no module {name!r}.")
        return module


class NoteSerializer(Given):
    """Why it is in the collection."""

    note = serializers.CharField(max_length=300, required=False, allow_blank=True)


# --- the addresses -----------------------------------------------------------------------------


class Collections(generics.ListAPIView):
    """Collections that you may see, the one changed last first."""

    serializer_class = CollectionSummarySerializer
    pagination_class = KeysetPagination
    order, load = keyset.Order("updated_at"), None

    def get_queryset(self) -> QuerySet[Collection]:
        return Collection.objects.visible_to(self.request.user).select_related("owner")

    @extend_schema(operation_id="collections_list")
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return super().get(request, *args, **kwargs)

    @extend_schema(
        operation_id="collections_create",
        summary="Make a collection",
        request=CollectionChangeSerializer,
        responses={201: CollectionSerializer},
    )
    def post(self, request: Request) -> Response:
        need_account(request.user)
        data = _given(request)
        modules = data.pop("modules", [])
        with transaction.atomic():
            made = collections.create(owner=request.user.namespace, **data)
            collections.arrange(made, modules, request.user)
        return _page(request, made, status=201)


class OneCollection(generics.GenericAPIView):
    """One collection with its modules."""

    serializer_class = CollectionSerializer
    queryset = Collection.objects.none()

    @extend_schema(operation_id="collections_retrieve")
    def get(self, request: Request, owner: str, slug: str) -> Response:
        return _page(request, _visible(request, owner, slug))

    @extend_schema(
        operation_id="collections_update",
        summary="Change a collection, its modules or their order",
        request=CollectionChangeSerializer,
    )
    def patch(self, request: Request, owner: str, slug: str) -> Response:
        found = _own(request, owner, slug)
        data = _given(request, partial=True)
        modules = data.pop("modules", None)
        with transaction.atomic():
            collections.change(found, **data)
            if modules is not None:
                collections.arrange(found, modules, request.user)
        return _page(request, found)

    @extend_schema(
        operation_id="collections_delete", summary="Delete a collection", responses={204: None}
    )
    def delete(self, request: Request, owner: str, slug: str) -> Response:
        _own(request, owner, slug).delete()
        return Response(status=204)


class Collected(generics.GenericAPIView):
    serializer_class = CollectionSerializer
    queryset = Collection.objects.none()

    @extend_schema(
        operation_id="collections_add",
        summary="Put a module at the end of a collection",
        description="If it is in it already, it keeps its place, and a note replaces its note.",
        request=NoteSerializer,
    )
    def put(
        self, request: Request, owner: str, slug: str, module_owner: str, module_name: str
    ) -> Response:
        found = _own(request, owner, slug)
        given = NoteSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        module = visible(request, module_owner, module_name)
        collections.add(found, module, note=given.validated_data.get("note"))
        return _page(request, found)

    @extend_schema(
        operation_id="collections_take_out",
        summary="Take a module out",
        responses={200: CollectionSerializer},
    )
    def delete(
        self, request: Request, owner: str, slug: str, module_owner: str, module_name: str
    ) -> Response:
        found = _own(request, owner, slug)
        module = LoraModule.objects.named(module_owner, module_name)
        collections.take_out(get_object_or_404(found.items.filter(lora_module__in=module)))
        return _page(request, found)


def _visible(request: Request, owner: str, slug: str) -> Collection:
    found: Collection = get_object_or_404(
        Collection.objects.visible_to(request.user).named(owner, slug)
    )
    return found


def _own(request: Request, owner: str, slug: str) -> Collection:
    found = _visible(request, owner, slug)
    if not Collection.objects.editable_by(request.user).filter(pk=found.pk).exists():
        raise NotYours(
            f"“{found}” is {found.owner.name}'s collection: only its owner may change it."
        )
    return found


def _given(request: Request, *, partial: bool = False) -> dict[str, Any]:
    given = CollectionChangeSerializer(
        data=request.data, partial=partial, context={"request": request}
    )
    given.is_valid(raise_exception=True)
    return dict(given.validated_data)


def _page(request: Request, collection: Collection, status: int = 200) -> Response:
    data = CollectionSerializer(collection, context={"request": request}).data
    return Response(data, status=status, headers={"Location": data["url"]} if status == 201 else {})


ONE = "collections/<str:owner>/<str:slug>/"
urlpatterns = [
    path("collections/", Collections.as_view(), name="api-collections"),
    path(ONE, OneCollection.as_view(), name="api-collection"),
    path(
        f"{ONE}modules/<str:module_owner>/<str:module_name>/",
        Collected.as_view(),
        name="api-collected",
    ),
]
