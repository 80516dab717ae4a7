"""Pages of tasks, jobs and recipes. Their first segments are reserved owner names."""

from django.urls import path, re_path

from composer import views

app_name = "composer"

DIGEST = r"(?P<digest>[0-9a-f]{64})"

urlpatterns = [
    path("tasks/", views.tasks, name="tasks"),
    path("tasks/new/", views.task_new, name="task_new"),
    path("tasks/<uuid:pk>/", views.task, name="task"),
    path("tasks/<uuid:pk>/edit/", views.task_edit, name="task_edit"),
    path("tasks/<uuid:pk>/duplicate/", views.task_duplicate, name="task_duplicate"),
    path("tasks/<uuid:pk>/delete/", views.task_delete, name="task_delete"),
    path("tasks/<uuid:pk>/compose/", views.task_compose, name="task_compose"),
    path("try/<slug:demo_key>/", views.try_demo, name="try_demo"),
    path("jobs/<uuid:pk>/", views.job, name="job"),
    path("jobs/<uuid:pk>/cancel/", views.job_cancel, name="job_cancel"),
    path("jobs/<uuid:pk>/publish/", views.job_publish, name="job_publish"),
    path("jobs/<uuid:pk>/adapter.zip", views.job_adapter, name="job_adapter"),
    path("jobs/<uuid:pk>/try/", views.job_try, name="job_try"),
    path("recipes/", views.recipes, name="recipes"),
    re_path(rf"^recipes/{DIGEST}/$", views.recipe, name="recipe"),
    re_path(rf"^recipes/{DIGEST}/recipe\.json$", views.recipe_json, name="recipe_json"),
    re_path(rf"^recipes/{DIGEST}/adapter\.zip$", views.recipe_adapter, name="recipe_adapter"),
]
