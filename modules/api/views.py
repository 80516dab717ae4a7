"""The library for programs: the same rows, filters, order, checks and limits as on the pages."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.urls import path
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics, serializers
from rest_framework.request import Request
from rest_framework.response import Response

from hub_site import throttles
from modules.api import collections as collections_api
from modules.api import job_files
from modules.api.authors import ChangesModules, CreatesModules, Liked, Versions, page, visible
from modules.api.pages import KeysetPagination
from modules.api.serializers import (
    BaseModelSerializer,
    LoraModulePageSerializer,
    LoraModuleSerializer,
    TagSerializer,
)
from modules.finding import search, tags
from modules.finding.facets import SIZES
from modules.finding.forms import SORTS, ModuleFilterForm
from modules.models import BaseModel, LoraModule, Tag
from modules.querysets import LoraModuleQuerySet

MOST_TAGS = 50


FILTERS = [
    OpenApiParameter("q", OpenApiTypes.STR, description="Words of name, owner, tags or card."),
    OpenApiParameter("owner", OpenApiTypes.STR),
    OpenApiParameter("base_model", OpenApiTypes.STR),
    OpenApiParameter(
        "composable_with",
        OpenApiTypes.STR,
        description="Checked modules of this base model that can be mixed here.",
    ),
    OpenApiParameter("checked", OpenApiTypes.BOOL, description="Only modules that were checked."),
    OpenApiParameter("task", OpenApiTypes.STR),
    OpenApiParameter("r", OpenApiTypes.INT, description="The rank."),
    OpenApiParameter(
        "size",
        OpenApiTypes.STR,
        enum=list(SIZES),
        description=", ".join(f"{key}: {title}" for key, title in SIZES.items()) + ".",
    ),
    OpenApiParameter("licence", OpenApiTypes.STR, description="An SPDX identifier."),
    OpenApiParameter("language", OpenApiTypes.STR),
    OpenApiParameter(
        "gated", OpenApiTypes.BOOL, description="Only modules that are gated, or that are not."
    ),
    OpenApiParameter("tag", OpenApiTypes.STR, many=True, description="Every one of these."),
    OpenApiParameter("target", OpenApiTypes.STR, many=True, description="Target modules."),
    OpenApiParameter(
        "sort",
        OpenApiTypes.STR,
        enum=list(SORTS),
        description="`best` where there is a `q`, otherwise `trending`.",
    ),
]


class LoraModuleList(CreatesModules, generics.ListAPIView):
    """LoRA modules that you may see: trending first, or the best match first when you search."""

    serializer_class = LoraModuleSerializer
    pagination_class = KeysetPagination
    queryset = LoraModule.objects.none()
    load = staticmethod(LoraModuleQuerySet.for_api)

    def get_queryset(self) -> LoraModuleQuerySet:
        form = ModuleFilterForm(self.request.query_params)
        if not form.is_valid():
            raise serializers.ValidationError(form.errors)
        if form.has_words:
            throttles.count(self.request, "search")
        self.order = form.order
        return search.find(form, self.request.user).rows

    @extend_schema(operation_id="modules_list", parameters=FILTERS)
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return super().get(request, *args, **kwargs)


class LoraModuleDetail(ChangesModules):
    """One LoRA module, with its checks and the files of its newest version."""

    serializer_class = LoraModulePageSerializer
    queryset = LoraModule.objects.none()

    @extend_schema(operation_id="modules_retrieve")
    def get(self, request: Request, owner: str, name: str) -> Response:
        return page(request, visible(request, owner, name))


class TagList(generics.ListAPIView):
    """Tags in use that begin with `q`, or have it further on; the most used first."""

    serializer_class = TagSerializer
    pagination_class = None
    queryset = Tag.objects.none()

    def get_queryset(self) -> list[Tag]:
        words = self.request.query_params.get("q", "")
        if words:
            throttles.count(self.request, "search")
        return tags.suggest(words, MOST_TAGS)

    @extend_schema(operation_id="tags_list", parameters=[OpenApiParameter("q", OpenApiTypes.STR)])
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return super().get(request, *args, **kwargs)


class BaseModelList(generics.ListAPIView):
    """Base models that modules can be composed on here."""

    serializer_class = BaseModelSerializer
    queryset = BaseModel.objects.none()

    def get_queryset(self) -> QuerySet:
        return BaseModel.objects.usable().for_cards()

    @extend_schema(operation_id="base_models_list")
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return super().get(request, *args, **kwargs)


urlpatterns = [
    path("modules/", LoraModuleList.as_view(), name="api-modules"),
    path("modules/<str:owner>/<str:name>/", LoraModuleDetail.as_view(), name="api-module"),
    path(
        "modules/<str:owner>/<str:name>/versions/", Versions.as_view(), name="api-module-versions"
    ),
    path("modules/<str:owner>/<str:name>/like/", Liked.as_view(), name="api-module-like"),
    path("tags/", TagList.as_view(), name="api-tags"),
    path("base-models/", BaseModelList.as_view(), name="api-base-models"),
    *collections_api.urlpatterns,
    *job_files.urlpatterns,
]
