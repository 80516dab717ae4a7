"""The library's addresses. The last ones take what is left: `/{owner}/{name}`, as on the Hub."""

from django.urls import path, register_converter
from django.views.generic import RedirectView

from modules import converters, downloads, upload_views, views

register_converter(converters.Owner, "owner")
register_converter(converters.RepoName, "repo")

app_name = "modules"
to_profile = RedirectView.as_view(pattern_name="modules:profile", query_string=True)
to_repo = RedirectView.as_view(pattern_name="modules:repo", query_string=True)
urlpatterns = [
    path("modules/", views.module_list, name="list"),
    path("upload/", upload_views.upload, name="upload"),
    path("<owner:owner>", views.profile, name="profile"),
    path("<owner:owner>/", to_profile),
    path("<owner:owner>/<repo:name>", views.repo, name="repo"),
    path("<owner:owner>/<repo:name>/", to_repo),
    path("<owner:owner>/<repo:name>/upload", upload_views.new_version, name="new_version"),
    path("<owner:owner>/<repo:name>/commits", upload_views.commits, name="commits"),
    path("<owner:owner>/<repo:name>/settings", upload_views.settings, name="settings"),
    path(
        "<owner:owner>/<repo:name>/settings/visibility",
        upload_views.set_visibility,
        name="set_visibility",
    ),
    path("<owner:owner>/<repo:name>/settings/rename", upload_views.rename, name="rename"),
    path("<owner:owner>/<repo:name>/settings/delete", upload_views.delete, name="delete"),
    path("<owner:owner>/<repo:name>/download.zip", downloads.archive, name="archive"),
    path("<owner:owner>/<repo:name>/resolve/<path:rest>", downloads.resolve, name="resolve"),
]
