"""RMN under transformers' own common tests: what every model, configuration and image processor there has to pass.

Left out, because they make no sense for a convolutional network:
- `test_model_get_set_embeddings` asks for token or patch embeddings; RMN's input is pixels.
- `test_hidden_states_output` and `test_retain_grad_hidden_states_attentions` count a transformer's layers and ask for
  hidden states of (sequence, width); the first is written anew here with RMN's count and shapes, the second passes.
- What the mixin leaves out by itself: attention (eager, SDPA, Flash Attention, flex), token and position embeddings,
  text generation, language modelling, mixtures of experts, rotary positions, tensor-parallel plans, gradient
  checkpointing (BatchNorm would be updated twice) and tests that need an accelerator. Of the slow ones, which only
  run with `RUN_SLOW=1`, `test_pil_can_run_without_torchvision` looks for the processor in transformers itself.
"""

import unittest

import pytest
import torch
from PIL import Image
from transformers_common import load

from rmn_hub import RMNBaseModel, RMNConfig, RMNImageProcessor, RMNModel

common_configuration, common_image_processing, common_modeling = load()
if not hasattr(common_image_processing, "ImageProcessingTester"):  # transformers before 5.10
    pytest.skip("Older versions of transformers' common tests are used in another way.", allow_module_level=True)


class RMNModelTester:
    """A small RMN and a batch for it, in the form that the common tests ask for."""

    batch_size = 3
    is_training = True

    def prepare_config_and_inputs_for_common(self):
        config = RMNConfig(
            image_size=32,
            stem="small",
            embedding_size=8,
            hidden_sizes=[8, 8, 16, 16],
            depths=[1, 1, 1, 1],
            mask_depths=[2, 1, 1, 1],
            mask_ratio=0.25,
        )
        return config, {"pixel_values": torch.rand(self.batch_size, 3, 32, 32)}


class RMNConfigTest(unittest.TestCase):
    def test_config(self):
        settings = {"image_size": 48, "stem": "small", "mask_depths": "auto", "depths": [2, 2, 2, 2], "dropout": 0.1}
        tester = common_configuration.ConfigTester(
            self, RMNConfig, has_text_modality=False, common_properties=["num_channels", "hidden_sizes"], **settings
        )
        tester.run_common_tests()


class RMNModelTest(common_modeling.ModelTesterMixin, unittest.TestCase):
    all_model_classes = (RMNModel, RMNBaseModel)
    has_attentions = False
    test_resize_embeddings = False

    def setUp(self):
        torch.manual_seed(0)
        self.model_tester = RMNModelTester()

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        # The mixin knows which models take labels from transformers' own lists.
        inputs_dict = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if return_labels and model_class is RMNModel:
            inputs_dict["labels"] = torch.zeros(self.model_tester.batch_size, dtype=torch.long)
        return inputs_dict

    @unittest.skip("RMN's input is pixels: it has no embeddings to get or set")
    def test_model_get_set_embeddings(self):
        pass

    def test_training(self):
        # The mixin knows which models have no loss from transformers' own lists.
        self.all_model_classes = (RMNModel,)
        super().test_training()

    def test_hidden_states_output(self):
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        shapes = [(3, width, size, size) for width, size in zip((8, 8, 16, 16), (16, 8, 4, 2)) for _ in range(2)]
        for config.output_hidden_states, asked in ((False, {"output_hidden_states": True}), (True, {})):
            outputs = RMNModel(config).eval()(**inputs, **asked)
            assert [tuple(state.shape) for state in outputs.hidden_states] == shapes


class RMNImageProcessingTester(common_image_processing.ImageProcessingTester):
    def __init__(self, parent, **kwargs):
        super().__init__(parent, size={"height": 18, "width": 18}, **kwargs)

    def _get_image_processing_classes(self):
        return {"pil": RMNImageProcessor, "torchvision": RMNImageProcessor}


class RMNImageProcessingTest(common_image_processing.ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = RMNImageProcessingTester
    test_cast_dtype = torch.float16

    @pytest.fixture(autouse=True)
    def _image(self, monkeypatch):
        # Two of the tests would download a photo.
        image = Image.linear_gradient("L").resize((64, 48)).convert("RGB")
        monkeypatch.setattr(common_image_processing, "load_test_image", lambda url: image)
