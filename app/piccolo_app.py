"""The tables, and the top-level folder that holds their migrations."""

from pathlib import Path

from piccolo.conf.apps import AppConfig

import migrations
from app.tables import Entity, Event, Media, Person, Profile, Session, UploadSession, UserAccount, Variant

APP_NAME = "heirloom"

APP_CONFIG = AppConfig(
    app_name=APP_NAME,
    migrations_folder_path=str(Path(migrations.__path__[0])),
    table_classes=[UserAccount, Session, Entity, Person, Profile, Media, UploadSession, Variant, Event],
)
