"""Prompts in miniature: what the scene classifier sees in a picture, held against what a prompt asks for."""
