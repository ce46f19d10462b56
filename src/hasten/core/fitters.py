"""Who fits a method to a model: one function a class, found by the class of what is to be fitted."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, TypeVar

from hasten.core.errors import HastenError

Function = TypeVar("Function", bound=Callable[..., Any])


class Fitters:
    """Functions that fit a method (a solver, a grid, a start, an acceleration) to a model, by the method's class.

    A method lies above the code that fits it, so `method.fit(...)` asks here, and the room that holds that code is
    imported when somebody first asks.

    home: the room whose modules list their functions here.
    """

    def __init__(self, home: str) -> None:
        self.home = home
        self._functions: dict[type, Callable[..., Any]] = {}

    def of(self, cls: type) -> Callable[[Function], Function]:
        """List a function `(method, *model_and_samples, **settings) -> method` for a class; a decorator."""

        def listed(function: Function) -> Function:
            self._functions[cls] = function
            return function

        return listed

    def get(self, cls: type) -> Callable[..., Any] | None:
        """The function for a class or the nearest of its bases, or None if nothing of it can be fitted."""
        importlib.import_module(self.home)
        return next((self._functions[base] for base in cls.__mro__ if base in self._functions), None)

    def __call__(self, method: Any, *args: Any, **settings: Any) -> Any:
        """`method`, fitted. Raises HastenError if there is nothing to fit in it."""
        function = self.get(type(method))
        if function is None:
            raise HastenError(f"{method.name}: has nothing that could be fitted")
        return function(method, *args, **settings)


fitters = Fitters("hasten.fit")
