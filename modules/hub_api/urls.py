"""The addresses of the Hub's protocol. Before the pages': `/{owner}/{name}` takes what is left."""

from django.urls import path, re_path

from modules.hub_api import access, lfs, listing, pages, read, write, xet

REPO = "<owner:owner>/<repo:name>"
MODEL = f"api/models/{REPO}"
ACCESS = f"{MODEL}/user-access-request"
urlpatterns = [
    path("api/whoami-v2", read.whoami),
    path("api/validate-yaml", read.validate_yaml),
    path("api/agent-harnesses", read.noise),
    path("api/telemetry/<path:rest>", read.noise),
    path("v1/telemetry", read.noise),
    path("api/repos/create", write.create_repo),
    path("api/repos/delete", write.delete_repo),
    path("api/repos/move", write.move_repo),
    path("api/models", listing.models),
    path(MODEL, read.model_info, name="hub_model"),
    path(f"{MODEL}/revision/<path:revision>", read.model_info, name="hub_revision"),
    path(f"{MODEL}/tree/<path:rest>", read.tree, name="hub_tree"),
    path(f"{MODEL}/paths-info/<path:revision>", read.paths_info, name="hub_paths_info"),
    path(f"{MODEL}/refs", read.refs, name="hub_refs"),
    path(f"{MODEL}/commits/<path:revision>", read.commits, name="hub_commits"),
    path(f"{MODEL}/auth-check", read.auth_check, name="hub_auth_check"),
    path(f"{MODEL}/auth-check/<str:what>", read.auth_check, name="hub_auth_check_for"),
    path(f"{MODEL}/settings", write.repo_settings, name="hub_settings"),
    path(f"{ACCESS}/handle", access.handle, name="hub_access_handle"),
    path(f"{ACCESS}/grant", access.grant, name="hub_access_grant"),
    path(f"{ACCESS}/cancel", access.cancel, name="hub_access_cancel"),
    path(f"{ACCESS}/<str:state>", access.requests, name="hub_access_requests"),
    path(f"{MODEL}/branch/<path:ref>", write.branch, name="hub_branch"),
    path(f"{MODEL}/tag/<path:ref>", write.tag, name="hub_tag"),
    path(f"{MODEL}/preupload/<path:revision>", write.preupload, name="hub_preupload"),
    path(f"{MODEL}/commit/<path:revision>", write.commit, name="hub_commit"),
    path(f"{REPO}.git/info/lfs/objects/batch", lfs.batch, name="hub_lfs_batch"),
    path(f"{MODEL}/xet-write-token/<path:revision>", xet.write_token, name="hub_xet_token"),
    path("xet/v1/xorbs/default/<str:digest>", xet.xorb),
    path("xet/v1/shards", xet.shard),
    path("xet/<path:rest>", xet.nothing_here),
    path("lfs/<str:secret>", lfs.put),
    path("lfs/<str:secret>/verify", lfs.verify),
    path("lfs/<str:secret>/<int:number>", lfs.put_part),
    path(f"{REPO}/tree/<path:rest>", pages.page, name="hub_tree_page"),
    path(f"{REPO}/blob/<path:rest>", pages.page, name="hub_blob_page"),
    path(f"{REPO}/commit/<path:rest>", pages.page, name="hub_commit_page"),
    re_path(r"^api/(?!v1/)(?P<rest>.*)$", read.nothing_here),
    path("<repo:name>/resolve/<path:rest>", read.one_segment),
]
