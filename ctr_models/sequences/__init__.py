"""Past behaviour of users in click models: search in long histories, target attention, encoders, patterns."""
