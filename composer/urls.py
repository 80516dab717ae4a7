"""Pages of tasks, jobs and recipes. Their first segments are reserved owner names."""

from django.urls import path, re_path

from composer.views import (
    compose,
    jobs,
    recipe_actions,
    recipes,
    sharing,
    tasks,
    weights,
)

app_name = "composer"

DIGEST = r"(?P<digest>[0-9a-f]{64})"

urlpatterns = [
    path("tasks/", tasks.tasks, name="tasks"),
    path("tasks/new/", tasks.task_new, name="task_new"),
    path("tasks/shared/", sharing.shared, name="shared"),
    path("tasks/preview/", tasks.task_preview, name="task_preview"),
    path("tasks/<uuid:pk>/", tasks.task, name="task"),
    path("tasks/<uuid:pk>/edit/", tasks.task_edit, name="task_edit"),
    path("tasks/<uuid:pk>/duplicate/", tasks.task_duplicate, name="task_duplicate"),
    path("tasks/<uuid:pk>/delete/", tasks.task_delete, name="task_delete"),
    path("tasks/<uuid:pk>/compose/", compose.task_compose, name="task_compose"),
    path("tasks/<uuid:pk>/share/", sharing.task_share, name="task_share"),
    path("tasks/<uuid:pk>/stop-sharing/", sharing.task_stop_sharing, name="task_stop_sharing"),
    path("tasks/<uuid:pk>/report/", sharing.task_report, name="task_report"),
    path("try/<slug:demo_key>/", compose.try_demo, name="try_demo"),
    path("jobs/<uuid:pk>/", jobs.job, name="job"),
    path("jobs/<uuid:pk>/cancel/", jobs.job_cancel, name="job_cancel"),
    path("jobs/<uuid:pk>/publish/", jobs.job_publish, name="job_publish"),
    path("jobs/<uuid:pk>/adapter.zip", jobs.job_adapter, name="job_adapter"),
    path("jobs/<uuid:pk>/try/", jobs.job_try, name="job_try"),
    path("jobs/<uuid:pk>/weights/", weights.job_weigh, name="job_weigh"),
    path("recipes/", recipes.recipes, name="recipes"),
    path("recipes/import/", recipe_actions.recipe_import_page, name="recipe_import"),
    re_path(rf"^recipes/{DIGEST}/$", recipes.recipe, name="recipe"),
    re_path(rf"^recipes/{DIGEST}/hub$", recipes.recipe_hub, name="recipe_hub"),
    re_path(rf"^recipes/{DIGEST}/verify$", recipe_actions.recipe_verify, name="recipe_verify"),
    re_path(rf"^recipes/{DIGEST}/like$", recipe_actions.recipe_like, name="recipe_like"),
    re_path(
        rf"^recipes/{DIGEST}/remove$",
        recipe_actions.recipe_import_remove,
        name="recipe_import_remove",
    ),
    re_path(rf"^recipes/{DIGEST}/recipe\.json$", recipes.recipe_json, name="recipe_json"),
    re_path(rf"^recipes/{DIGEST}/adapter\.zip$", recipes.recipe_adapter, name="recipe_adapter"),
]
