"""Tasks for programs."""

from typing import Any

from django.shortcuts import get_object_or_404
from django.urls import path, reverse
from drf_spectacular.utils import (
    OpenApiExample,
    extend_schema,
    extend_schema_view,
)
from rest_framework import generics, status
from rest_framework.request import Request
from rest_framework.response import Response

from composer import sharing, task_writing
from composer.models import FewShotTask
from composer.serializers import (
    TaskFilterSerializer,
    TaskSerializer,
    TaskSummarySerializer,
)

TASK_EXAMPLE = OpenApiExample(
    "Opposites",
    value={
        "name": "Opposites",
        "base_model": "lora-commons/wordsmith-t5",
        "template": "{input}",
        "examples": [{"input": "big", "target": "small"}, {"input": "hot", "target": "cold"}],
        "held_out": [{"input": "old", "target": "new"}],
    },
    request_only=True,
)


@extend_schema_view(
    get=extend_schema(
        summary="Your tasks and the demo tasks, or those that people share",
        parameters=[TaskFilterSerializer],
        responses=TaskSummarySerializer(many=True),
    ),
    post=extend_schema(
        summary="Write a task",
        request=TaskSerializer,
        responses={201: TaskSerializer},
        examples=[TASK_EXAMPLE],
    ),
)
class Tasks(generics.GenericAPIView):
    serializer_class = TaskSerializer
    queryset = FewShotTask.objects.none()

    def get_queryset(self) -> Any:
        given = TaskFilterSerializer(data=self.request.query_params)
        given.is_valid(raise_exception=True)
        filters = given.validated_data
        tasks = FewShotTask.objects
        if filters["public"]:
            found = tasks.listed()
        elif "owner" in filters:
            found = tasks.listed() | tasks.editable_by(self.request.user)
        else:
            found = tasks.demo() | tasks.editable_by(self.request.user)
        if "owner" in filters:
            found = found.of_owner(filters["owner"])
        if filters["sort"] == "used":
            return found.for_cards().most_used_first()
        return found.for_cards().order_by(
            "-published_at" if filters["public"] else "-created_at", "pk"
        )

    def get(self, request: Request) -> Response:
        page = self.paginate_queryset(self.get_queryset())
        return self.get_paginated_response(TaskSummarySerializer(page, many=True).data)

    def post(self, request: Request) -> Response:
        given = TaskSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        task = task_writing.create_task(user=request.user, **given.fields_for_service())
        place = reverse("api-task", args=[task.pk])
        return Response(TaskSerializer(task).data, status=201, headers={"Location": place})


@extend_schema_view(
    get=extend_schema(summary="One task with its examples"),
    put=extend_schema(summary="Write a task anew", examples=[TASK_EXAMPLE]),
    delete=extend_schema(summary="Delete a task", responses={204: None}),
)
class Task(generics.GenericAPIView):
    serializer_class = TaskSerializer
    queryset = FewShotTask.objects.none()

    def get(self, request: Request, pk: str) -> Response:
        task = get_object_or_404(FewShotTask.objects.visible_to(request.user), pk=pk)
        return Response(TaskSerializer(task).data)

    def put(self, request: Request, pk: str) -> Response:
        task = get_object_or_404(FewShotTask.objects.editable_by(request.user), pk=pk)
        given = TaskSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        task_writing.update_task(task, **given.fields_for_service())
        return Response(TaskSerializer(task).data)

    def delete(self, request: Request, pk: str) -> Response:
        task = get_object_or_404(FewShotTask.objects.editable_by(request.user), pk=pk)
        task_writing.delete_task(task)
        return Response(status=status.HTTP_204_NO_CONTENT)


@extend_schema_view(
    post=extend_schema(
        summary="Share a task with everybody", request=None, responses={200: TaskSerializer}
    ),
    delete=extend_schema(
        summary="Stop sharing a task: others keep what they composed from it or copied",
        responses={204: None},
    ),
)
class TaskSharing(generics.GenericAPIView):
    serializer_class = TaskSerializer
    queryset = FewShotTask.objects.none()

    def post(self, request: Request, pk: str) -> Response:
        task = get_object_or_404(FewShotTask.objects.editable_by(request.user), pk=pk)
        return Response(TaskSerializer(sharing.share(task, user=request.user)).data)

    def delete(self, request: Request, pk: str) -> Response:
        sharing.stop_sharing(
            get_object_or_404(FewShotTask.objects.editable_by(request.user), pk=pk)
        )
        return Response(status=status.HTTP_204_NO_CONTENT)


urlpatterns = [
    path("tasks/", Tasks.as_view(), name="api-tasks"),
    path("tasks/<uuid:pk>/", Task.as_view(), name="api-task"),
    path("tasks/<uuid:pk>/publish/", TaskSharing.as_view(), name="api-task-publish"),
]
