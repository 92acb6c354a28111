"""Data sets, one file each: a `TASK` literal and how its own metadata are read."""
