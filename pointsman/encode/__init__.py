"""Encoders: prompt in, context vector out."""
