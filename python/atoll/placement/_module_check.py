"""Makes modules check their loop: what a provider constructs is of a subclass that refuses to be touched elsewhere.

The subclass has the names of the module's own class, and so its `repr` and its errors; it is made once per module, when
that is created. What it does is native: `atoll._core.ModuleCheck`.
"""

import logging
from typing import Any, Final

from atoll._core import ModuleCheck, ModuleHome, ModuleReadCheck, plain_attributes
from atoll.loop import IoContext

_logger = logging.getLogger("atoll.placement")

# By these, inspect and the error messages of Python find a class.
_ITS_OWN: Final = ("__module__", "__qualname__", "__doc__", "__firstlineno__")


def checked_class(module: type, io_context: IoContext) -> type:
    """A class like `module` whose instances may be touched on `io_context` only.

    Where none can be made it is `module` itself, and a debug entry says why.
    """
    reads_plainly, sets_plainly = plain_attributes(module)
    if not reads_plainly:
        return _unchecked(module, "its class reads attributes in a way of its own (__getattribute__)")
    if not sets_plainly:
        _logger.debug("what others set on %s is not checked: it has a __setattr__ of its own", module.__qualname__)
    home = ModuleHome(io_context, module)
    names = {name: value for name, value in vars(module).items() if name in _ITS_OWN}
    names |= {"__slots__": (), "__atoll_home__": home}
    make: Any = type(module)
    try:
        made: type = make(module.__name__, (ModuleCheck if sets_plainly else ModuleReadCheck, module), names)
    except Exception as problem:  # noqa: BLE001 - a metaclass may refuse for any reason
        return _unchecked(module, f"it can't be derived from: {problem!r}")
    home.move_in(made)
    return made


def _unchecked(module: type, reason: str) -> type:
    _logger.debug("%s does not check its loop: %s", module.__qualname__, reason)
    return module
