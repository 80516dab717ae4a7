"""The library for programs: the same rows, filters, order, checks and limits as on the pages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from django.urls import path
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics, pagination, parsers, serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param

from composer.engine.errors import CommonsError
from hub_site.accounts.models import Namespace, User
from hub_site.figures import size as file_size
from modules import intake, keyset, likes, services
from modules.forms import SORTS, ModuleFilterForm
from modules.models import BaseModel, LoraModule, Repo
from modules.querysets import LoraModuleQuerySet
from modules.serializers import (
    BaseModelSerializer,
    LikeSerializer,
    LoraModulePageSerializer,
    LoraModuleSerializer,
    NewModuleSerializer,
    NewVersionSerializer,
    VersionSerializer,
)

MOST_ROWS = 100
ENVELOPE = 100_000  # bytes of a request that are not its files'


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


FILTERS = [
    OpenApiParameter("q", OpenApiTypes.STR, description="Words of name, owner, tags or card."),
    OpenApiParameter("owner", OpenApiTypes.STR),
    OpenApiParameter("base_model", OpenApiTypes.STR),
    OpenApiParameter("r", OpenApiTypes.INT, description="The rank."),
    OpenApiParameter("tag", OpenApiTypes.STR, many=True, description="Every one of these."),
    OpenApiParameter("target", OpenApiTypes.STR, many=True, description="Target modules."),
    OpenApiParameter("sort", OpenApiTypes.STR, enum=list(SORTS)),
]


class NotYours(CommonsError):
    code = "not_yours"
    status = 403


class NoName(CommonsError):
    code = "no_name"
    status = 403


class LoraModuleList(generics.ListAPIView):
    """LoRA modules that you may see, newest first, or the best match first when you search."""

    serializer_class = LoraModuleSerializer
    parser_classes = [parsers.MultiPartParser]
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

    @extend_schema(
        operation_id="modules_create",
        summary="Upload a module",
        request={"multipart/form-data": NewModuleSerializer},
        responses={201: LoraModulePageSerializer},
    )
    def post(self, request: Request) -> Response:
        data = _uploaded(request, NewModuleSerializer)
        try:
            with transaction.atomic():  # a module that is refused leaves no empty repo
                repo = services.create_repo(
                    owner=_namespace(request.user),
                    name=data["name"],
                    kind=Repo.LORA,
                    visibility=data["visibility"],
                )
                module = _publish(repo, request.user, data)
        except (services.BadName, services.NameTaken) as error:
            error.fields = {"name": [error.user_message]}
            raise
        return _page(request, module, status=201)


class LoraModuleDetail(generics.GenericAPIView):
    """One LoRA module, with its checks and the files of its newest version."""

    serializer_class = LoraModulePageSerializer
    queryset = LoraModule.objects.none()

    @extend_schema(operation_id="modules_retrieve")
    def get(self, request: Request, owner: str, name: str) -> Response:
        return _page(request, _visible(request, owner, name))


class Versions(generics.GenericAPIView):
    """Every version of a module, newest first; each stays downloadable."""

    serializer_class = VersionSerializer
    parser_classes = [parsers.MultiPartParser]
    queryset = LoraModule.objects.none()

    @extend_schema(operation_id="module_versions_list", responses=VersionSerializer(many=True))
    def get(self, request: Request, owner: str, name: str) -> Response:
        repo = _visible(request, owner, name).repo
        page = self.paginate_queryset(repo.commits.select_related("author"))
        context = {"request": request, "repo": repo}
        rows = VersionSerializer(page, many=True, context=context).data
        return self.get_paginated_response(rows)

    @extend_schema(
        operation_id="module_versions_create",
        summary="Upload a new version",
        description="Files that are not sent stay as they are. The same files again make no new "
        "version.",
        request={"multipart/form-data": NewVersionSerializer},
        responses={201: LoraModulePageSerializer},
    )
    def post(self, request: Request, owner: str, name: str) -> Response:
        repo = _own(request, owner, name).repo
        data = _uploaded(request, NewVersionSerializer)
        return _page(request, _publish(repo, request.user, data), status=201)


class Liked(generics.GenericAPIView):
    """Whether you like a module."""

    serializer_class = LikeSerializer
    queryset = LoraModule.objects.none()

    @extend_schema(operation_id="module_like", summary="Like a module", request=None)
    def put(self, request: Request, owner: str, name: str) -> Response:
        return self._set(request, owner, name, True)

    @extend_schema(
        operation_id="module_unlike", summary="Like it no longer", responses=LikeSerializer
    )
    def delete(self, request: Request, owner: str, name: str) -> Response:
        return self._set(request, owner, name, False)

    def _set(self, request: Request, owner: str, name: str, wanted: bool) -> Response:
        module = _visible(request, owner, name)
        likes.set_like(module, request.user, wanted)
        return Response({"liked": wanted, "likes": module.likes})


def _visible(request: Request, owner: str, name: str) -> LoraModule:
    modules = LoraModule.objects.visible_to(request.user).named(owner, name)
    module: LoraModule = get_object_or_404(modules.for_page())
    return module


def _own(request: Request, owner: str, name: str) -> LoraModule:
    """To a stranger, a private module is not there; of a public one they are told whose it is."""
    module = _visible(request, owner, name)
    if not LoraModule.objects.editable_by(request.user).filter(pk=module.pk).exists():
        raise NotYours(f"{module} is {module.repo.owner.name}'s: only its owner may change it.")
    return module


def _uploaded(request: Request, serializer: type[NewVersionSerializer]) -> dict[str, Any]:
    """What was sent, read only as far as its sender may upload."""
    intake.check(request.user, [0])
    length = request.META.get("CONTENT_LENGTH") or ""
    most = intake.room(request.user).largest_upload + ENVELOPE
    if length.isdecimal() and int(length) > most:
        raise intake.OverLimit(
            f"This request has {file_size(int(length))}; you may upload {file_size(most)} now."
        )
    given = serializer(data=request.data)
    given.is_valid(raise_exception=True)
    data: dict[str, Any] = given.validated_data
    return data


def _namespace(user: User) -> Namespace:
    namespace: Namespace | None = getattr(user, "namespace", None)
    if namespace is None:
        raise NoName("A module stands under its owner's name, and you have none. Sign up first.")
    return namespace


def _publish(repo: Repo, user: User, data: Mapping[str, Any]) -> LoraModule:
    return services.publish_module(
        repo=repo, author=user, title=data.get("message", ""), additions=data["files"]
    )


def _page(request: Request, module: LoraModule, status: int = 200) -> Response:
    module = LoraModule.objects.for_page().get(pk=module.pk)
    data = LoraModulePageSerializer(module, context={"request": request}).data
    return Response(data, status=status, headers={"Location": data["url"]} if status == 201 else {})


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
    path("base-models/", BaseModelList.as_view(), name="api-base-models"),
]
