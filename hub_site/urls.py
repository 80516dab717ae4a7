"""Every address of the site. First segments of ours are reserved owner names (tests walk this)."""

from allauth.account.decorators import secure_admin_login
from django.contrib import admin
from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from hub_site import health, metrics, views
from hub_site.jobs.views import operate
from hub_site.search import search

# One door: the admin's own form would know nothing of limits on guessing.
admin.site.login = secure_admin_login(admin.site.login)  # type: ignore[method-assign]
# The script has an address of its own: the policy allows none in the page.
api_docs = SpectacularSwaggerSplitView.as_view(url_name="schema", template_name="api_docs.html")
urlpatterns = [
    path("", views.home, name="home"),
    path("search/", search, name="search"),
    path("healthz", health.healthz, name="healthz"),
    path("metrics", metrics.metrics, name="metrics"),
    path("operate/", operate, name="operate"),
    path("about/terms/", views.about, {"page": "terms"}, name="terms"),
    path("about/privacy/", views.about, {"page": "privacy"}, name="privacy"),
    path("about/takedown/", views.about, {"page": "takedown"}, name="takedown"),
    path("admin/", admin.site.urls),
    path("accounts/", include("hub_site.accounts.urls")),
    path("accounts/", include("allauth.account.urls")),
    path("accounts/3rdparty/", include("allauth.socialaccount.urls")),
    path("api/schema/", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs/", api_docs, name="api-docs"),
    path("api/v1/", include("modules.api.views")),
    path("api/v1/", include("composer.api")),
    path("", include("modules.hub_api.urls")),
    path("", include("composer.urls")),
    path("", include("modules.urls")),  # last: /{owner}/{name} takes what is left
]
handler400 = "hub_site.views.bad_request"
handler403 = "hub_site.views.forbidden"
handler404 = "hub_site.views.not_found"
handler429 = "hub_site.views.too_often"  # allauth looks for it here
handler500 = "hub_site.views.server_error"
