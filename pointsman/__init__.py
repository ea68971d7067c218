"""Causal LLM routing: learn from one-arm logs which model should answer each prompt, and prove it first."""
