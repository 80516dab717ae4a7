"""The library's addresses. The last ones take what is left: `/{owner}/{name}`, as on the Hub."""

from django.urls import path
from django.views.generic import RedirectView

from modules.community import collection_views
from modules.community import views as community_views
from modules.finding import tag_views, views
from modules.importing import views as import_views
from modules.on_hub import views as hub_views
from modules.repos import downloads, gate_views
from modules.repos import page as repo_page
from modules.upload import views as upload_views

app_name = "modules"
to_profile = RedirectView.as_view(pattern_name="modules:profile", query_string=True)
to_repo = RedirectView.as_view(pattern_name="modules:repo", query_string=True)
urlpatterns = [
    path("modules/", views.module_list, name="list"),
    path("tags/", tag_views.tag_list, name="tags"),
    path("tags/suggest", tag_views.suggest, name="tag_suggest"),
    path("tags/<path:name>/", tag_views.tag, name="tag"),
    path("collections/", collection_views.collection_list, name="collections"),
    path("collections/new/", collection_views.collection_new, name="collection_new"),
    path("collections/likes/", community_views.my_likes, name="likes"),
    path("collections/<owner:owner>/<repo:slug>/", collection_views.collection, name="collection"),
    path(
        "collections/<owner:owner>/<repo:slug>/edit/",
        collection_views.collection_edit,
        name="collection_edit",
    ),
    path(
        "collections/<owner:owner>/<repo:slug>/delete/",
        collection_views.collection_delete,
        name="collection_delete",
    ),
    path(
        "collections/<owner:owner>/<repo:slug>/items/<int:pk>/",
        collection_views.collection_item,
        name="collection_item",
    ),
    path("upload/", upload_views.upload, name="upload"),
    path("accounts/hugging-face/", hub_views.account, name="hub_account"),
    path("accounts/hugging-face/connect/", hub_views.connect, name="hub_connect"),
    path("accounts/hugging-face/disconnect/", hub_views.disconnect, name="hub_disconnect"),
    path("import/", import_views.import_page, name="import"),
    path("import/<uuid:batch>/", import_views.import_batch, name="import_batch"),
    path("import/<uuid:batch>/cancel/", import_views.import_cancel, name="import_cancel"),
    path("import/<uuid:batch>/again/", import_views.import_again, name="import_again"),
    path("<owner:owner>", views.profile, name="profile"),
    path("<owner:owner>/", to_profile),
    path("<owner:owner>/<repo:name>", repo_page.repo, name="repo"),
    path("<owner:owner>/<repo:name>/", to_repo),
    path("<owner:owner>/<repo:name>/upload", upload_views.new_version, name="new_version"),
    path("<owner:owner>/<repo:name>/commits", upload_views.commits, name="commits"),
    path("<owner:owner>/<repo:name>/settings", upload_views.settings, name="settings"),
    path(
        "<owner:owner>/<repo:name>/settings/visibility",
        upload_views.set_visibility,
        name="set_visibility",
    ),
    path("<owner:owner>/<repo:name>/settings/gate", upload_views.set_gate, name="set_gate"),
    path("<owner:owner>/<repo:name>/settings/access", gate_views.access, name="access"),
    path("<owner:owner>/<repo:name>/settings/access/grant", gate_views.grant, name="grant"),
    path("<owner:owner>/<repo:name>/settings/home", hub_views.home, name="home"),
    path("<owner:owner>/<repo:name>/settings/rename", upload_views.rename, name="rename"),
    path("<owner:owner>/<repo:name>/settings/delete", upload_views.delete, name="delete"),
    path("<owner:owner>/<repo:name>/ask-access", gate_views.ask_access, name="ask_access"),
    path(
        "<owner:owner>/<repo:name>/ask-access/withdraw",
        gate_views.withdraw_access,
        name="withdraw_access",
    ),
    path(
        "<owner:owner>/<repo:name>/settings/origin/look",
        import_views.origin_look,
        name="origin_look",
    ),
    path(
        "<owner:owner>/<repo:name>/settings/origin/follow",
        import_views.origin_follow,
        name="origin_follow",
    ),
    path("<owner:owner>/<repo:name>/like", community_views.like, name="like"),
    path("<owner:owner>/<repo:name>/collect", collection_views.collect, name="collect"),
    path("<owner:owner>/<repo:name>/report", community_views.report, name="report"),
    path("<owner:owner>/<repo:name>/download.zip", downloads.archive, name="archive"),
    path("<owner:owner>/<repo:name>/resolve/<path:rest>", downloads.resolve, name="resolve"),
]
