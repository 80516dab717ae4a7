"""To look at. Jobs change only through `queue.py`, so the admin changes nothing but cancels."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from hub_site.jobs import queue
from hub_site.jobs.models import Job, JobEvent, Worker


class _ReadOnly:
    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class EventInline(_ReadOnly, admin.TabularInline):
    model = JobEvent
    fields = ["at", "fence", "name", "detail"]


@admin.register(Job)
class JobAdmin(_ReadOnly, admin.ModelAdmin):
    list_display = ["id", "kind", "state", "user", "priority", "attempts", "crashes", "created_at"]
    list_filter = ["state", "kind"]
    list_select_related = ["user"]
    inlines = [EventInline]
    actions = ["cancel"]

    @admin.action(description="Cancel", permissions=["cancel"])
    def cancel(self, request: HttpRequest, jobs: QuerySet[Job]) -> None:
        for job in jobs:
            queue.request_cancel(job)

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("jobs.change_job")


@admin.register(Worker)
class WorkerAdmin(_ReadOnly, admin.ModelAdmin):
    list_display = ["name", "host", "pid", "device", "started_at", "seen_at"]
