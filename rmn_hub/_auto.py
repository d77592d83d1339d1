"""transformers' Auto classes learn about RMN, without importing transformers for those who do not use it."""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
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
    from .model.modeling_rmn import RMNBackbone, RMNForImageClassification, RMNModel

    auto.AutoModel.register(RMNConfig, RMNModel, exist_ok=True)
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
        self.loader.exec_module(module)
        # What the module sees of itself is what it would without this loader.
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.registration(module)


class _RegisteringFinder(MetaPathFinder):
    """Step in when one of transformers' Auto modules is imported for the first time."""

    def __init__(self) -> None:
        self.waiting = dict(_REGISTRATIONS)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        registration = self.waiting.pop(fullname, None)
        if registration is None:
            return None
        if not self.waiting and self in sys.meta_path:
            sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader, registration)
        return spec


def register() -> None:
    """Register RMN with those Auto modules that are imported already, and with the others once they are."""
    finder = _RegisteringFinder()
    for name, registration in _REGISTRATIONS.items():
        if name in sys.modules:
            finder.waiting.pop(name)
            registration(sys.modules[name])
    if finder.waiting:
        sys.meta_path.insert(0, finder)


__all__ = ["register"]
