"""In what precision a run's forward passes are computed, those of training and those of the probe."""

import torch
from transformers import TrainerCallback


class Forwards(TrainerCallback):
    """Notes how layer 4's first projection runs: autocast dtype or None, dtypes of its weight and of its input."""

    def __init__(self):
        self.seen = {}

    def on_init_end(self, args, state, control, model=None, **kwargs):
        def look(module, args):
            weight = next(iter(module._parameters.values()))  # not by name: ZeRO-3 would gather it
            autocast = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
            how = [str(autocast), str(weight.dtype), str(args[0].dtype)]
            seen = self.seen.setdefault("training" if module.training else "probe", [])
            if how not in seen:
                seen.append(how)

        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        projection = base.model.layers[3].self_attn.q_proj
        getattr(projection, "base_layer", projection).register_forward_pre_hook(look)
