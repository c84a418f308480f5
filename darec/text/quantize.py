"""Converts a GGUF model to safetensors with 8-bit linear layers, which are twice as fast as float32 on a CPU without
bfloat16.

The format is compressed-tensors W8A8: symmetric weights with one scale per output channel, and activations quantised
per token at run time. vLLM reads it on CPU and on GPU.
"""

import io
import json
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

_SCHEME = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True, "dynamic": False},
            "input_activations": {
                "num_bits": 8,
                "type": "int",
                "strategy": "token",
                "symmetric": True,
                "dynamic": True,
            },
        }
    },
}


def gguf_to_int8(source: Path, target: Path) -> None:
    """Writes the model in GGUF file `source` to folder `target`: config, tokenizer and 8-bit weights."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    # The conversion takes seconds, and a log file would get a line for each step of its progress bars. One of them can
    # only be disabled before tqdm is imported.
    disable_progress_bar()
    with redirect_stderr(io.StringIO()):
        model: Any = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)

    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    # The weights are dequantised now; transformers refuses to save a model that is marked as GGUF.
    del model.hf_quantizer, model.config.quantization_config
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)
    _quantize(target / "model.safetensors")
    config = target / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "quantization_config": _SCHEME}, indent=2))


def _quantize(path: Path) -> None:
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(path).items():
        if name.endswith("_proj.weight"):
            tensors[name], tensors[f"{name}_scale"] = symmetric_int8(tensor.float())
        else:
            tensors[name] = tensor
    save_file(tensors, path, metadata={"format": "pt"})


def symmetric_int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight [out, in] as int8 [out, in] and scale [out, 1], so that int8 * scale is within scale / 2 of it."""
    scale = weight.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 127
    return (weight / scale).round().to(torch.int8), scale
