"""Where Piccolo looks for the engine and the tables. The engine connects when a process's wiring opens it."""

from piccolo.conf.apps import AppRegistry

from app.db import HeirloomEngine

DB = HeirloomEngine()

APP_REGISTRY = AppRegistry(apps=["app.piccolo_app"])
