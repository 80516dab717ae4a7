"""Settings come from the environment, once; `.env.example` names each variable with its reason."""

from pathlib import Path

from hub_site import embedded, production
from hub_site.env import (
    BadSetting,
    env_bool,
    env_choice,
    env_int,
    env_list,
    env_rate,
    env_secret,
    env_str,
    env_url,
    read_env_file,
    with_password,
)

BASE_DIR = Path(__file__).resolve().parent.parent
read_env_file(Path(env_str("ENV_FILE", str(BASE_DIR / ".env"))))
VAR_DIR = Path(env_str("VAR_DIR", str(BASE_DIR / "var"))).resolve()

PRODUCTION = production.is_production()
if PRODUCTION:
    production.check()
DEBUG = env_bool("DEBUG", False)
SECRET_KEY = env_secret("SECRET_KEY") or embedded.secret_key(VAR_DIR)
ALLOWED_HOSTS = env_list("ALLOWED_HOSTS", ["127.0.0.1", "localhost", "[::1]"])
CSRF_TRUSTED_ORIGINS = env_list("CSRF_TRUSTED_ORIGINS", [])
SITE_URL = env_url("SITE_URL")

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "allauth",
    "allauth.account",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.openid_connect",
    "django_htmx",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "rest_framework",
    "hub_site",
    "hub_site.accounts",
    "hub_site.jobs",
    "modules",
    "composer",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "hub_site.headers.SecurityHeadersMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "hub_site.errors.OddRequestMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "hub_site.errors.CommonsErrorMiddleware",
    "modules.repos.addresses.MovedRepos",
]

ROOT_URLCONF = "hub_site.urls"
WSGI_APPLICATION = "hub_site.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "hub_site.accounts.notices.in_every_page",
            ],
            "builtins": ["hub_site.templatetags.commons"],
        },
    },
]

DATABASES = {"default": embedded.database_settings(VAR_DIR)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- people ------------------------------------------------------------------------------------
AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "allauth.account.auth_backends.AuthenticationBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
ACCOUNT_ADAPTER = "hub_site.accounts.adapter.AccountAdapter"
ACCOUNT_LOGIN_METHODS = {"username", "email"}
ACCOUNT_EMAIL_VERIFICATION = env_choice("EMAIL_CONFIRMATION", "optional", ["optional", "mandatory"])
ACCOUNT_SIGNUP_FIELDS = [
    "username*",
    "email*" if ACCOUNT_EMAIL_VERIFICATION == "mandatory" else "email",
    "password1*",
]
ACCOUNT_CHANGE_EMAIL = True  # one address; a new one replaces it once it is confirmed
ACCOUNT_EMAIL_NOTIFICATIONS = True
ACCOUNT_REAUTHENTICATION_REQUIRED = True  # an open session is not enough to change a way in
ACCOUNT_EMAIL_UNKNOWN_ACCOUNTS = False  # no mail to strangers
ACCOUNT_PREVENT_ENUMERATION = "strict"  # docs/decisions/0011-who-has-an-account.md
ACCOUNT_EMAIL_SUBJECT_PREFIX = "LoRA Commons: "
REGISTRATION_OPEN = env_choice("REGISTRATION", "open", ["open", "closed"]) == "open"
GUESTS = env_bool("GUESTS", True)
ACCOUNT_FORMS = {
    "login": "hub_site.accounts.forms.LoginForm",
    "signup": "hub_site.accounts.forms.SignupForm",
    "add_email": "hub_site.accounts.forms.AddEmailForm",
    "change_password": "hub_site.accounts.forms.ChangePasswordForm",
    "set_password": "hub_site.accounts.forms.SetPasswordForm",
    "reset_password": "hub_site.accounts.forms.ResetPasswordForm",
    "reset_password_from_key": "hub_site.accounts.forms.ResetPasswordKeyForm",
    "reauthenticate": "hub_site.accounts.forms.ReauthenticateForm",
}
SOCIALACCOUNT_FORMS = {"signup": "hub_site.accounts.forms.SocialSignupForm"}
ACCOUNT_LOGOUT_ON_GET = False
ACCOUNT_AUTHENTICATED_LOGIN_REDIRECTS = False  # guests may come in: accounts/views.py
ACCOUNT_PRESERVE_USERNAME_CASING = True
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "home"
ACCOUNT_LOGOUT_REDIRECT_URL = "home"

# --- the Hugging Face Hub ----------------------------------------------------------------------
# Never by the variable that its clients read: this process may be a Hub itself and use another.
HUB_ENDPOINT = env_str("HUB_ENDPOINT", "https://huggingface.co").rstrip("/")
HUB_TIMEOUT_SECONDS = env_int("HUB_TIMEOUT_SECONDS", 60, minimum=1)
# The first pause before the Hub is tried once more; each is four times the last.
HUB_RETRY_SECONDS = env_int("HUB_RETRY_MS", 2_000) / 1000
HF_TOKEN = env_secret("HF_TOKEN")
HF_ORGANISATION = env_str("HF_ORGANISATION")
MODULES_LIVE_ON = env_choice("MODULES_LIVE_ON", "site", ["site", "hub"])
if MODULES_LIVE_ON == "hub" and not HF_TOKEN:
    raise BadSetting("MODULES_LIVE_ON is hub, which needs HF_TOKEN. Set it, or leave both out.")
# What `add_base_model --hub` takes at most; every worker that uses the model downloads it.
BASE_MODEL_MAX_BYTES = env_int("BASE_MODEL_MAX_BYTES", 20_000_000_000)
# Weights that the Hub keeps stay here this long, too, since they came or were last fetched.
HUB_CACHE_DAYS = env_int("HUB_CACHE_DAYS", 7)

# Signing in with a Hugging Face account, when an OAuth app of the Hub is named.
SOCIALACCOUNT_ADAPTER = "hub_site.accounts.adapter.SocialAccountAdapter"
HF_OAUTH_CLIENT_ID = env_str("HF_OAUTH_CLIENT_ID")
HF_OAUTH_CLIENT_SECRET = env_secret("HF_OAUTH_CLIENT_SECRET")
if bool(HF_OAUTH_CLIENT_ID) != bool(HF_OAUTH_CLIENT_SECRET):
    raise BadSetting("Set both HF_OAUTH_CLIENT_ID and HF_OAUTH_CLIENT_SECRET, or neither.")
HUGGING_FACE = {
    "provider_id": "huggingface",
    "name": "Hugging Face",
    "client_id": HF_OAUTH_CLIENT_ID,
    "secret": HF_OAUTH_CLIENT_SECRET,
    "settings": {"server_url": HUB_ENDPOINT},
}
SOCIALACCOUNT_PROVIDERS = {"openid_connect": {"APPS": [HUGGING_FACE] if HF_OAUTH_CLIENT_ID else []}}

EMAIL_HOST = env_str("EMAIL_HOST")
# Mails hold links that let people in: where others read the log, none is printed there.
WITHOUT_HOST = "dummy" if PRODUCTION else "console"
EMAIL_BACKEND = env_str(
    "EMAIL_BACKEND",
    f"django.core.mail.backends.{'smtp' if EMAIL_HOST else WITHOUT_HOST}.EmailBackend",
)
EMAIL_TLS = env_choice("EMAIL_TLS", "starttls", ["starttls", "ssl", "off"])
EMAIL_USE_TLS, EMAIL_USE_SSL = EMAIL_TLS == "starttls", EMAIL_TLS == "ssl"
EMAIL_PORT = env_int("EMAIL_PORT", {"starttls": 587, "ssl": 465, "off": 25}[EMAIL_TLS])
EMAIL_HOST_USER = env_str("EMAIL_USER")
EMAIL_HOST_PASSWORD = env_secret("EMAIL_PASSWORD")
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = env_str("DEFAULT_FROM_EMAIL", "commons@localhost")

# --- TLS and headers ---------------------------------------------------------------------------
SECURE_COOKIES = env_bool("SECURE_COOKIES", PRODUCTION)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_COOKIES
if SECURE_COOKIES:  # a browser takes these names only over https, and from no neighbour's host
    SESSION_COOKIE_NAME, CSRF_COOKIE_NAME = "__Host-sessionid", "__Host-csrftoken"
BEHIND_TLS_PROXY = env_bool("BEHIND_TLS_PROXY", False)
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if BEHIND_TLS_PROXY else None
# Limits count by the visitor's address, not by the proxy's.
ALLAUTH_TRUSTED_PROXY_COUNT = int(BEHIND_TLS_PROXY)
SECURE_SSL_REDIRECT = env_bool("TLS_REDIRECT", PRODUCTION)
# Asked for by the machine itself and by what watches it, without TLS.
SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^metrics$"]
SECURE_HSTS_SECONDS = env_int("HSTS_SECONDS", 31_536_000 if PRODUCTION else 0)
SECURE_HSTS_INCLUDE_SUBDOMAINS = env_bool("HSTS_SUBDOMAINS", PRODUCTION)
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
# Preloading binds a whole domain for years, in a list that only its owner may ask to be put in.
SILENCED_SYSTEM_CHECKS = ["security.W021"]
# What an operator has chosen with open eyes is no news to them.
if not SECURE_HSTS_INCLUDE_SUBDOMAINS:
    SILENCED_SYSTEM_CHECKS += ["security.W005"]
if not SECURE_SSL_REDIRECT:
    SILENCED_SYSTEM_CHECKS += ["security.W008"]

# --- how often ---------------------------------------------------------------------------------
# So many at once, and then one more each time that its part of the time has passed. By account for
# who is signed in, by address for everybody else (hub_site/throttles.py).
THROTTLES = {
    "sign_in": env_rate("THROTTLE_SIGN_IN", "300/h"),
    "sign_up": env_rate("THROTTLE_SIGN_UP", "100/h"),
    "guest": env_rate("THROTTLE_GUEST", "300/h"),
    "token": env_rate("THROTTLE_TOKEN", "60/h"),
    "upload": env_rate("THROTTLE_UPLOAD", "600/h"),
    "transfer": env_rate("THROTTLE_TRANSFER", "20000/h"),
    "submit": env_rate("THROTTLE_SUBMIT", "1000/h"),
    "search": env_rate("THROTTLE_SEARCH", "3000/10m"),
}
# What allauth counts its limits by; every process and machine must see the same.
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.db.DatabaseCache",
        "LOCATION": "cache",
        "KEY_FUNCTION": "hub_site.addresses.hidden_key",
        "OPTIONS": {"MAX_ENTRIES": 100_000},
    }
}

# --- language and time -------------------------------------------------------------------------
LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = True

# --- files -------------------------------------------------------------------------------------
STATIC_URL = "/static/"
STATIC_ROOT = VAR_DIR / "static"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}
WHITENOISE_USE_FINDERS = DEBUG
BLOB_DIR = Path(env_str("BLOB_DIR", str(VAR_DIR / "blobs")))
CACHE_DIR = Path(env_str("CACHE_DIR", str(VAR_DIR / "cache")))
# Under this address the proxy serves BLOB_DIR to our own answers alone: docs/deploy.md.
ACCEL_REDIRECT = env_str("ACCEL_REDIRECT")
if ACCEL_REDIRECT and not (ACCEL_REDIRECT.startswith("/") and ACCEL_REDIRECT.endswith("/")):
    raise BadSetting(f'ACCEL_REDIRECT is "{ACCEL_REDIRECT}". Write it like /_blobs/.')
# Where a worker on another machine gets its files: the site's address. Empty: it shares the disk.
FETCH_FROM = env_url("FETCH_FROM")
if FETCH_FROM and not (env_secret("DATABASE_URL") and env_secret("SECRET_KEY")):
    raise BadSetting(
        "FETCH_FROM makes this a worker on another machine than the site's, which needs the site's "
        "DATABASE_URL, BROKER_URL and SECRET_KEY. Set them, or leave FETCH_FROM out."
    )
MAX_FILE_BYTES = env_int("MAX_FILE_BYTES", 320_000_000)
MAX_MODULE_BYTES = env_int("MAX_MODULE_BYTES", 640_000_000)
USER_MAX_BYTES = env_int("USER_MAX_BYTES", 20_000_000_000)
USER_BYTES_A_DAY = env_int("USER_BYTES_A_DAY", 4_000_000_000)
USER_VERSIONS_A_DAY = env_int("USER_VERSIONS_A_DAY", 500)
# Uploads come in here as files without names: whatever breaks off is gone.
FILE_UPLOAD_TEMP_DIR = VAR_DIR / "tmp"
FILE_UPLOAD_HANDLERS = [
    "django.core.files.uploadhandler.MemoryFileUploadHandler",
    "modules.upload.receiving.NamelessFiles",
]
DATA_UPLOAD_MAX_MEMORY_SIZE = 2_621_440
DATA_UPLOAD_MAX_NUMBER_FIELDS = 2_000

# --- jobs --------------------------------------------------------------------------------------
CELERY_BROKER_URL = (
    with_password(env_secret("BROKER_URL"), env_secret("BROKER_PASSWORD"), of="BROKER")
    or "filesystem://"
)
BROKER_DIR = VAR_DIR / "broker"
JOB_LEASE_SECONDS = env_int("JOB_LEASE_MS", 30_000) / 1000
# A worker that freezes in the middle of a transaction keeps its job's row locked, and nobody could
# take the job over: PostgreSQL ends a connection that leaves a transaction alone for so long.
_options = DATABASES["default"]["OPTIONS"]
_options["options"] = " ".join(
    [
        *filter(None, [_options.get("options", "")]),
        f"-c idle_in_transaction_session_timeout={int(2_000 * JOB_LEASE_SECONDS)}",
    ]
)
JOB_HEARTBEAT_SECONDS = env_int("JOB_HEARTBEAT_MS", 7_000) / 1000
JOB_REAPER_SECONDS = env_int("JOB_REAPER_MS", 5_000) / 1000
JOB_REWAKE_SECONDS = env_int("JOB_REWAKE_MS", 10_000) / 1000
JOB_DEAF_SECONDS = env_int("JOB_DEAF_MS", 60_000) / 1000
# For so long a job is left to a free worker that has its base model loaded.
JOB_WARM_SECONDS = env_int("JOB_WARM_MS", 2_000) / 1000
# A long job gives way to a short one that no free worker took meanwhile.
JOB_GIVE_WAY_SECONDS = env_int("JOB_GIVE_WAY_MS", 300) / 1000
JOB_MAX_CRASHES = env_int("JOB_MAX_CRASHES", 4)
JOB_MAX_LOST = env_int("JOB_MAX_LOST", 8)
JOB_SCHEDULE = env_bool("JOB_SCHEDULE", True)
# The queues that a worker on this machine takes jobs from, "cpu" and "gpu"; empty: as it has them.
WORKER_QUEUES = env_list("WORKER_QUEUES", [])
if wrong := set(WORKER_QUEUES) - {"cpu", "gpu"}:
    raise BadSetting(f'WORKER_QUEUES names "{min(wrong)}". Set it to cpu, gpu or both.')
# Compositions on larger base models are left to workers with a GPU.
CPU_MAX_PARAMETERS = env_int("CPU_MAX_PARAMETERS", 1_500_000_000)
CHECK_MEMORY_BYTES = env_int("CHECK_MEMORY_BYTES", 1024 * 1024 * 1024, minimum=1 << 20)
CHECK_SECONDS = env_int("CHECK_SECONDS", 300, minimum=1)
# Beside what torch itself takes, before it reads a byte of a pickle.
CONVERT_MEMORY_BYTES = env_int("CONVERT_MEMORY_BYTES", 2 * 1024 * 1024 * 1024, minimum=1 << 20)
CONVERT_SECONDS = env_int("CONVERT_SECONDS", 300, minimum=1)
ENGINE_THREADS = env_int("ENGINE_THREADS", 0)  # 0: one for small models, else all

# --- limits ------------------------------------------------------------------------------------
MAX_BUDGET = env_int("MAX_BUDGET", 2_000)
USER_QUEUED_JOBS = env_int("USER_QUEUED_JOBS", 10)
USER_RUNNING_JOBS = env_int("USER_RUNNING_JOBS", 4, minimum=1)
USER_QUEUED_IMPORTS = env_int("USER_QUEUED_IMPORTS", 200)
GUEST_MAX_BUDGET = env_int("GUEST_MAX_BUDGET", 200)
GUEST_QUEUED_JOBS = env_int("GUEST_QUEUED_JOBS", 2)
GUEST_RUNNING_JOBS = env_int("GUEST_RUNNING_JOBS", 1, minimum=1)
GUESTS_QUEUED_JOBS = env_int("GUESTS_QUEUED_JOBS", 20)
GUEST_DAYS = env_int("GUEST_DAYS", 7)

# --- the programs' side ------------------------------------------------------------------------
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "hub_site.accounts.tokens.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["hub_site.api.ReadOrOwnWrite"],
    "DEFAULT_PAGINATION_CLASS": "hub_site.api.Pagination",
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["hub_site.api.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "hub_site.api.answer_error",
    "DEFAULT_THROTTLE_CLASSES": ["hub_site.api.Throttle"],
}
SPECTACULAR_SETTINGS = {
    "TITLE": "LoRA Commons",
    "DESCRIPTION": "Few-shot tasks in, composed adapters and verifiable recipes out.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "SCHEMA_PATH_PREFIX": r"/api/v1",
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "hub_site.api.document_errors",
    ],
}

# --- operating ---------------------------------------------------------------------------------
# Whoever sends this as a bearer token may see /metrics; without it, programs on this machine.
METRICS_TOKEN = env_secret("METRICS_TOKEN")
# /healthz is failing when no worker serves one of these queues, or when a disk is fuller than this.
EXPECT_QUEUES = env_list("EXPECT_QUEUES", ["cpu"])
if unheard := set(EXPECT_QUEUES) - {"cpu", "gpu", "store"}:
    raise BadSetting(f'EXPECT_QUEUES names "{min(unheard)}". Use cpu, gpu and store.')
DISK_LOW_BYTES = env_int("DISK_LOW_BYTES", 1_000_000_000)
# What is kept of jobs that have ended, in days: docs/operations.md says what goes then.
KEEP_CHECKPOINTS_DAYS = env_int("KEEP_CHECKPOINTS_DAYS", 30, minimum=1)
KEEP_SCORES_DAYS = env_int("KEEP_SCORES_DAYS", 90, minimum=1)
KEEP_EVENTS_DAYS = env_int("KEEP_EVENTS_DAYS", 30, minimum=1)
KEEP_SIDE_JOBS_DAYS = env_int("KEEP_SIDE_JOBS_DAYS", 30, minimum=1)

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": env_str("LOG_LEVEL", "INFO")},
    # A line a request to the Hub, and warnings of what is as it should be.
    "loggers": {"httpx2": {"level": "WARNING"}, "huggingface_hub": {"level": "ERROR"}},
}
