"""The bundled drawn world: scenes whose every attribute is known, their pictures and their captions."""
