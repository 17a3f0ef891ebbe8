"""Tests of the scoring engine, on simulated time and scripted answers."""
