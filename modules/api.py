"""The library for programs: the same rows, filters and order as on the pages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from django.urls import path
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import generics, pagination, serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param

from modules import keyset
from modules.forms import SORTS, ModuleFilterForm
from modules.models import BaseModel, LoraModule
from modules.querysets import LoraModuleQuerySet
from modules.storage import local

MOST_ROWS = 100


class KeysetPagination(pagination.BasePagination):
    """{"next", "previous", "results"}: follow the links; a page's number would cost a count."""

    def paginate_queryset(
        self, queryset: QuerySet, request: Request, view: Any = None
    ) -> list[Any]:
        size = request.query_params.get("page_size", "")
        size = min(max(int(size), 1), MOST_ROWS) if re.fullmatch("[0-9]{1,9}", size) else 50
        cursor = request.query_params.get("after", "")
        self.page = keyset.cut(queryset, view.order, cursor, size)
        self.address = request.build_absolute_uri()
        return self.page.items

    def get_paginated_response(self, data: Any) -> Response:
        return Response(
            {
                "next": self._link(self.page.next),
                "previous": self._link(self.page.previous),
                "results": data,
            }
        )

    def get_paginated_response_schema(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        link = {"type": "string", "format": "uri", "nullable": True}
        return {
            "type": "object",
            "required": ["results"],
            "properties": {"next": link, "previous": link, "results": schema},
        }

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        whole = {"type": "integer", "minimum": 1, "maximum": MOST_ROWS}
        return [
            {"name": "after", "in": "query", "schema": {"type": "string"}},
            {"name": "page_size", "in": "query", "schema": whole},
        ]

    def _link(self, cursor: str) -> str | None:
        return replace_query_param(self.address, "after", cursor) if cursor else None


class LoraModuleSerializer(serializers.ModelSerializer):
    name = serializers.CharField(source="repo.__str__", read_only=True)
    owner = serializers.CharField(source="repo.owner.name", read_only=True)
    visibility = serializers.CharField(source="repo.visibility", read_only=True)
    downloads = serializers.IntegerField(source="repo.downloads", read_only=True)
    revision = serializers.CharField(source="commit.sha", read_only=True)
    base_model = serializers.CharField(source="base_model_name", read_only=True)
    is_composable = serializers.SerializerMethodField()
    recipe_count = serializers.IntegerField(read_only=True)
    tags = serializers.SlugRelatedField("name", many=True, read_only=True)
    target_modules = serializers.ListField(child=serializers.CharField(), read_only=True)
    url = serializers.SerializerMethodField()

    class Meta:
        model = LoraModule
        fields = [
            "name", "owner", "url", "visibility", "status", "rejected_reason", "is_composable",
            "revision", "published_at", "summary", "base_model", "r", "lora_alpha", "use_rslora",
            "task_type", "target_modules", "parameters", "weights_size", "weights_sha256",
            "licence", "language", "tags", "downloads", "recipe_count",
        ]  # fmt: skip
        read_only_fields = fields

    def get_is_composable(self, module: LoraModule) -> bool:
        return module.is_composable

    def get_url(self, module: LoraModule) -> str:
        return self.context["request"].build_absolute_uri(module.get_absolute_url())


class CheckSerializer(serializers.Serializer):
    name = serializers.CharField()
    title = serializers.CharField()
    state = serializers.ChoiceField(["ok", "warning", "failed"])
    detail = serializers.CharField()


class FileSerializer(serializers.Serializer):
    path = serializers.CharField()
    size = serializers.IntegerField()
    sha256 = serializers.CharField()
    url = serializers.URLField()


class LoraModulePageSerializer(LoraModuleSerializer):
    """One module with everything that its page shows."""

    checks = CheckSerializer(many=True, read_only=True)
    files = serializers.SerializerMethodField()

    class Meta(LoraModuleSerializer.Meta):
        fields = [*LoraModuleSerializer.Meta.fields, "checks", "files"]
        read_only_fields = fields

    @extend_schema_field(FileSerializer(many=True))
    def get_files(self, module: LoraModule) -> list[dict[str, Any]]:
        request, rows = self.context["request"], []
        for file in module.commit.files.select_related("blob"):
            file.commit, file.commit.repo = module.commit, module.repo
            url = request.build_absolute_uri(local.url(file))
            blob = file.blob
            rows.append({"path": file.path, "size": blob.size, "sha256": blob.sha256, "url": url})
        return rows


class BaseModelSerializer(serializers.ModelSerializer):
    aliases = serializers.ListField(child=serializers.CharField(), read_only=True)
    url = serializers.SerializerMethodField()

    class Meta:
        model = BaseModel
        fields = [
            "name", "revision", "source", "aliases", "summary", "parameters", "is_encoder_decoder",
            "max_tokens", "url",
        ]  # fmt: skip
        read_only_fields = fields

    def get_url(self, base_model: BaseModel) -> str:
        return self.context["request"].build_absolute_uri(base_model.get_absolute_url())


FILTERS = [
    OpenApiParameter("q", OpenApiTypes.STR, description="Words of name, owner, tags or card."),
    OpenApiParameter("owner", OpenApiTypes.STR),
    OpenApiParameter("base_model", OpenApiTypes.STR),
    OpenApiParameter("r", OpenApiTypes.INT, description="The rank."),
    OpenApiParameter("tag", OpenApiTypes.STR, many=True, description="Every one of these."),
    OpenApiParameter("target", OpenApiTypes.STR, many=True, description="Target modules."),
    OpenApiParameter("sort", OpenApiTypes.STR, enum=list(SORTS)),
]


class LoraModuleList(generics.ListAPIView):
    """LoRA modules that you may see, newest first, or the best match first when you search."""

    serializer_class = LoraModuleSerializer
    pagination_class = KeysetPagination
    queryset = LoraModule.objects.none()

    def get_queryset(self) -> LoraModuleQuerySet:
        form = ModuleFilterForm(self.request.query_params)
        if not form.is_valid():
            raise serializers.ValidationError(form.errors)
        self.order = form.order
        visible = LoraModule.objects.visible_to(self.request.user).listed()
        return form.sort_rows(form.find(visible).for_cards())

    @extend_schema(operation_id="modules_list", parameters=FILTERS)
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return super().get(request, *args, **kwargs)


class LoraModuleDetail(generics.RetrieveAPIView):
    """One LoRA module, with its checks and the files of its newest version."""

    serializer_class = LoraModulePageSerializer
    queryset = LoraModule.objects.none()

    def get_object(self) -> LoraModule:
        modules = LoraModule.objects.visible_to(self.request.user)
        named = modules.named(self.kwargs["owner"], self.kwargs["name"])
        module: LoraModule = get_object_or_404(named.for_page())
        return module

    @extend_schema(operation_id="modules_retrieve")
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
    path("base-models/", BaseModelList.as_view(), name="api-base-models"),
]
