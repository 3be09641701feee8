"""Images and labels; nothing here knows a model."""
