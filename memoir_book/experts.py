"""What transformers leaves out of 4 bit: the experts of a mixture. Importing this mends it."""

from typing import Any

import torch
from bitsandbytes.functional import quantize_4bit
from bitsandbytes.nn.parametrize import replace_parameter_4bit_prequantized
from transformers.integrations.bitsandbytes import Bnb4bitQuantize
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer


class ExpertQuantizer(Bnb4BitHfQuantizer):
    """bitsandbytes' 4 bit for experts, too: transformers leaves them, 3-D parameters, in 16 bit."""

    def param_needs_quantization(self, model: Any, param_name: str, **kwargs: Any) -> bool:
        ready = super().param_needs_quantization(model, param_name, **kwargs)
        expert = "experts." in param_name and model.get_parameter_or_buffer(param_name).ndim == 3
        return ready or expert

    def get_quantize_ops(self) -> Any:
        self.states: dict[str, Any] = getattr(self, "states", {})  # scales of the experts
        return _PackExperts(self)

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        for name, state in getattr(self, "states", {}).items():
            module, _, parameter = name.rpartition(".")
            where = model.get_submodule(module), parameter, state.as_dict(packed=True)
            replace_parameter_4bit_prequantized(*where, model.get_parameter(name).device)
        return super()._process_model_after_weight_loading(model, **kwargs)


class _PackExperts(Bnb4bitQuantize):
    def convert(self, input_dict: dict, *args: Any, **kwargs: Any) -> dict:
        ((name, value),) = input_dict.items()
        value = value[0] if isinstance(value, list) else value
        if value.ndim != 3:
            return super().convert(input_dict, *args, **kwargs)
        packed, state = quantize_4bit(value, compress_statistics=True, quant_type="nf4")
        self.hf_quantizer.states[name] = state
        return {name: torch.nn.Parameter(packed, requires_grad=False)}


AUTO_QUANTIZER_MAPPING["bitsandbytes_4bit"] = ExpertQuantizer


def four_bit_share(model: Any) -> float:
    """Share of the weights in the decoder's layers that are held in 4 bit (two in each byte)."""
    sizes = {True: 0, False: 0}
    for weight in model.get_decoder().layers.parameters():
        packed = weight.dtype == torch.uint8
        sizes[packed] += weight.numel() * (1 + packed)
    return sizes[True] / sum(sizes.values())
