"""Jobs for programs: submit one, follow it, and have what it found."""

from typing import Any

from django.http import HttpResponseBase
from django.shortcuts import get_object_or_404
from django.urls import path, reverse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import (
    OpenApiExample,
    OpenApiParameter,
    OpenApiResponse,
    extend_schema,
    extend_schema_view,
)
from rest_framework import generics, serializers, status
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.settings import api_settings

from composer import publishing, services, verifications
from composer.downloads import adapter_zip
from composer.models import FewShotTask, Recipe, Search
from composer.module_choice import ModuleChoice, left_out
from composer.serializers import (
    JobSerializer,
    JobSummarySerializer,
    NewJobSerializer,
    PublishSerializer,
    RecipeSerializer,
    TrialSerializer,
    job_document,
)
from hub_site.accounts.models import User
from hub_site.jobs.models import Job
from modules.models import Collection, LoraModule

OWN_WRITE = [*api_settings.DEFAULT_PERMISSION_CLASSES]
OWN_ONLY = [*OWN_WRITE, IsAuthenticated]
JOB_EXAMPLE = OpenApiExample(
    "Ten modules drawn at random",
    value={
        "task": "6d1c0b0e-7a55-4e0f-9f0e-5a3e8a1c2b3d",
        "preset": "recommended",
        "modules": {"how": "random", "count": 10, "seed": 1},
        "settings": {"budget": 200, "seed": 0},
    },
    request_only=True,
)
IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    str,
    OpenApiParameter.HEADER,
    description="A text of your choice. Sent again, it returns the job that it made first.",
)
# What people ask for themselves; a verification's id stands in its own answer.
KINDS = (services.COMPOSE, services.PREDICT, services.WEIGH, verifications.VERIFY)
ZIP = {(200, "application/zip"): OpenApiTypes.BINARY}


def _own_jobs(request: Request) -> Any:
    jobs = Job.objects.filter(user=request.user, kind__in=KINDS)
    return jobs.select_related("search").order_by("-created_at")


def _own_search(request: Request, pk: str) -> Search:
    searches = Search.objects.visible_to(request.user)
    return get_object_or_404(searches.select_related("job", "base_model", "recipe"), pk=pk)


def _accepted(job: Job) -> Response:
    place = reverse("api-job", args=[job.pk])
    data = JobSerializer(job_document(job)).data
    return Response(data, status=status.HTTP_202_ACCEPTED, headers={"Location": place})


def key_of(request: Request) -> str | None:
    key = request.headers.get("Idempotency-Key", "").strip()
    if len(key) > 200:
        raise serializers.ValidationError(
            {"Idempotency-Key": [f"It has {len(key)} characters; 200 fit."]}
        )
    if "\0" in key:
        raise serializers.ValidationError({"Idempotency-Key": ["It must be text."]})
    return key or None


@extend_schema_view(
    get=extend_schema(summary="Your jobs", responses=JobSummarySerializer(many=True)),
    post=extend_schema(
        summary="Compose: queue a search",
        request=NewJobSerializer,
        responses={202: JobSerializer},
        parameters=[IDEMPOTENCY_KEY],
        examples=[JOB_EXAMPLE],
    ),
)
class Jobs(generics.GenericAPIView):
    permission_classes = OWN_ONLY
    serializer_class = JobSerializer
    queryset = Job.objects.none()
    counts_as = {"POST": "submit"}

    def get(self, request: Request) -> Response:
        page = self.paginate_queryset(_own_jobs(request))
        rows = [job_document(job, whole=False) for job in page]
        return self.get_paginated_response(JobSummarySerializer(rows, many=True).data)

    def post(self, request: Request) -> Response:
        given = NewJobSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        data = given.validated_data
        task = FewShotTask.objects.visible_to(request.user).filter(pk=data["task"]).first()
        if task is None:
            raise serializers.ValidationError({"task": ["You have no task with this id."]})
        choice = _choice(request, data["modules"]) if "modules" in data else None
        job = services.submit_job(
            task=task,
            user=request.user,
            preset=data["preset"],
            modules=choice,
            overrides=data.get("settings"),
            test_folds=data["test_folds"],
            idempotency_key=key_of(request),
        )
        answer = _accepted(job)
        answer.data["left_out"] = _left_out(choice, task, job.search, request.user)
        return answer


def _choice(request: Request, data: dict[str, Any]) -> ModuleChoice:
    found = []
    for name in data["modules"]:
        owner, _, repo = name.partition("/")
        module = LoraModule.objects.visible_to(request.user).named(owner, repo).first()
        if module is None:
            raise serializers.ValidationError({"modules": [f"There is no module {name!r}."]})
        found.append(module)
    collection = _collection(request, data) if data["how"] == "collection" else None
    how, tag = data["how"], data.get("tag", "")
    return ModuleChoice(how, data["count"], data["seed"], tuple(found), collection, tag)


def _collection(request: Request, data: dict[str, Any]) -> Collection:
    name = data.get("collection", "")
    owner, _, slug = name.partition("/")
    found = Collection.objects.visible_to(request.user).named(owner, slug).first()
    if found is None:
        raise serializers.ValidationError({"collection": [f"There is no collection {name!r}."]})
    return found


def _left_out(
    choice: ModuleChoice | None, task: FewShotTask, search: Search, user: User
) -> list[dict[str, str]]:
    """Of a collection: which modules a search does without, and why."""
    if choice is None or choice.collection is None:
        return []
    combination = search.spec["combination"]
    found = left_out(choice.collection, task.base_model, user, combination)
    return [{"module": str(fit.lora_module), "reason": fit.reason} for fit in found]


@extend_schema_view(get=extend_schema(summary="How a job stands, and what it found"))
class OneJob(generics.GenericAPIView):
    permission_classes = OWN_ONLY
    serializer_class = JobSerializer
    queryset = Job.objects.none()

    def get(self, request: Request, pk: str) -> Response:
        job = get_object_or_404(_own_jobs(request), pk=pk)
        return Response(JobSerializer(job_document(job)).data)


@extend_schema_view(
    post=extend_schema(summary="Cancel a job", request=None, responses=JobSerializer)
)
class CancelJob(generics.GenericAPIView):
    permission_classes = OWN_ONLY
    serializer_class = JobSerializer
    queryset = Job.objects.none()

    def post(self, request: Request, pk: str) -> Response:
        job = get_object_or_404(_own_jobs(request), pk=pk)
        services.cancel_job(job)
        job = _own_jobs(request).get(pk=pk)
        return Response(JobSerializer(job_document(job)).data)


@extend_schema_view(
    post=extend_schema(
        summary="Publish what a job found",
        request=PublishSerializer,
        responses={201: RecipeSerializer},
    )
)
class PublishJob(generics.GenericAPIView):
    permission_classes = OWN_ONLY
    serializer_class = PublishSerializer
    queryset = Job.objects.none()

    def post(self, request: Request, pk: str) -> Response:
        search = _own_search(request, pk)
        given = PublishSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        fields = dict(given.validated_data)
        if digest := fields.pop("version_of", None):
            fields["version_of"] = Recipe.objects.published().filter(pk=digest).first()
            if fields["version_of"] is None:
                raise serializers.ValidationError({"version_of": ["There is no such recipe."]})
        recipe = publishing.publish(search=search, user=request.user, **fields)
        place = reverse("api-recipe", args=[recipe.digest])
        return Response(RecipeSerializer(recipe).data, status=201, headers={"Location": place})


@extend_schema_view(
    post=extend_schema(
        summary="Try a finished job's adapter on one input",
        request=TrialSerializer,
        responses={202: JobSerializer},
        parameters=[IDEMPOTENCY_KEY],
    )
)
class TryJob(generics.GenericAPIView):
    permission_classes = OWN_ONLY
    serializer_class = TrialSerializer
    queryset = Job.objects.none()
    counts_as = {"POST": "submit"}

    def post(self, request: Request, pk: str) -> Response:
        search = _own_search(request, pk)
        given = TrialSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        job = services.submit_trial(
            search=search,
            user=request.user,
            given=given.validated_data["input"],
            idempotency_key=key_of(request),
        )
        return _accepted(job)


@extend_schema_view(
    get=extend_schema(
        summary="The composed adapter: a PEFT folder as a zip",
        responses={**ZIP, 409: OpenApiResponse(description="The search has not finished.")},
    )
)
class JobAdapter(generics.GenericAPIView):
    permission_classes = OWN_ONLY
    queryset = Job.objects.none()

    def get(self, request: Request, pk: str) -> HttpResponseBase:
        search = _own_search(request, pk)
        return adapter_zip(request, services.finished_recipe(search), search)


urlpatterns = [
    path("jobs/", Jobs.as_view(), name="api-jobs"),
    path("jobs/<uuid:pk>/", OneJob.as_view(), name="api-job"),
    path("jobs/<uuid:pk>/cancel/", CancelJob.as_view(), name="api-job-cancel"),
    path("jobs/<uuid:pk>/publish/", PublishJob.as_view(), name="api-job-publish"),
    path("jobs/<uuid:pk>/try/", TryJob.as_view(), name="api-job-try"),
    path("jobs/<uuid:pk>/adapter.zip", JobAdapter.as_view(), name="api-job-adapter"),
]
