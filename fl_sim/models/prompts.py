"""Visual prompt tuning: learned tokens beside those of an image, in front of frozen blocks."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fl_sim.core.errors import FieldError


class Prompted(nn.Module):
    """Frozen blocks that see learned tokens, the prompts, beside those of the image.

    The prompts are drawn uniformly in ±sqrt(3 / width), as in the paper's code for patches of 16
    pixels and a width of 768. They are put behind the other tokens, and taken out of the output:
    attention has no order, so that the place does not matter (section 3.2).

    Source: Jia et al. (2022), Visual Prompt Tuning, section 3.2, https://arxiv.org/abs/2203.12119.

    Attributes:
        blocks: The blocks.
        prompts: The prompts, `[number, width]`.
    """

    def __init__(self, blocks: nn.Module, num_prompts: int, width: int) -> None:
        """Freeze `blocks`, and draw prompts from torch's global generator."""
        super().__init__()
        self.blocks = blocks.requires_grad_(False)
        bound = (3 / width) ** 0.5
        self.prompts = nn.Parameter(torch.empty(num_prompts, width).uniform_(-bound, bound))

    def forward(self, tokens: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        """Return the blocks' outputs at the places of the given tokens."""
        prompts = self.prompts.expand(len(tokens), -1, -1)
        output: Tensor = self.blocks(torch.cat([tokens, prompts], 1))
        return output[:, : tokens.shape[1]]


def add_prompts(
    blocks: Sequence[nn.Module], tokens: Float[Tensor, "n ..."], num_prompts: int, deep: bool
) -> nn.Sequential:
    """Return frozen blocks with prompts.

    Args:
        blocks: The blocks, in order; a last one that pools tokens gets no prompts.
        tokens: Inputs of the first one, for a batch of two images.
        num_prompts: Number of prompts.
        deep: Whether each block has prompts of its own (VPT-deep), instead of prompts in front of
            the first that go through all (VPT-shallow).

    Raises:
        FieldError: If the blocks do not pass on tokens, or only a fixed number of them.
    """
    allowed = "another part: prompts are for networks whose blocks pass on"
    if tokens.dim() != 3 or len(tokens) != 2:
        shape = f"those of this one pass on {list(tokens.shape)} for two images"
        raise FieldError("model.tune", f"{allowed} [images, tokens, width]; {shape}", "prompt")
    with torch.no_grad():
        pools = nn.Sequential(*blocks).eval()(tokens).dim() == 2  # the last one, by attention
    pooling = blocks[-1:] if pools and len(blocks) > 1 else []
    inner = blocks[: len(blocks) - len(pooling)]
    units = inner if deep else [nn.Sequential(*inner)]
    prompted = nn.Sequential(*(Prompted(unit, num_prompts, tokens.shape[2]) for unit in units))
    try:
        with torch.no_grad():
            output = prompted.eval()(tokens)
        cause = f"those of this one return {list(output.shape)} for {list(tokens.shape)}"
        fits = output.shape == tokens.shape
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        fits, cause = False, f"this one fails: {' '.join(str(error).split())[:120]}"
    if not fits:
        raise FieldError("model.tune", f"{allowed} any number of tokens ({cause})", "prompt")
    frozen = [block.requires_grad_(False) for block in pooling]
    return nn.Sequential(*prompted, *frozen).train()
