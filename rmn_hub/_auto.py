"""Register RMN with transformers' Auto classes, without importing transformers for those who do not use it."""

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from itertools import dropwhile
from types import ModuleType


def _register_configuration(auto: ModuleType) -> None:
    from .model.configuration_rmn import RMNConfig

    auto.AutoConfig.register("rmn", RMNConfig, exist_ok=True)


def _register_image_processor(auto: ModuleType) -> None:
    from .model.configuration_rmn import RMNConfig
    from .model.image_processing_rmn import RMNImageProcessor

    # One class for both backends: with "pil" alone every first load would warn that there is no torchvision version.
    classes = {"pil": RMNImageProcessor, "torchvision": RMNImageProcessor}
    auto.AutoImageProcessor.register(RMNConfig, image_processor_classes=classes, exist_ok=True)


def _register_models(auto: ModuleType) -> None:
    from .model.configuration_rmn import RMNConfig
    from .model.modeling_rmn import RMNBackbone, RMNBaseModel, RMNForImageClassification

    auto.AutoModel.register(RMNConfig, RMNBaseModel, exist_ok=True)
    auto.AutoModelForImageClassification.register(RMNConfig, RMNForImageClassification, exist_ok=True)
    auto.AutoBackbone.register(RMNConfig, RMNBackbone, exist_ok=True)


_REGISTRATIONS: dict[str, Callable[[ModuleType], None]] = {
    "transformers.models.auto.configuration_auto": _register_configuration,
    "transformers.models.auto.image_processing_auto": _register_image_processor,
    "transformers.models.auto.modeling_auto": _register_models,
}


class _RegisteringLoader(Loader):
    """Load a module of transformers as its own loader does, then register RMN with it."""

    def __init__(self, loader: Loader, registration: Callable[[ModuleType], None]) -> None:
        self.loader, self.registration = loader, registration

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # The module sees of itself what it would see without this loader.
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        _register(self.registration, module)


class _RegisteringFinder(MetaPathFinder):
    """Step in whenever one of transformers' Auto modules is imported: the first time, after a failure, on a reload."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        registration = _REGISTRATIONS.get(fullname)
        if registration is None:
            return None
        # Only those that come later: one that comes earlier may be asking this one right now.
        later = [*dropwhile(lambda finder: finder is not self, sys.meta_path)][1:]
        specs = (finder.find_spec(fullname, path, target) for finder in later)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader, registration)
        return spec


def _register(registration: Callable[[ModuleType], None], auto: ModuleType) -> None:
    try:
        registration(auto)
    except ImportError as error:
        # It must not break transformers' own import. Without torch, there is no RMN to register.
        if error.name != "torch":
            warnings.warn(f"RMN cannot be registered with {auto.__name__}: {error}", RuntimeWarning, stacklevel=2)


def _is_ours(finder: object) -> bool:
    # By name: after this module was imported a second time, its first finder has another class.
    kind = type(finder)
    return (kind.__module__, kind.__qualname__) == (__name__, _RegisteringFinder.__qualname__)


def register() -> None:
    """Register RMN with those Auto modules that are imported already, and with the others once they are."""
    sys.meta_path[:] = [_RegisteringFinder(), *(finder for finder in sys.meta_path if not _is_ours(finder))]
    for name, registration in _REGISTRATIONS.items():
        if name in sys.modules:
            # Not sys.modules[name]: another thread may be in the middle of its import, for which this waits.
            _register(registration, import_module(name))


__all__ = ["register"]
