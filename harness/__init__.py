"""Everything around the model: run it, call it, check it and ship it. Never inside the image."""
