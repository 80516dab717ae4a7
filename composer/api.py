"""Tasks, jobs and recipes for programs: the same querysets, services and limits as the pages."""

from composer import jobs_api, recipes_api, tasks_api

urlpatterns = [*tasks_api.urlpatterns, *jobs_api.urlpatterns, *recipes_api.urlpatterns]
