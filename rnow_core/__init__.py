"""The engine: importing it must stay cheap."""
