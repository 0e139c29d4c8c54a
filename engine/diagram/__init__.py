"""Computations as graphs: boxes and arrows from the record, folded to any depth, forward beside backward."""
from engine.diagram.graph import Graph, graph
from engine.diagram.measure import observe

__all__ = ["Graph", "graph", "observe"]
