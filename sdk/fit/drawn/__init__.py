"""What a fit lets the plain base model draw before its first step."""
