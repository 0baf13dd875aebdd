"""A model and prompts in, a reading out."""

from .measure_table import MEASURES, View
from .probe import Probe

__all__ = ["MEASURES", "Probe", "View"]
