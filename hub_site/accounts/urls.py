"""Ours before allauth's: these addresses win over the same ones there."""

from allauth.account import views as allauth_views
from allauth.socialaccount.providers.openid_connect import views as oidc
from django.urls import path

from hub_site.accounts import own_views, views
from hub_site.accounts.views import account_only, when_reachable

urlpatterns = [
    path("login/", views.LoginView.as_view(), name="account_login"),
    path("signup/", views.SignupView.as_view(), name="account_signup"),
    path("email/", account_only(allauth_views.email), name="account_email"),
    path(
        "confirm-email/<str:key>/", views.ConfirmEmailView.as_view(), name="account_confirm_email"
    ),
    path(
        "password/change/",
        account_only(allauth_views.password_change),
        name="account_change_password",
    ),
    path("password/set/", account_only(allauth_views.password_set), name="account_set_password"),
    path(
        "reauthenticate/", account_only(allauth_views.reauthenticate), name="account_reauthenticate"
    ),
    path("oidc/<str:provider_id>/login/", when_reachable(oidc.login), name="openid_connect_login"),
    path(
        "oidc/<str:provider_id>/login/callback/",
        when_reachable(oidc.callback),
        name="openid_connect_callback",
    ),
    path("3rdparty/", views.connections, name="socialaccount_connections"),
    path("3rdparty/signup/", views.SocialSignupView.as_view(), name="socialaccount_signup"),
    path("notices/", own_views.notice_list, name="account_notices"),
    path("notices/read/", own_views.notices_read, name="account_notices_read"),
    path("notices/<int:pk>/", own_views.notice, name="account_notice"),
    path("settings/", own_views.settings_page, name="account_settings"),
    path("export/", own_views.export_account, name="account_export"),
    path("delete/", own_views.delete_account, name="account_delete"),
    path("tokens/", own_views.token_list, name="account_tokens"),
    path("tokens/<int:pk>/revoke/", own_views.token_revoke, name="account_token_revoke"),
]
