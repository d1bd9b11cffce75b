"""Knowledge distillation onto any student, plain or compressed.

To add a method, write a file here with a subclass of :class:`TeacherStudent` under ``@DISTILLERS.register(name)``, and
import it below.
"""

from shapeshift.distill.base import DISTILLERS, Distiller, TeacherStudent
from shapeshift.distill.kd import KD
from shapeshift.distill.ofd import OFD
from shapeshift.distill.srrl import SRRL
from shapeshift.distill.weighted_sum import WeightedSum

__all__ = ["DISTILLERS", "KD", "OFD", "SRRL", "Distiller", "TeacherStudent", "WeightedSum"]
