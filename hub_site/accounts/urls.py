"""Ours before allauth's: these addresses win over the same ones there."""

from django.urls import path

from hub_site.accounts import views

urlpatterns = [
    path("login/", views.LoginView.as_view(), name="account_login"),
    path("signup/", views.SignupView.as_view(), name="account_signup"),
    path("notices/", views.notice_list, name="account_notices"),
    path("notices/read/", views.notices_read, name="account_notices_read"),
    path("notices/<int:pk>/", views.notice, name="account_notice"),
    path("settings/", views.settings_page, name="account_settings"),
    path("tokens/", views.token_list, name="account_tokens"),
    path("tokens/<int:pk>/revoke/", views.token_revoke, name="account_token_revoke"),
]
