"""What authors' programs do: upload, add versions, change, delete, like. The pages' own services
decide what is accepted; here it is only read from a request and answered as JSON."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import transaction
from django.http import QueryDict
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema
from rest_framework import generics, parsers, serializers
from rest_framework.request import Request
from rest_framework.response import Response

from composer.engine.errors import CommonsError
from hub_site.accounts.models import User
from modules import cards, services
from modules.api.serializers import (
    LikeSerializer,
    LoraModulePageSerializer,
    ModuleChangeSerializer,
    NewModuleSerializer,
    NewVersionSerializer,
    UploadedSerializer,
    VersionSerializer,
)
from modules.community import likes
from modules.models import LoraModule, Repo
from modules.on_hub import keeping
from modules.repos import gate, ownership
from modules.upload import intake, receiving, staging
from modules.upload.forms import EditForm
from modules.upload.views import ENVELOPE

CARD_FIELDS = ("description", "tags", "task", "licence", "language")


class NotYours(CommonsError):
    code = "not_yours"
    status = 403


class NoAccount(CommonsError):
    code = "no_account"
    status = 403


# --- what all of it needs ----------------------------------------------------------------------


def visible(request: Request, owner: str, name: str) -> LoraModule:
    modules = LoraModule.objects.visible_to(request.user).named(owner, name)
    module: LoraModule = get_object_or_404(modules.for_page())
    return module


def own(request: Request, owner: str, name: str) -> LoraModule:
    """To a stranger, a private module is not there; of a public one they are told whose it is."""
    module = visible(request, owner, name)
    if not LoraModule.objects.editable_by(request.user).filter(pk=module.pk).exists():
        raise NotYours(f"{module} is {module.repo.owner.name}'s: only its owner may change it.")
    return module


def page(request: Request, module: LoraModule) -> Response:
    module = get_object_or_404(LoraModule.objects.for_page(), pk=module.pk)
    return Response(LoraModulePageSerializer(module, context={"request": request}).data)


def need_account(user: User) -> None:
    if user.is_guest or not hasattr(user, "namespace"):
        raise NoAccount("This needs an account with a name of its own. Sign up first.")


class TakesFiles(generics.GenericAPIView):
    """The body goes into nameless files, and is not read at all when it is too long."""

    parser_classes = [parsers.MultiPartParser]
    counts_as = {"POST": "upload"}

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        plain = request._request
        if plain.method == "POST":
            length = plain.META.get("CONTENT_LENGTH") or "0"
            if length.isdecimal() and int(length) > settings.MAX_MODULE_BYTES + ENVELOPE:
                intake.check_module_size(int(length))
            plain.upload_handlers = [receiving.NamelessFiles(plain)]
        super().initial(request, *args, **kwargs)

    def read(self, request: Request, serializer: type[NewVersionSerializer]) -> dict[str, Any]:
        need_account(request.user)
        intake.check(request.user)
        given = serializer(data=request.data)
        given.is_valid(raise_exception=True)
        data: dict[str, Any] = given.validated_data
        return data


def _stage(request: Request, data: dict[str, Any], repo: Repo | None = None) -> staging.Staged:
    staged = staging.find(staging.stage(request.user, data["files"], repo), request.user, repo)
    assert staged is not None  # it was signed a moment ago
    return staged


def _uploaded(request: Request, module: LoraModule, staged: staging.Staged) -> Response:
    module = LoraModule.objects.for_page().get(pk=module.pk)
    module.left_out = staged.left_out
    data = UploadedSerializer(module, context={"request": request}).data
    return Response(data, status=201, headers={"Location": data["url"]})


# --- modules -----------------------------------------------------------------------------------


class CreatesModules(TakesFiles):
    @extend_schema(
        operation_id="modules_create",
        summary="Upload a module",
        request={"multipart/form-data": NewModuleSerializer},
        responses={201: UploadedSerializer},
    )
    def post(self, request: Request) -> Response:
        data = self.read(request, NewModuleSerializer)
        services.check_free(request.user.namespace, data["name"])
        staged = _stage(request, data)
        module = staging.publish(
            user=request.user,
            staged=staged,
            name=data["name"],
            visibility=data["visibility"],
            facts=cards.Facts(),
            message=data["message"],
            place=data.get("place", ""),
        )
        return _uploaded(request, module, staged)


class ChangesModules(generics.GenericAPIView):
    @extend_schema(
        operation_id="modules_update",
        summary="Change a module",
        description="What the card says of a module (description, tags, task, licence, language, "
        "card) is written into its README.md, as a new version. All of it is done, or nothing.",
        request=ModuleChangeSerializer,
        responses=LoraModulePageSerializer,
    )
    def patch(self, request: Request, owner: str, name: str) -> Response:
        module = own(request, owner, name)
        given = ModuleChangeSerializer(data=request.data, partial=True)
        given.is_valid(raise_exception=True)
        data = given.validated_data
        with transaction.atomic():
            _edit_card(request.user, module, data)
            if data.get("gated", module.repo.gated) != module.repo.gated:
                gate.set_gate(module.repo, data["gated"])
            if "place" in data:
                keeping.choose(module.repo, data["place"])
            if data.get("visibility", module.repo.visibility) != module.repo.visibility:
                ownership.set_visibility(module.repo, data["visibility"])
            if data.get("name", module.repo.name) != module.repo.name:
                ownership.rename(module.repo, data["name"])
        return page(request, module)

    @extend_schema(
        operation_id="modules_delete",
        summary="Delete a module",
        description="With all its versions. Recipes that use it keep its name and hashes.",
        responses={204: None},
    )
    def delete(self, request: Request, owner: str, name: str) -> Response:
        ownership.delete(own(request, owner, name).repo)
        return Response(status=204)


def _edit_card(user: User, module: LoraModule, data: dict[str, Any]) -> None:
    """Through the form of the settings page, filled with what was not sent."""
    sent = {name: data[name] for name in CARD_FIELDS if name in data}
    if not sent and "card" not in data:
        return
    text = ownership.card_text(module.commit)
    blank = EditForm(card=cards.read(text.encode()), text=text)
    filled = QueryDict(mutable=True)
    for name, value in (blank.initial | sent | {"body": data.get("card", "")}).items():
        filled[name] = ", ".join(value) if isinstance(value, list | tuple) else value
    form = EditForm(filled, card=cards.read(text.encode()), text=text)
    if not form.is_valid():
        raise serializers.ValidationError(
            {"card" if name == "body" else name: found for name, found in form.errors.items()}
        )
    ownership.edit_card(
        user=user,
        repo=module.repo,
        changes=form.changes,
        body=data.get("card"),
        parent=module.commit.sha,
    )


# --- versions ----------------------------------------------------------------------------------


class Versions(TakesFiles):
    """Every version of a module, newest first; each stays downloadable."""

    serializer_class = VersionSerializer
    queryset = LoraModule.objects.none()

    @extend_schema(operation_id="module_versions_list", responses=VersionSerializer(many=True))
    def get(self, request: Request, owner: str, name: str) -> Response:
        repo = visible(request, owner, name).repo
        rows = self.paginate_queryset(repo.commits.select_related("author"))
        context = {"request": request, "repo": repo}
        return self.get_paginated_response(VersionSerializer(rows, many=True, context=context).data)

    @extend_schema(
        operation_id="module_versions_create",
        summary="Upload a new version",
        description="Files that are not sent stay as they are. The same files again make no new "
        "version.",
        request={"multipart/form-data": NewVersionSerializer},
        responses={201: UploadedSerializer},
    )
    def post(self, request: Request, owner: str, name: str) -> Response:
        repo = own(request, owner, name).repo
        data = self.read(request, NewVersionSerializer)
        staged = _stage(request, data, repo)
        module = staging.add_version(
            user=request.user,
            staged=staged,
            repo=repo,
            facts=cards.Facts(),
            message=data["message"],
        )
        return _uploaded(request, module, staged)


# --- likes -------------------------------------------------------------------------------------


class Liked(generics.GenericAPIView):
    serializer_class = LikeSerializer
    queryset = LoraModule.objects.none()

    @extend_schema(operation_id="module_like", summary="Like a module", request=None)
    def put(self, request: Request, owner: str, name: str) -> Response:
        return self._set(request, owner, name, True)

    @extend_schema(
        operation_id="module_unlike", summary="Like it no longer", responses={200: LikeSerializer}
    )
    def delete(self, request: Request, owner: str, name: str) -> Response:
        return self._set(request, owner, name, False)

    def _set(self, request: Request, owner: str, name: str, wanted: bool) -> Response:
        module = visible(request, owner, name)
        need_account(request.user)
        likes.of_modules.set(module, request.user, wanted)
        return Response({"liked": wanted, "likes": module.likes})
