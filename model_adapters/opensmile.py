"""eGeMAPS: 88 acoustic parameters of the voice, computed by the package opensmile."""

import numpy as np
import torch

from evar.adapter import Adapter
from evar.errors import UserError


class OpenSmile(Adapter):
    """The functionals of the extended Geneva minimalistic acoustic parameter set: 88-d.

    Eyben et al., "The Geneva minimalistic acoustic parameter set (GeMAPS) for voice research and
    affective computing", 2016. Computed clip by clip, on the CPU. A parameter that is undefined for
    a clip (such as the pitch of an unvoiced one) is 0. openSMILE's licence allows research and
    other non-commercial use only.
    """

    sample_rate = 16000
    embed_dim = 88
    TINY = None  # needs the optional package
    shortest = 960  # samples: 60 ms, the longest analysis window

    def __init__(self):
        super().__init__()
        try:
            import opensmile
        except ImportError as error:
            raise UserError(
                "opensmile needs the package of the same name, whose licence allows non-commercial "
                f"use only: pip install opensmile ({error})"
            ) from error
        self.smile = opensmile.Smile(
            feature_set=opensmile.FeatureSet.eGeMAPSv02,
            feature_level=opensmile.FeatureLevel.Functionals,
        )

    def embed(self, audio):
        rows = [self._functionals(clip) for clip in audio.float().cpu().numpy()]
        return torch.from_numpy(np.stack(rows)).to(audio.device)

    def _functionals(self, clip):
        """Computes the functionals of one clip: (S,) -> (88,) float32."""
        clip = np.pad(clip, (0, max(0, self.shortest - len(clip))))
        values = self.smile.process_signal(clip, self.sample_rate).to_numpy(np.float32)[0]
        return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
