"""A recipe: everything that changes how a pipeline runs, as data; and the pipeline that runs by it."""

from hasten.recipe.accelerated import Accelerated, accelerate
from hasten.recipe.recipe import FAMILIES, VERSION, Guidance, Recipe

__all__ = ["FAMILIES", "VERSION", "Accelerated", "Guidance", "Recipe", "accelerate"]
