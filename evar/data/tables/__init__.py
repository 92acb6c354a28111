"""Reads the tables that people have: of spreadsheets, annotation programs and other scripts."""
