"""The application object for gunicorn's workers; its settings come from the environment."""

from __future__ import annotations

from services.api.app import create_app
from services.api.settings import ApiSettings
from services.shared.settings import read_settings

app = create_app(read_settings(ApiSettings))
